import pytest
from helpers.drift import DriftEnv

import sb3_multitask as mt
from sb3_multitask.tasks import resolve_tasks


def test_the_papers_six_in_the_papers_order():
    tasks = mt.TASK_SETS["HalfCheetahBody6"]
    assert [t.name for t in tasks] == [
        "SmallFoot",
        "BigFoot",
        "SmallLeg",
        "SmallThigh",
        "SmallTorso",
        "BigTorso",
    ]
    assert all(t.env_id == f"HalfCheetah{t.name}-v0" for t in tasks)


def test_a_bare_id_is_named_by_its_id():
    assert resolve_tasks("HalfCheetahBigLeg-v0") == (mt.Task("HalfCheetahBigLeg-v0", "HalfCheetahBigLeg-v0"),)


def test_ids_and_tasks_mix_in_the_given_order():
    heavy = mt.Task("heavy", DriftEnv, {"scale": 2.0})
    assert [t.name for t in resolve_tasks([heavy, "Hopper-v5"])] == ["heavy", "Hopper-v5"]
    assert [t.name for t in resolve_tasks(["HalfCheetahBody6", heavy])][-2:] == ["BigTorso", "heavy"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("HalfCheetahBdy6", "Did you mean 'HalfCheetahBody6'"),
        ("HalfCheetahSmalFoot-v0", "Did you mean 'HalfCheetahSmallFoot-v0'"),
        (["Hopper-v5", "Hopper-v5"], "unique .*Hopper-v5"),
        ([], "at least one task"),
        ([mt.Task("a", DriftEnv), mt.Task("a", DriftEnv)], "unique .*: a"),
        ([mt.Task("walks", "Hoper-v5")], "Did you mean 'Hopper-v5'"),
    ],
)
def test_bad_tasks_are_refused_with_what_is_known(tasks, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks(tasks)


def test_entries_of_the_wrong_type_are_refused():
    with pytest.raises(TypeError, match="Gymnasium id or a Task .*got 3"):
        resolve_tasks([3])
    with pytest.raises(TypeError, match="`env_id` of task 'a'"):
        mt.Task("a", 3)
    with pytest.raises(TypeError, match="`name` of a task"):
        mt.Task(3, "Hopper-v5")


@pytest.mark.parametrize("name", ["", "  ", "two\nlines"])
def test_names_are_one_visible_line(name):
    with pytest.raises(ValueError, match="non-empty, printable"):
        mt.Task(name, "Hopper-v5")


def test_a_factory_that_raises_or_returns_nonsense_is_named():
    def broken():
        raise OSError("no such robot")

    with pytest.raises(RuntimeError, match="Task 'arm'.*no such robot") as error:
        mt.Task("arm", broken).make()
    assert isinstance(error.value.__cause__, OSError)
    with pytest.raises(RuntimeError, match="Task 'arm'.*returned int"):
        mt.Task("arm", lambda: 3).make()

"""What the layers above a backend are told of a step: whose episode ended, found once."""

import copy
import operator
import pickle
from functools import partial

import numpy as np
import pytest
from helpers.drift import drift_tasks
from helpers.faulty import make

import sb3_multitask as mt
from sb3_multitask.vec_env.infos import ColumnInfos, JoinedInfos, StepInfos, ended_rows


def stepped(env, n_steps=20):
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        yield env.step(rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32))
    env.close()


SHORT = {"max_episode_steps": 7}
ALIKE = [mt.Task("A", "Hopper-v5", SHORT), mt.Task("B", "Hopper-v5", {"max_episode_steps": 9})]
OTHERWISE = [ALIKE[0], mt.Task("B", "Hopper-v5", {**SHORT, "frame_skip": 2})]  # two groups of simulations


@pytest.mark.parametrize("wrap", [lambda env: env, mt.TaskCyclingVecEnv, mt.MultiTaskVecNormalize])
@pytest.mark.parametrize(
    ("tasks", "kwargs"),
    [
        (drift_tasks(2), {"backend": "dummy"}),
        (drift_tasks(2), {"backend": "subproc", "start_method": "fork"}),
        pytest.param(ALIKE, {"backend": "batch"}, marks=pytest.mark.native),
        pytest.param(OTHERWISE, {"backend": "batch"}, marks=pytest.mark.native),
    ],
)
def test_infos_of_every_backend_know_the_rows_that_ended(tasks, kwargs, wrap):
    n_ends = 0
    for _, _, dones, infos in stepped(wrap(mt.MultiTaskVecEnv(tasks, 2, seed=0, **kwargs))):
        assert infos.ended == ended_rows(dones, infos) == dones.nonzero()[0].tolist()
        assert [i for i, info in enumerate(infos) if "terminal_observation" in info] == infos.ended
        n_ends += len(infos.ended)
    assert n_ends


def test_quarantined_rows_are_among_those_that_ended():
    env = make("nan_obs", on_fault="quarantine")
    assert any("fault" in infos[i] for _, _, _, infos in stepped(env) for i in infos.ended)


def test_infos_of_others_leave_it_to_dones():
    dones = np.array([False, True, True])
    assert ended_rows(dones, [{}, {}, {}]) == [1, 2]
    infos = StepInfos([{}, {}, {}], [1, 2])
    assert ended_rows(dones, infos) is infos.ended
    dones[0] = True  # by a wrapper
    assert ended_rows(dones, infos) == [0, 1, 2]


def parts():
    return [
        ColumnInfos(2, lambda: {"x": np.arange(2)}, [1]),
        StepInfos([{"x": 2}], []),
        ColumnInfos(2, lambda: {"x": np.arange(3, 5)}, [0, 1]),
    ]


def test_joined_infos_are_those_of_their_parts_and_made_when_looked_at():
    own = parts()
    infos = JoinedInfos(own)
    assert (len(infos), infos.ended) == (5, [1, 3, 4])
    assert infos[3] is own[2][0]
    assert infos[-1]["x"] == 4
    assert [info["x"] for info in infos] == [0, 1, 2, 3, 4]
    assert [info["x"] for info in [{"x": 9}] + JoinedInfos(parts())] == [9, 0, 1, 2, 3, 4]  # noqa: RUF005


def test_a_part_that_nobody_looks_at_is_not_made():
    def fail():
        raise AssertionError

    infos = JoinedInfos([ColumnInfos(2, fail, []), ColumnInfos(1, lambda: {"x": np.ones(1)}, [])])
    assert infos[2] == {"x": 1.0, "TimeLimit.truncated": False}


def append(infos):
    infos.append({"x": 9})


def replace_two(infos):
    infos[:2] = [{"x": 9}]


def delete_first(infos):
    del infos[0]


def add_in_place(infos):
    infos += [{"x": 9}]


PLAIN = [{"x": i, "TimeLimit.truncated": False} for i in range(3)]
LIST_OPERATIONS = [
    *(append, replace_two, delete_first, add_in_place),
    *(repr, lambda infos: infos == PLAIN, lambda infos: infos != PLAIN, partial(operator.eq, PLAIN)),
    *(lambda infos: PLAIN[1] in infos, lambda infos: infos.index(PLAIN[1]), lambda infos: infos.count(PLAIN[1])),
    *(lambda infos: infos.pop(), lambda infos: infos.pop(0), lambda infos: infos.remove(PLAIN[1])),
    *(lambda infos: infos.insert(1, {"x": 9}), lambda infos: infos.extend([{"x": 9}]), lambda infos: infos.reverse()),
    *(lambda infos: infos * 2, lambda infos: 2 * infos, lambda infos: infos[1:], lambda infos: infos[-1]),
    *(lambda infos: infos.sort(key=lambda info: -info["x"]), lambda infos: infos.clear()),
    lambda infos: infos.__setitem__(-1, {"x": 9}),
]


@pytest.mark.parametrize("operation", LIST_OPERATIONS)
@pytest.mark.parametrize("read", [(), (1,), (0, 1, 2)])
def test_infos_that_nobody_has_read_are_those_of_a_list(operation, read):
    lazy = ColumnInfos(3, lambda: {"x": [0, 1, 2]}, [1])
    plain = copy.deepcopy(PLAIN)
    assert [lazy[i] for i in read] == [plain[i] for i in read]
    assert operation(lazy) == operation(plain)
    assert list(lazy) == plain
    assert all(lazy[i] == info for i, info in enumerate(plain))


def test_infos_that_nobody_has_read_are_equal_to_others():
    assert ColumnInfos(2, lambda: {"x": [0, 1]}, []) == ColumnInfos(2, lambda: {"x": [0, 1]}, [])
    assert ColumnInfos(2, lambda: {"x": [0, 1]}, []) != ColumnInfos(2, lambda: {"x": [0, 2]}, [])


def test_what_is_written_into_an_info_is_in_no_other():
    infos = [ColumnInfos(2, lambda: {"x": [0, 1]}, []) for _ in range(2)]
    infos[0].pop()["mine"] = infos[0][0]["mine"] = True
    assert not any("mine" in info for info in infos[1])
    assert "mine" not in infos[1].pop()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda infos: pickle.loads(pickle.dumps(infos))])
@pytest.mark.parametrize("infos", [JoinedInfos(parts()), StepInfos([{"x": 1}, {"x": 2}], [1])])
def test_a_copy_is_a_plain_list(infos, copied):
    assert type(copied(infos)) is list
    assert copied(infos) == list(infos)

"""Tasks that are learned one after the other: results after each task, their matrices, and reports by hand."""

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import sb3_multitask as mt
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.experiments.milestones import TurnCallback
from sb3_multitask.experiments.report import write_report
from sb3_multitask.experiments.report.collect import read_runs
from sb3_multitask.experiments.report.in_turn import learned_in_turn
from sb3_multitask.experiments.report.in_turn_tables import in_turn_tables
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.task_schedules import TaskSequence

TASKS = {"a": "Hopper-v5", "b": "HopperBigFoot-v0", "c": "HopperSmallLeg-v0"}
MATRIX = [[0, 1, 2], [10, 2, 1], [7, 20, 4], [3, 25, 30]]
"""Returns on a, b and c before training and after a, b and c; of seed 0."""
SMALL = {"n_envs_per_task": 2, "n_eval_episodes": 1, "eval_episodes": 1, "eval_freq": 0}
GRID = Path(__file__).parents[1] / "zoo_configs" / "forgetting_grid.yml"


def write(root, name, results, curves=None, seeds=(0,), **settings):
    """Finished runs with returns by stage; every seed has 100 more."""
    for seed in seeds:
        folder = RunFolder(root / "p" / name / f"seed_{seed}")
        folder.path.mkdir(parents=True)
        settings_of_seed = {
            key: value.replace("SEED", str(seed)) if isinstance(value, str) else value
            for key, value in settings.items()
        }
        dump_config(TrainConfig(seed=seed, **settings_of_seed), folder.config)
        folder.write_results(
            **{
                stage: {task: TaskResult.of([(value + 100.0 * seed, 10)]) for task, value in by_task.items()}
                for stage, by_task in results.items()
            }
        )
        folder.write_status("finished")
        if curves:
            names, (steps, values) = list(curves), next(iter(curves.values()))
            arrays = np.array([of_task[1] for of_task in curves.values()], dtype=float).T[:, :, None]
            assert all(of_task[0] == steps for of_task in curves.values())
            assert len(values) == len(steps)
            np.savez(folder.evaluations, timesteps=np.array(steps), task_results=arrays, task_names=np.array(names))


def rows(stages, names="abc"):
    return {stage: dict(zip(names, row, strict=True)) for stage, row in zip(stages, MATRIX, strict=True)}


def write_chain(root, seeds=(0,), also=lambda name: [other for other in TASKS if other != name], **settings):
    for i, name in enumerate(TASKS):
        before = list(TASKS)[i - 1]
        known = [name, *also(name)]
        results = {
            stage: {task: value for task, value in zip("abc", MATRIX[i + j], strict=True) if task in known}
            for j, stage in enumerate(("before", "after"))
        }
        begins = (
            {"init_from": str(root / "p" / f"last_{before}" / "seed_SEED"), "init_tasks": {name: before}} if i else {}
        )
        write(
            *(root, f"last_{name}", results),
            seeds=seeds,
            tasks={name: TASKS[name]},
            also_on={other: TASKS[other] for other in also(name)},
            n_timesteps=1000,
            **begins,
            **(settings if i else {}),
        )


def tables_of(root):
    return {table.name: table for table in in_turn_tables(read_runs(root)[0], "p")}


# Reports


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"task_schedule": {"sequence": {}}}, "a head for each task"),
        ({"task_schedule": {"sequence": {}}, "policy_kwargs": {"share": "progressive"}}, "a column for each task"),
        ({"sequential": True}, "one head"),
    ],
    ids=["heads", "progressive", "sequential"],
)
def test_a_run_in_turn_has_a_matrix_with_forgetting_and_transfer(tmp_path, settings, how):
    write(tmp_path, "run", rows(["before", "after_1", "after_2", "after"]), tasks=TASKS, **settings)
    tables = tables_of(tmp_path)
    assert list(tables) == ["run_p", "run_p_matrix"]
    assert how in tables["run_p"].title
    matrix = tables["run_p_matrix"]
    assert matrix.header == ["after learning", "a", "b", "c"]
    assert [row[0] for row in matrix.rows] == ["nothing", "a", "b", "c"]
    assert [[float(cell.split()[0]) for cell in row[1:]] for row in matrix.rows] == MATRIX
    measures = {row[0].split(",")[0] + row[0].split(",")[1]: row[1] for row in tables["run_p"].rows[4:]}
    assert measures == {
        "forgetting mean over all but the last": "1 (1 seed)",  # 10 to 3 and 20 to 25
        "backward transfer mean over all but the last": "-1 (1 seed)",
        "forward transfer zero-shot": "2 (1 seed)",  # 1 to 2 and 2 to 4: 1.5
    }
    assert tables["run_p"].rows[1] == ["b", "2 (1 seed)", "20 (1 seed)", "25 (1 seed)"]


def test_phases_are_in_the_order_of_the_sequence(tmp_path):
    schedule = {"sequence": {"tasks": ["c", "a"]}}
    results = {
        "before": {"a": 1, "b": 2, "c": 3},
        "after_1": {"a": 4, "b": 5, "c": 6},
        "after": {"a": 7, "b": 8, "c": 9},
    }
    write(tmp_path, "run", results, tasks=TASKS, task_schedule=schedule)
    (learned,) = learned_in_turn(read_runs(tmp_path)[0], "p")
    assert learned.task_names == ("c", "a")
    assert learned.matrix.tolist() == [[[6, 4], [9, 7]]]
    assert learned.untrained.tolist() == [[3, 1]]


def test_budgets_at_the_ends_of_tasks_are_a_matrix_too(tmp_path):
    settings = {"tasks": TASKS, "task_schedule": {"sequence": {}}, "n_timesteps": 3000}
    write(tmp_path, "run", rows(["before", "1000", "2000", "after"]), report_at=(2000, 1000, 3000), **settings)
    (learned,) = learned_in_turn(read_runs(tmp_path)[0], "p")
    assert learned.matrix[0].tolist() == MATRIX[1:]


def test_a_chain_of_runs_has_the_matrix_of_one_head(tmp_path):
    write_chain(tmp_path, seeds=(0, 1), freeze="all_but_last")
    (learned,) = learned_in_turn(read_runs(tmp_path)[0], "p")
    assert (learned.name, learned.steps) == ("last_c", 3000)
    assert learned.how == "one head, a run for each task, freeze: all_but_last"
    assert learned.matrix[0].tolist() == MATRIX[1:]
    assert learned.matrix[1].tolist() == (np.array(MATRIX[1:]) + 100).tolist()
    assert learned.untrained[0].tolist() == MATRIX[0]
    assert list(tables_of(tmp_path)) == ["last_c_p", "last_c_p_matrix"]


def test_runs_that_do_not_evaluate_all_tasks_are_no_chain(tmp_path):
    write_chain(tmp_path, also=lambda name: ["a"] if name != "a" else [])
    assert learned_in_turn(read_runs(tmp_path)[0], "p") == []


def test_the_area_is_between_a_turn_and_the_task_alone(tmp_path):
    """Turns of 100 steps. In its turn c has 8 after 50 steps and 30 after 100; alone it has 4 and 10."""
    steps = [50, 100, 150, 200, 250, 300]
    curves = {
        "a": (steps, [5, 10, 9, 7, 4, 3]),
        "b": (steps, [1, 2, 12, 20, 22, 25]),
        "c": (steps, [2, 1, 3, 4, 8, 30]),
    }
    settings = {"tasks": TASKS, "task_schedule": {"sequence": {}}, "n_timesteps": 300}
    write(tmp_path, "run", rows(["before", "after_1", "after_2", "after"]), curves, **settings)
    for name, values in {"b": [2, 6], "c": [4, 10]}.items():
        alone = {"tasks": {name: TASKS[name]}, "n_timesteps": 100}
        write(
            tmp_path, f"{name}_alone", {"before": {name: 0}, "after": {name: 9}}, {name: ([50, 100], values)}, **alone
        )
    (learned,) = learned_in_turn(read_runs(tmp_path)[0], "p")
    assert learned.areas.tolist() == [[((12 - 2) + (20 - 6)) / 2, ((8 - 4) + (30 - 10)) / 2]]
    assert tables_of(tmp_path)["run_p"].rows[-1][:2] == [
        "forward transfer, area, mean over all but the first",
        "12 (1 seed)",
    ]


def test_ways_to_learn_the_same_tasks_are_in_one_table(tmp_path):
    write(
        tmp_path, "heads", rows(["before", "after_1", "after_2", "after"]), tasks=TASKS, task_schedule={"sequence": {}}
    )
    write_chain(tmp_path)
    at_once = {"before": dict.fromkeys("abc", 0), "after": {"a": 1, "b": 2, "c": 6}}
    write(tmp_path, "vanilla", at_once, tasks=dict(reversed(TASKS.items())))
    write(tmp_path, "student", at_once, tasks=TASKS, teachers=dict.fromkeys(TASKS, "pretrained:x"), n_timesteps=500)
    write(tmp_path, "others", at_once, tasks={"a": "Hopper-v5", "b": "Hopper-v5", "c": "Hopper-v5"})
    report = tmp_path / "report"
    write_report(tmp_path, report, with_clips=False)
    assert (report / "in_turn_p.md").exists()
    table = tables_of(tmp_path)["in_turn_p"]
    one = " (1 seed)"
    measures = [f"20{one}", f"1{one}", f"2{one}", "-", "1"]  # own: 10, 20 and 30
    assert table.rows == [
        ["heads", "a head for each task", "1,000,000", f"19{one}", "a 3; b 25; c 30", *measures],
        ["last_c", "one head, a run for each task", "3,000", f"19{one}", "a 3; b 25; c 30", *measures],
        ["student", "at once, from teachers", "500", f"3{one}", "a 1; b 2; c 6", *[""] * 4, "1"],
        ["vanilla", "at once, from returns", "1,000,000", f"3{one}", "a 1; b 2; c 6", *[""] * 4, "1"],
    ]


# Training


def trained(path, **settings):
    folder = RunFolder.create(path, "run")
    return train_run(TrainConfig(tasks=TASKS, **{**SMALL, **settings}), folder), folder


def test_a_sequence_reports_when_a_turn_ends(tmp_path):
    """40 updates of 2 x 5 steps: turns end after 13, 26 and 40, and no budget does."""
    results, folder = trained(tmp_path / "run", n_timesteps=400, task_schedule={"sequence": {}}, report_at=(300,))
    assert list(results) == ["before", "after_1", "after_2", "300", "after"]
    assert all(list(by_task) == list(TASKS) for by_task in results.values())
    steps = {stage: mt.load_agent(folder.agents / stage).facts["num_timesteps"] for stage in ("after_1", "after_2")}
    assert steps == {"after_1": 130, "after_2": 260}


@pytest.mark.parametrize("share", ["heads", "progressive"])
def test_reports_after_turns_change_nothing_of_the_training(tmp_path, monkeypatch, share):
    settings = {"n_timesteps": 150, "task_schedule": {"sequence": {}}, "policy_kwargs": {"share": share}}
    results, folder = trained(tmp_path / "with", **settings)
    monkeypatch.setattr(TurnCallback, "_reached", lambda _self: None)
    others, without = trained(tmp_path / "without", **settings)
    assert results.keys() - others.keys() == {"after_1", "after_2"}
    assert results["after"] == others["after"]
    assert mt.load_agent(folder.path).digest == mt.load_agent(without.path).digest


def test_columns_forget_nothing(tmp_path):
    settings = {"task_schedule": {"sequence": {}}, "policy_kwargs": {"share": "progressive"}, "n_timesteps": 120}
    results, folder = trained(tmp_path / "p/run/seed_0", **settings)
    assert results["after_1"]["a"] == results["after"]["a"] != results["before"]["a"]
    assert results["after_2"]["b"] == results["after"]["b"]
    (learned,) = learned_in_turn(read_runs(tmp_path)[0], "p")
    assert np.array_equal(learned.matrix[0, 0, 0], results["after"]["a"].mean_reward)
    assert tables_of(tmp_path)["run_p"].rows[4][1] == "0 (1 seed)"
    assert folder.agents.joinpath("after_2.json").exists()


def test_the_ends_of_turns_are_known_when_training_begins():
    schedule = TaskSequence()
    schedule.begin(list(TASKS), 0)
    assert schedule.ends == ()
    schedule.note_training(40)
    assert schedule.ends == (13, 26, 40)
    given = TaskSequence(["c", "a"], n_updates=4)
    given.begin(list(TASKS), 0)
    assert given.ends == (4, 8)


# The grid


def test_every_way_of_the_grid_has_the_same_steps():
    """A task has 500,000 steps in every way; distillation divides them between the teachers and the student."""
    runs = {run.key.split("/")[1]: run for run in load_grid(GRID) if run.key.endswith("seed_0")}
    by_folder = {str(run.folder): run for run in runs.values()}
    groups = ("bodies", "HalfCheetah_gravity", "Hopper_gravity", "Walker2d_gravity")
    assert len(runs) == 10 * len(groups)
    assert len(load_grid(GRID)) == 5 * len(runs)
    for group in groups:
        tasks = runs[f"{group}_one_head"].config.resolved_tasks()
        names = [task.name for task in tasks]
        assert len(names) == 3
        for way in ("one_head", "heads", "columns", "vanilla"):
            config = runs[f"{group}_{way}"].config
            assert (config.resolved_tasks(), config.n_timesteps) == (tasks, 1_500_000)
            assert bool(config.tasks_in_turn) == (way != "vanilla")
        chain = [runs[f"{group}_last_{names[2]}"]]
        while (source := chain[0].config.init_from) is not None:
            chain.insert(0, by_folder[source])
        assert [run.config.task_names for run in chain] == [(name,) for name in names]
        assert [run.config.freeze for run in chain] == ["nothing", "all_but_last", "all_but_last"]
        for run in chain:
            own, others = run.config.resolved_tasks(), run.config.other_tasks()
            assert sorted([*own, *others.values()], key=lambda task: names.index(task.name)) == list(tasks)
            assert run.config.n_timesteps == 500_000
        student = runs[f"{group}_distilled"]
        assert student.config.resolved_tasks() == tasks
        taught = sum(steps for _, steps in student.agents_of)
        assert taught + student.config.n_timesteps == 1_500_000
        for name, task in zip(names, tasks, strict=True):
            assert runs[f"{group}_alone_{name}"].config.resolved_tasks() == (task,)


def test_learning_rates_of_the_grid_do_not_fall():
    assert {run.config.learning_rate for run in load_grid(GRID)} == {5e-4}
    assert YAML(typ="safe").load(GRID)["folder"] == "runs/forgetting"

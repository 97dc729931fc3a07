"""Folders for a model hub: an agent, its model card, and nothing that would be executed."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask import cli
from sb3_multitask.evaluation.films import NoRendererError
from sb3_multitask.experiments import card
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run

TASKS = {"up": "Pendulum-v1", "a | b": "Pendulum-v1"}
RUNS = {
    "a2c_mt": {},
    "ppo": {"algo": "ppo", "n_steps": 10, "algo_kwargs": {"batch_size": 20}},
    "trpo": {"algo": "trpo", "n_steps": 10, "algo_kwargs": {"batch_size": 20}},
    "in_turn": {"sequential": True},
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A finished run of two tasks, and its config."""
    settings = {"tasks": TASKS, "n_envs_per_task": 1, "seed": 7, "n_timesteps": 400, "eval_freq": 0}
    config = make_config(TrainConfig, {**settings, "n_eval_episodes": 2, **RUNS[request.param]})
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / request.param, "run")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A run that resumes from a checkpoint")  # Pendulum's state is not kept
        train_run(config, folder)
    return folder


def front_matter(text):
    return YAML(typ="safe").load(text.split("---\n")[1])


def test_a_card_has_the_runs_agent_config_and_returns(run, tmp_path):
    card.write_card(run.path, tmp_path / "card", clips=False)
    with pytest.raises(ValueError, match="card is a folder that `card` made; give the run"):
        card.write_card(tmp_path / "card", tmp_path / "again", clips=False)
    written = {path.name for path in (tmp_path / "card").iterdir()}
    in_turn = load_config(TrainConfig, run.config).sequential
    assert written - {"learning_curves.png"} == {"README.md", "agent.json", "agent.safetensors", "config.yml"}
    assert ("learning_curves.png" in written) != in_turn
    agent, original = mt.load_agent(tmp_path / "card"), mt.load_agent(run.path)
    assert agent.digest == original.digest
    assert load_config(TrainConfig, tmp_path / "card" / "config.yml") == load_config(TrainConfig, run.config)

    text = (tmp_path / "card" / "README.md").read_text()
    facts = front_matter(text)
    assert facts["library_name"] == "stable-baselines3"
    assert {"reinforcement-learning", "multi-task", "Pendulum-v1"} <= set(facts["tags"])
    (entry,) = facts["model-index"]
    after = run.read_results()["after"]
    for told, (task, result) in zip(entry["results"], after.items(), strict=True):
        assert told["dataset"] == {"type": "Pendulum-v1", "name": task}
        (metric,) = told["metrics"]
        assert (metric["type"], metric["value"]) == (
            "mean_reward",
            f"{result.mean_reward:.2f} +/- {result.std_reward:.2f}",
        )
        row = next(line for line in text.splitlines() if line.startswith(f"| {task.replace('|', chr(92) + '|')} |"))
        assert f"{result.mean_reward:.1f} ± {result.std_reward:.1f} |" in row
        assert row.endswith("| 2 | 7 | 400 |")
    assert run.read_status()["versions"]["torch"] in text


def test_the_usage_code_runs_in_the_folder(run, tmp_path, monkeypatch, capsys):
    card.write_card(run.path, tmp_path, clips=False)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(block, "card", "exec"), names)  # noqa: S102
    assert names["action"].shape == (1,)
    in_turn = load_config(TrainConfig, run.config).sequential
    assert len(capsys.readouterr().out.splitlines()) == (0 if in_turn else 2)


def test_huggingface_reads_the_card(run, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    card.write_card(run.path, tmp_path, clips=False)
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "stable-baselines3"
    assert [result.dataset_name for result in data.eval_results] == list(TASKS)
    assert all(re.fullmatch(r"-\d+\.\d\d \+/- \d+\.\d\d", result.metric_value) for result in data.eval_results)


def test_clips_stand_side_by_side_or_a_line_says_that_there_are_none(run, tmp_path, monkeypatch):
    def film(agent, tasks, folder):
        assert mt.load_agent(agent).obs_dim == 3
        folder.mkdir()
        clips = {task.name: folder / f"{task.name}.gif" for task in tasks}
        for clip in clips.values():
            clip.touch()
        return clips

    monkeypatch.setattr(card, "render_clips", film)
    card.write_card(run.path, tmp_path)
    links = re.findall(r"!\[[^]]*\]\((clips/[^)]*)\)", (tmp_path / "README.md").read_text())
    assert links == ["clips/up.gif", "clips/a%20%7C%20b.gif"]

    def film_without_renderer(*_):
        raise NoRendererError("nothing at hand")

    monkeypatch.setattr(card, "render_clips", film_without_renderer)
    card.write_card(run.path, tmp_path)  # a card is replaced
    assert "nothing could render" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "clips").exists()


def test_other_folders_and_unfinished_runs_are_refused(run, tmp_path):
    (tmp_path / "thesis.tex").touch()
    for output in (tmp_path, tmp_path / "thesis.tex", run.path):
        with pytest.raises(FileExistsError, match="something else than a model card"):
            card.write_card(run.path, output, clips=False)
    with pytest.raises(FileNotFoundError, match="no run's folder"):
        card.write_card(tmp_path, tmp_path / "card", clips=False)
    with pytest.raises(ValueError, match="`n_eval_episodes` is for folders of rl_zoo3"):
        card.write_card(run.path, tmp_path / "card", clips=False, n_eval_episodes=3)
    status = run.run.read_text()
    try:
        run.write_status("interrupted")
        with pytest.raises(ValueError, match=r"status: interrupted.*--resume"):
            card.write_card(run.path, tmp_path / "card", clips=False)
    finally:
        run.run.write_text(status)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_command_writes_into_the_run_and_its_card_is_evaluated(run, tmp_path):
    result = CliRunner().invoke(cli.app, ["card", str(run.path), "--no-clips"], catch_exceptions=False)
    assert result.exit_code == 0
    assert (run.path / "card" / "README.md").exists()
    agent = mt.load_agent(run.path / "card")
    obs = {"obs": np.zeros((2, 3)), "task": np.zeros(2)}
    np.testing.assert_array_equal(
        agent.predict(obs, deterministic=True)[0][0], agent.predict(obs, deterministic=True)[0][1]
    )
    if agent.tasks is not None:
        arguments = ["evaluate", str(run.path / "card"), "--n-eval-episodes", "2"]
        assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0

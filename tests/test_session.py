"""A user's session with the zoo, from a fresh installation to a shared agent."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers.programs import killed_at_its_first_checkpoint, output_of

CHECKOUT = Path(__file__).parents[1]
INSTALLED = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "sb3_multitask", "zoo_configs")
SET = "MultiTask/HalfCheetahBody6-v0"
NAME = SET.replace("/", "-")
OF_THE_SET = ["--algo", "a2c_mt", "--env", SET]
PNG = b"\x89PNG"

PREDICT = """
import sys
import numpy as np, onnxruntime
import sb3_multitask as mt
assert mt.__file__.startswith(sys.prefix), mt.__file__
agent = mt.load_agent(sys.argv[1])
obs, task = np.random.default_rng(0).normal(size=(12, agent.obs_dim)).astype(agent.obs_dtype), np.arange(12) % 6
actions, _ = agent.predict({"obs": obs, "task": task}, deterministic=True)
assert actions.shape == (12, 6) and np.isfinite(actions).all() and len(np.unique(actions, axis=0)) == 12
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
np.testing.assert_allclose(session.run(["action"], {"obs": obs, "task": task})[0], actions, atol=1e-5)
print(",".join(agent.task_names))
"""


class Installation:
    """A virtual environment with a copy of the project, without the checkout.

    :param folder: of everything: the copy, the environment and the working directory
    """

    def __init__(self, folder: Path) -> None:
        self.copy, self.cwd, self.venv = (folder / name for name in ("copy", "work", "venv"))
        temporary = folder / "tmp"  # torch is larger than many a /tmp
        for made in (self.copy, self.cwd, temporary):
            made.mkdir()
        self.environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.environment.pop("PYTHONPATH", None)
        for name in INSTALLED:
            source = CHECKOUT / name
            if source.is_dir():
                shutil.copytree(source, self.copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, self.copy / name)
        self.run(sys.executable, "-m", "venv", self.venv)
        pip = (*("-m", "pip", "install", "-q"), *("--no-cache-dir", "--disable-pip-version-check"))
        self.python(*pip, "-c", self.copy / "constraints.txt", f"{self.copy}[zoo,export]")
        shutil.rmtree(self.copy)

    def run(self, *command) -> str:
        return output_of(command, self.cwd, self.environment)

    def python(self, *args) -> str:
        return self.run(self.venv / "bin" / "python", *args)

    def zoo(self, *args) -> str:
        return self.python("-m", "sb3_multitask.zoo", *args)

    def ours(self, *args) -> str:
        return self.run(self.venv / "bin" / "sb3-multitask", *args)

    @property
    def train(self) -> list:
        return ["train", *OF_THE_SET, "-conf", "zoo_configs/a2c_mt.yml", "-params", "n_envs:1"]  # the installed one


@pytest.fixture
def installation(tmp_path):
    try:
        yield Installation(tmp_path)
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)  # more than 1 GB
        shutil.rmtree(tmp_path / "tmp", ignore_errors=True)


@pytest.mark.slow
def test_from_installing_to_sharing(installation):
    folder = train_with_a_kill(installation)
    look(installation, folder)
    tune(installation)
    share(installation, folder)


def train_with_a_kill(installation):
    """Folder of a training that went on from the checkpoint of one that was killed."""
    logs = installation.cwd / "logs" / "a2c_mt"
    train = [*installation.train, "--seed", 3]
    endless = [installation.venv / "bin" / "python", "-m", "sb3_multitask.zoo", *train, "-n", 10**8, "--eval-freq", -1]
    checkpoint = killed_at_its_first_checkpoint(
        [*endless, "--save-freq", 6000], installation.cwd, installation.environment, logs / f"{NAME}_1"
    )
    assert not (logs / f"{NAME}_1" / f"{NAME}.zip").exists()
    evaluations = ["--eval-freq", 6000, "--eval-episodes", 1, "--n-eval-envs", 1]
    output = installation.zoo(*train, "-n", 12_000, *evaluations, "-i", checkpoint)
    assert "Loading pretrained agent" in output
    left = {path.name for path in (logs / f"{NAME}_2").iterdir()}
    assert left >= {f"{NAME}.zip", "best_model.zip", "evaluations.npz", NAME, *(f"{i}.monitor.csv" for i in range(6))}
    return logs / f"{NAME}_2"


def look(installation, folder):
    output = installation.zoo("enjoy", *OF_THE_SET, "-f", "logs", "--no-render", "--env-kwargs", "max_episode_steps:20")
    assert len(re.findall(r"Task (\w+): return -?[\d.]+ in 20 steps", output)) == 6
    of_the_logs = ["-a", "a2c_mt", "-e", SET, "-f", "logs"]
    installation.zoo("plot_train", *of_the_logs, "-w", 2, "--save-figure", "train.png")
    assert NAME in installation.zoo("all_plots", *of_the_logs, "--save-figure", "all.png")
    installation.ours("plot", folder, "--output", "curves.png")
    for name in ("train.png", "all.png", "curves.png"):
        assert (installation.cwd / name).read_bytes().startswith(PNG)


def tune(installation):
    short = ["-n", 120, "--env-kwargs", "max_episode_steps:20", "--n-evaluations", 2, "--eval-episodes", 1]
    study = ["--storage", "logs/study.log", "--study-name", "s"]
    by_default = ["train", *OF_THE_SET, "-params", "n_envs:1"]
    output = installation.zoo(*by_default, *short, *study, "--optimize", "--n-trials", 2)
    assert "Number of finished trials:  2" in output
    assert (installation.cwd / "logs" / "study.log").stat().st_size > 0


def share(installation, folder):
    assert "Exported, with the heads SmallFoot" in installation.ours("export", folder, "--output", "agent.onnx")
    installation.ours("card", folder, "--output", "card", "--no-clips", "--n-eval-episodes", 1)
    card = installation.cwd / "card"
    assert {path.name for path in card.iterdir()} == {
        *("README.md", "config.yml", "agent.json", "agent.safetensors", "learning_curves.png"),
    }
    assert (card / "learning_curves.png").read_bytes().startswith(PNG)
    assert f"-m sb3_multitask.zoo train --algo a2c_mt --env {SET}" in (card / "README.md").read_text()
    names = installation.python("-c", PREDICT, card, "agent.onnx").strip()
    assert names == "SmallFoot,BigFoot,SmallLeg,SmallThigh,SmallTorso,BigTorso"

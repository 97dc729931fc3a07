"""Runs that are killed and go on from their checkpoints, and what they leave."""

from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt

BODIES = ["HalfCheetahSmallFoot-v0", "HalfCheetahBigTorso-v0"]
TOTAL = 4_000  # with episodes of 1000 steps, which end for each of the two copies of both bodies


class Killed(Exception):  # noqa: N818
    pass


class KillAt(BaseCallback):
    """Raises in the middle of whatever rollout reaches ``step``."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def _on_step(self):
        if self.num_timesteps >= self.step:
            raise Killed
        return True


def run(folder, step=10**9, total=TOTAL, tasks=BODIES, seed=0, n_envs=2, callbacks=(), **kwargs):
    """One process of a run: trains to the end, or is killed at ``step``."""
    backend = kwargs.pop("backend", "auto")
    env = mt.make_multitask_vec_env(tasks, n_envs, seed=5, backend=backend, monitor_dir=folder / "monitor")
    eval_env = mt.make_multitask_vec_env(tasks, 1, seed=7, normalize=False)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **kwargs)
    evaluations = mt.MultiTaskEvalCallback(eval_env, n_eval_episodes=1, eval_freq=1500, log_path=folder, verbose=0)
    checkpoints = mt.ResumableCheckpointCallback(folder / "checkpoints", every=200, verbose=0)
    try:
        model.learn(total, [checkpoints, evaluations, *callbacks, KillAt(step)])
    except Killed:
        pass
    finally:
        env.close()
        eval_env.close()
    return model


def monitor_rows(folder):
    """All monitor rows, without their wall-clock column."""
    rows = {}
    for path in sorted((folder / "monitor").glob("*.csv")):
        lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
        rows[path.name] = [line[:2] + line[3:] for line in lines]
    return rows

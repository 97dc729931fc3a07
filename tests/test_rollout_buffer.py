import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers.drift import drift_tasks
from helpers.models import weights_equal
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer

import sb3_multitask as mt
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer

N_STEPS, N_ENVS = 4, 6
SPACE = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task": spaces.Discrete(2)})


def filled(cls=TaskRolloutBuffer):
    """A rollout in which every number says which step and env it is of."""
    buffer = cls(N_STEPS, SPACE, spaces.Box(-1, 1, (2,)), "cpu", n_envs=N_ENVS)
    for step in range(N_STEPS):
        of_row = step * 100.0 + np.arange(N_ENVS)
        obs = {"obs": np.repeat(of_row[:, None], 3, axis=1), "task": np.arange(N_ENVS) % 2}
        numbers = th.from_numpy(of_row)
        buffer.add(obs, np.repeat(of_row[:, None], 2, axis=1), of_row, np.zeros(N_ENVS), numbers, numbers)
    return buffer


@pytest.mark.parametrize("batch_size", [None, 1, 5, 7, N_STEPS * N_ENVS])
def test_columns_stay_beside_their_rows(batch_size):
    buffer = filled()
    rows = np.arange(N_STEPS)[:, None] * 100.0 + np.arange(N_ENVS)
    targets = np.stack((rows, -rows), axis=2)
    buffer.set_targets(targets, targets + 0.5)
    buffer.note_fault(2, 3)
    for _ in range(3):  # epochs
        seen = 0
        for samples in buffer.get(batch_size):
            of_row = samples.observations["obs"][:, 0].numpy()
            np.testing.assert_array_equal(samples.teacher_mean.numpy(), np.stack((of_row, -of_row), axis=1))
            np.testing.assert_array_equal(samples.teacher_log_std.numpy(), samples.teacher_mean.numpy() + 0.5)
            np.testing.assert_array_equal(samples.keep.numpy(), ~((of_row % 100 == 3) & (of_row <= 203)))
            kept = samples.kept()
            assert kept.keep.all()
            np.testing.assert_array_equal(kept.teacher_mean[:, 0].numpy(), kept.actions[:, 0].numpy())
            seen += len(of_row)
        assert seen == N_STEPS * N_ENVS


def test_without_columns_the_samples_are_sb3s_and_in_its_order():
    ours, theirs = filled(), filled(DictRolloutBuffer)
    for seed in (0, 1):
        batches = []
        for buffer in (ours, theirs):
            np.random.seed(seed)  # noqa: NPY002 (SB3 draws from it)
            batches.append(list(buffer.get(5)))
        for mine, other in zip(*batches, strict=True):
            assert mine._fields[: len(other)] == other._fields
            assert mine.keep is mine.teacher_mean is mine.teacher_log_std is None
            assert mine.kept() is mine
            for name in other._fields:
                first, second = getattr(mine, name), getattr(other, name)
                pairs = [(first[key], second[key]) for key in second] if isinstance(second, dict) else [(first, second)]
                assert all(th.equal(*pair) for pair in pairs)


def test_ppo_on_it_is_ppo_bit_for_bit():
    models = []
    for cls in (TaskRolloutBuffer, DictRolloutBuffer):
        env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
        model = PPO(
            mt.MultiTaskActorCriticPolicy, env, n_steps=8, batch_size=12, n_epochs=3, seed=0, rollout_buffer_class=cls
        )
        models.append(model.learn(48 * 6))
    assert weights_equal(*models)


class Plain(DictRolloutBuffer):
    """A user's own, without columns."""


def test_a_buffer_without_columns_serves_where_none_are_needed():
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, rollout_buffer_class=Plain).learn(40)
    assert type(model.rollout_buffer) is Plain
    teacher = mt.Agent(
        model.policy.state_dict() and {k: v.numpy() for k, v in model.policy.state_dict().items()}, ("A", "B")
    )
    with pytest.raises(ValueError, match="`rollout_buffer_class` is Plain.*TaskRolloutBuffer"):
        mt.A2CMultiTask(
            "MultiTaskMlpPolicy", env, rollout_buffer_class=Plain, teachers={"A": teacher, "B": teacher}, seed=0
        )

"""PopArt: value heads learn normalised values, and the values that they stand for do not jump."""

from itertools import pairwise

import numpy as np
import pytest
import torch as th
from helpers.drift import ReachingEnv, RecordedEnv, recorded_tasks, sized_tasks
from helpers.faulty import make as make_faulty
from helpers.killed_runs import run
from helpers.models import weights_equal
from helpers.policies import batch_for, make_policy
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.losses import A2CLoss, PPOLoss
from sb3_multitask.policies.value_normalization import STD_BOUNDS, STEP_SIZE, ValueStatistics

ALGORITHMS = {
    "a2c": (mt.A2CMultiTask, {"ent_coef": 0.01}),
    "ppo": (mt.PPOMultiTask, {"n_steps": 8, "batch_size": 12, "n_epochs": 2}),
    "ppo_clip": (mt.PPOMultiTask, {"n_steps": 8, "batch_size": 12, "n_epochs": 2, "clip_range_vf": 0.05}),
}


def model_of(name="a2c", engine="auto", tasks=None, n_envs=2, normalize=True, seed=0, policy_kwargs=None, **kwargs):
    made, settings = ALGORITHMS[name]
    env = mt.make_multitask_vec_env(tasks or recorded_tasks(), n_envs, seed=seed, normalize=normalize)
    given = {"value_norm": "popart", **(policy_kwargs or {})}
    own = {"learning_rate": 3e-3, **settings, **kwargs}
    return made("MultiTaskMlpPolicy", env, seed=seed, device="cpu", engine=engine, policy_kwargs=given, **own)


def rescaled(policy, returns, tasks):
    policy.update_value_statistics(np.array(returns, dtype=np.float32), np.array(tasks))


def values_of(policy, observations):
    with th.no_grad():
        return policy.predict_values(observations).flatten().numpy()


# Statistics


def test_a_first_rollout_counts_alone():
    policy = make_policy(2, value_norm="popart")
    head = policy.value_net.layers[-1]
    weight, bias = (parameter.detach().clone() for parameter in (head.weight, head.bias))
    rescaled(policy, [1.0, 5.0, 1.0, 5.0], [0, 0, 0, 0])
    statistics = policy.value_statistics
    assert statistics.mean.tolist() == [3.0, 0.0]
    assert statistics.variance.tolist() == [4.0, 1.0]
    np.testing.assert_allclose(statistics.weight, [1 - (1 - STEP_SIZE) ** 4, 0], rtol=1e-6)
    th.testing.assert_close(head.weight[0], weight[0] / 2)
    th.testing.assert_close(head.bias[0], (bias[0] - 3) / 2)
    assert th.equal(head.weight[1], weight[1])
    assert th.equal(head.bias[1], bias[1])


def test_later_rollouts_are_averaged_row_by_row_without_bias():
    """The first and second moments of the paper, whose averages begin at 0, over the weight of all rows."""
    policy, rng = make_policy(1, value_norm="popart"), np.random.default_rng(0)
    first = second = weight = 0.0
    for n in (1, 3, 1, 7):
        of_rollout = float(rng.normal(5, 2))
        rescaled(policy, [of_rollout] * n, [0] * n)
        for _ in range(n):
            first += STEP_SIZE * (of_rollout - first)
            second += STEP_SIZE * (of_rollout**2 - second)
            weight += STEP_SIZE * (1 - weight)
    statistics = policy.value_statistics
    assert statistics.mean.item() == pytest.approx(first / weight, rel=1e-5)
    assert statistics.variance.item() == pytest.approx(second / weight - (first / weight) ** 2, rel=1e-4)


def test_a_rollouts_own_spread_is_part_of_the_variance():
    policy = make_policy(1, value_norm="popart")
    rescaled(policy, [2.0, 4.0], [0, 0])
    rescaled(policy, [10.0, 20.0], [0, 0])  # as many rows: all count the same but for the small step size
    two, first = 1 - (1 - STEP_SIZE) ** 2, (1 - (1 - STEP_SIZE) ** 2) * (1 - STEP_SIZE) ** 2
    moments = [(first * old + two * new) / (first + two) for old, new in ((3, 15), (10, 250))]
    assert policy.value_statistics.mean.item() == pytest.approx(moments[0], rel=1e-6)
    assert policy.value_statistics.variance.item() == pytest.approx(moments[1] - moments[0] ** 2, rel=1e-6)


@pytest.mark.parametrize("head_arch", [[], [5]])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, -0.3), (500.0, 2000.0)])
def test_values_stay_as_they_are(scale, shift, head_arch):
    policy = make_policy(3, value_norm="popart", head_arch={"vf": head_arch})
    seen, rng = batch_for(policy, [0, 1, 2] * 10), np.random.default_rng(0)
    before = values_of(policy, seen)
    for _ in range(5):
        rescaled(policy, scale * rng.normal(size=30) + shift, np.arange(30) % 3)
        size = max(1.0, scale + abs(shift))
        np.testing.assert_allclose(values_of(policy, seen), before, atol=1e-6 * size)
        scale, shift = 1.5 * scale, -shift


def test_the_standard_deviation_has_bounds():
    policy = make_policy(2, value_norm="popart")
    rescaled(policy, [7.0, 7.0, -1e15, 1e15], [0, 0, 1, 1])
    np.testing.assert_allclose(policy.value_statistics.std, STD_BOUNDS)
    rescaled(policy, [-1e30, 1e30], [1, 1])
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())


def test_what_has_no_rows_is_not_finite_or_is_frozen_stays():
    policy = make_policy(3, value_norm="popart")
    rescaled(policy, [1.0, 2.0, 5.0, 9.0, 3.0, 4.0], [0, 0, 1, 1, 2, 2])
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    rescaled(policy, [8.0, 9.0, np.nan, 1.0], [0, 0, 1, 1])
    for name in ("value_statistics.mean", "value_net.layers.1.weight", "value_net.layers.1.bias"):
        after = policy.state_dict()[name]
        assert not th.equal(after[0], before[name][0])
        assert th.equal(after[1:], before[name][1:])
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.set_frozen(["value_net.layers.1.weight"])
    rescaled(policy, [100.0, 200.0], [0, 0])
    assert all(th.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_without_it_a_policy_has_no_statistics():
    assert make_policy().value_statistics is None
    assert not [name for name in make_policy().state_dict() if "statistics" in name]
    plain, normalized = make_policy(), make_policy(value_norm="popart")
    assert plain.options() == {}
    assert normalized.options() == {"value_norm": "popart"}
    assert all(th.equal(tensor, normalized.state_dict()[name]) for name, tensor in plain.state_dict().items())
    seen = batch_for(plain, [0, 1, 2])
    np.testing.assert_array_equal(values_of(plain, seen), values_of(normalized, seen))  # before the first rollout


# Learning


class Stop(BaseCallback):
    """Ends the training after a rollout, before its update."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.model.train = lambda: None


def collected(name, engine, **kwargs):
    """A model that has learned a little, and then collected a rollout more."""
    model = model_of(name, engine, **kwargs)
    rollout = model.n_steps * model.n_envs
    model.learn(9 * rollout)
    model.learn(1, Stop(), reset_num_timesteps=False)
    return model


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_loss_is_of_normalised_values_and_the_buffer_holds_others(name, schedule):
    """(n - (R - mean) / std)^2, with values clipped in the same units, by both engines."""
    model = collected(name, "fast", task_schedule=schedule)
    assert model.last_engine == "fast"
    buffer, policy = model.rollout_buffer, model.policy
    obs = {key: th.as_tensor(np.concatenate(buffer.by_step(key))) for key in ("obs", "task")}
    obs["task"] = obs["task"].flatten()
    values = values_of(policy, obs)
    np.testing.assert_allclose(buffer.by_step("values").ravel(), values, rtol=1e-5, atol=2e-5)
    statistics, task = policy.value_statistics, obs["task"]
    std, mean = statistics.std[task].numpy(), statistics.mean[task].numpy()
    assert np.abs(std - 1).min() > 1e-3
    error = (values - buffer.by_step("returns").ravel()) / std
    is_a2c = name == "a2c"
    clip = getattr(model, "clip_range_vf", None) and 0.05
    objective = [A2CLoss(1.0, 0.0, 0.5) if is_a2c else PPOLoss(0.2, clip, 1.0, 0.0, 0.5)]
    gradients = []
    for engine in (model.numerics, TorchEngine(model)):  # torch's comes last: it reorders the buffer's rows
        (batch,) = engine.batches(buffer, None if is_a2c else buffer.returns.size, normalize_advantage=False)
        evaluation = engine.evaluate(objective, batch)
        assert evaluation.means["value_loss"] == pytest.approx((error**2).mean(), rel=1e-4)
        gradients.append(dict(gradients_of(model, engine)))
    for parameter, mine in gradients[0].items():
        expected = gradients[1][parameter]
        assert np.abs(mine - expected).max() <= 2e-5 * np.abs(expected).max() + 1e-9
    assert mean.any()


def gradients_of(model, engine):
    for name, parameter in model.policy.named_parameters():
        if engine is model.numerics:
            flat = engine.parameters
            yield name, flat.gradient[flat.offsets[parameter]].copy()
        else:
            yield name, parameter.grad.flatten().numpy()


@pytest.mark.parametrize("n_envs", [2, {"A": 1, "B": 3, "C": 2}], ids=["equal", "unequal"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_engines_agree(name, schedule, n_envs):
    if schedule == "cycle" and isinstance(n_envs, dict):
        pytest.skip("a cycle needs as many environments of each task")
    models = []
    for engine in ("torch", "fast"):
        model = model_of(name, engine, n_envs=n_envs, task_schedule=schedule)
        models.append(model.learn(15 * model.n_steps * model.n_envs))
        assert model.last_engine == engine
    theirs, mine = (model.policy.state_dict() for model in models)
    for key, tensor in mine.items():
        th.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=2e-4, msg=key)


class TenfoldEnv(RecordedEnv):
    """Its rewards are ten times as large, its observations the same."""

    def step(self, action):
        obs, reward, *others = super().step(action)
        return obs, 10 * reward, *others


@pytest.mark.parametrize("engine", ["torch", "fast"])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_tenfold_rewards_make_the_same_updates(name, engine, normalize_advantage):
    """From value heads whose first values are 0, which has no units."""
    models = []
    for kind in (RecordedEnv, TenfoldEnv):
        tasks = [mt.Task(task.name, kind, task.env_kwargs) for task in recorded_tasks()]
        model = model_of(name, engine, tasks, normalize={"norm_reward": False}, normalize_advantage=normalize_advantage)
        with th.no_grad():
            for parameter in model.policy.value_net.layers[-1].parameters():
                parameter.zero_()
        models.append(model.learn(12 * model.n_steps * model.n_envs))
    once, tenfold = (model.policy for model in models)
    np.testing.assert_allclose(tenfold.value_statistics.std, 10 * once.value_statistics.std, rtol=1e-3)
    for (parameter, first), second in zip(once.named_parameters(), tenfold.parameters(), strict=True):
        th.testing.assert_close(second, first, rtol=1e-3, atol=2e-4, msg=parameter)
    seen = batch_for(once, [0, 1, 2] * 4)
    np.testing.assert_allclose(values_of(tenfold, seen), 10 * values_of(once, seen), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_in_cycle_only_the_shown_tasks_statistics_move(engine):
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            seen.append(self.model.policy.value_statistics.weight.tolist())

    model_of("a2c", engine, task_schedule="cycle").learn(5 * 2 * 6, Watch())
    n_moved = [[b > a for a, b in zip(*pair, strict=True)] for pair in pairwise(seen)]
    assert n_moved == [[i % 3 == task for task in range(3)] for i in range(len(n_moved))]


@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_rollouts_by_teachers_do_not_count(engine):
    teacher = agent_of(model_of().learn(60))
    model = model_of("a2c", engine, teachers=dict.fromkeys("ABC", teacher), student_rollout_prob=0.0).learn(60)
    assert model.policy.value_statistics.weight.tolist() == [0, 0, 0]
    model = model_of("a2c", engine, teachers=dict.fromkeys("ABC", teacher), rl_coef=1.0).learn(60)
    assert min(model.policy.value_statistics.weight.tolist()) > 0


@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_quarantined_rows_do_not_count(engine):
    kept = np.zeros(3)

    class Count(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            kept[:] += buffer.n_envs * buffer.buffer_size / 3 if buffer.keep is None else buffer.keep.sum(axis=0)

    env = make_faulty("inf_reward", n_envs=1, on_fault="quarantine")
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, n_steps=6, engine=engine, policy_kwargs={"value_norm": "popart"})
    model.learn(6 * 3 * 20, Count())
    assert kept[1] < kept[0] == kept[2] == 120
    rows = np.log1p(-model.policy.value_statistics.weight.double().numpy()) / np.log1p(-STEP_SIZE)
    np.testing.assert_allclose(rows, kept, rtol=1e-3)


# Files, resume, agents, transfer


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_file_and_a_state_hold_the_statistics(name, tmp_path):
    model = model_of(name).learn(200)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=mt.make_multitask_vec_env(recorded_tasks(), 2))
    assert weights_equal(model, loaded)
    assert loaded.policy.value_norm == "popart"
    other = model_of(name, seed=1)
    other.set_state(model.get_state())
    seen = batch_for(model.policy, [0, 1, 2])
    for copy in (loaded, other):
        np.testing.assert_array_equal(values_of(copy.policy, seen), values_of(model.policy, seen))
        assert copy.learn(100).policy.value_statistics.weight.min() > 0


@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_a_run_resumes_to_the_same_bits(engine, tmp_path):
    at = ((1,), (), (2,))
    tasks = [mt.Task(task.name, ReachingEnv, {**task.env_kwargs, "at": at}) for task in recorded_tasks()]
    settings = {"tasks": tasks, "total": 900, "policy_kwargs": {"value_norm": "popart"}, "engine": engine}
    whole = run(tmp_path / "whole", **settings)
    assert not weights_equal(whole, run(tmp_path / "killed", 700, **settings))
    assert weights_equal(whole, run(tmp_path / "killed", **settings))
    assert whole.policy.value_statistics.weight.min() > 0


def test_agents_act_as_their_models(tmp_path):
    model = model_of(tasks=sized_tasks()).learn(120)
    mt.save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "model")
    seen = np.random.default_rng(0).normal(size=5)
    normalized = model.get_vec_normalize_env().normalize_obs({"obs": seen[None], "task": np.array([0])})["obs"][0]
    expected, _ = model.predict({"obs": normalized.astype(np.float32), "task": 0}, deterministic=True)
    for name in ("agent", "model.zip"):
        action, _ = mt.load_agent(tmp_path / name).predict({"obs": seen, "task": 0}, deterministic=True)
        np.testing.assert_allclose(action, expected, atol=1e-6)


def test_statistics_of_a_head_travel_with_it():
    model, source = model_of(), model_of(seed=1).learn(200)
    mt.transfer(model, source, {"A": "C", "C": "A"})
    for ours, theirs in zip(
        model.policy.value_statistics.buffers(), source.policy.value_statistics.buffers(), strict=True
    ):
        assert ours.tolist() == [theirs[2], ours[1], theirs[0]]
    first, second = (batch_for(model.policy, [task] * 5) for task in (0, 2))
    np.testing.assert_array_equal(values_of(model.policy, first), values_of(source.policy, second))
    assert ours[1] == 0
    with pytest.raises(ValueError, match="The model's `value_norm` is None, the source's is 'popart'"):
        mt.transfer(model_of(policy_kwargs={"value_norm": None}), source, {"A": "A"})
    mt.transfer(model_of(policy_kwargs={"value_norm": None}), source, {}, heads=False)  # the trunk means the same


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_norm": "pop-art"}, r'`value_norm` must be None or "popart" \(got \'pop-art\'\)'),
        ({"value_norm": True}, "`value_norm` must be .*got True"),
        ({"value_norm": "popart", "share": "all"}, "`value_norm='popart'` needs a value head for each task"),
    ],
)
def test_what_is_not_understood_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**options)


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_sb3s_own_algorithms_do_not_train_it(algorithm):
    env = mt.make_multitask_vec_env(recorded_tasks(), 2)
    policy = mt.MultiTaskActorCriticPolicy
    model = algorithm(policy, env, n_steps=32, policy_kwargs={"value_norm": "popart"}, device="cpu")
    with pytest.raises(ValueError, match="`value_norm='popart'` is for A2CMultiTask and PPOMultiTask"):
        model.learn(192)


def test_trpo_refuses_it():
    env = mt.make_multitask_vec_env(recorded_tasks(), 2)
    with pytest.raises(ValueError, match="TRPOMultiTask learns values that are not normalised"):
        mt.TRPOMultiTask("MultiTaskMlpPolicy", env, policy_kwargs={"value_norm": "popart"})


def test_statistics_of_no_task_are_none():
    assert [tuple(buffer.shape) for buffer in ValueStatistics(4).buffers()] == [(4,)] * 3

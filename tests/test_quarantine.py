"""Quarantine: what failed begins anew and is left out of everything; the others go on."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers.drift import DriftEnv, drift_tasks
from helpers.faulty import KINDS, FaultyEnv, make, tasks
from helpers.models import is_finite, model_on
from helpers.steps import step_on
from stable_baselines3 import PPO

import sb3_multitask as mt
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer
from sb3_multitask.vec_env.faults import MAX_CONSECUTIVE_FAULTS


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quarantined_fault_harms_nobody(kind, engine, schedule, tmp_path):
    env = make(kind, on_fault="quarantine", monitor_dir=tmp_path)
    model = model_on(env, engine=engine, task_schedule=schedule).learn(1500)
    venv = env.unwrapped
    assert venv.fault_counts["B"] > 5
    assert venv.fault_counts["A"] == venv.fault_counts["C"] == 0
    assert is_finite(model)
    statistics = model.get_normalizer_state()
    for name in ("obs_rms", "ret_rms"):
        assert all(np.isfinite(part).all() for part in statistics[name].values())
    assert np.abs(statistics["obs_rms"]["mean"]).max() < 100
    model.dump_logs()
    results = mt.evaluate_tasks(model, mt.MultiTaskVecEnv(drift_tasks(3), 2, seed=1), n_eval_episodes=4)
    assert all(np.isfinite(result.mean_reward) for result in results.values())
    env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_others_are_the_same_bits_as_without_it(kind):
    """With a policy that stays as it is, the others see the same, and their statistics are the same."""
    statistics = []
    for one in (kind, ""):
        env = make(one, on_fault="quarantine")
        model = model_on(env, learning_rate=0.0).learn(900)
        statistics.append(model.get_normalizer_state())
    broken, clean = statistics
    for name in ("obs_rms", "ret_rms"):
        for part in ("mean", "var", "count"):
            np.testing.assert_array_equal(broken[name][part][[0, 2]], clean[name][part][[0, 2]])
            if part == "count":
                assert (broken[name][part][1] < clean[name][part][1]).all()  # the faulty steps are not in them


def test_the_step_says_what_was_found_and_holds_nothing_of_it():
    env = make("nan_reward", on_fault="quarantine")
    env.reset()
    seen = []
    for _ in range(60):
        obs, rewards, dones, infos = env.step(np.zeros((6, 2)))
        assert np.isfinite(obs["obs"]).all()
        assert np.isfinite(rewards).all()
        for i, info in enumerate(infos):
            if "fault" in info:
                assert (i // 2, dones[i], info["task"], info["fault"]) == (1, True, "B", "a NaN reward")
                assert "episode" not in info
                assert np.isfinite(info["terminal_observation"]["obs"]).all()
                seen.append(i)
    assert len(seen) == env.unwrapped.fault_counts["B"] > 4


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_both_engines_leave_the_same_rows_out(schedule):
    weights = []
    for engine in ("fast", "torch"):
        env = make("inf_reward", on_fault="quarantine")
        model = model_on(env, engine=engine, task_schedule=schedule, ent_coef=0.01).learn(600)
        assert env.unwrapped.fault_counts["B"] > 5
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_allclose(*weights, atol=2e-4)


def test_a_fault_takes_with_it_the_steps_before_it_of_its_episode():
    starts = np.zeros((8, 6))
    starts[[0, 3], 2] = 1
    expected = np.ones((8, 6), dtype=bool)
    expected[:2, 4] = False
    expected[3:6, 2] = False
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task": spaces.Discrete(2)})
    buffer = TaskRolloutBuffer(8, space, spaces.Box(-1, 1, (2,)), "cpu", n_envs=6)
    buffer.episode_starts[:] = starts
    assert buffer.keep is None
    for fault in ((1, 4), (5, 2)):
        buffer.note_fault(*fault)
    np.testing.assert_array_equal(buffer.keep, expected)
    np.testing.assert_array_equal(buffer.keep, expected)  # asking again says the same
    buffer.reset()
    assert buffer.keep is None


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_a_rollout_without_good_rows_makes_no_update(engine):
    one = [mt.Task("B", FaultyEnv, {"kind": "nan_reward", "at": 3, "first_episode": 1})]
    env = mt.MultiTaskVecEnv(one, 1, seed=0, on_fault="quarantine")
    model = model_on(env, engine=engine, n_steps=3)
    before = model.policy.parameters_to_vector()
    model.learn(6)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)
    assert model._n_updates == 0


def test_a_nan_action_is_quarantined_too():
    env = make("", normalize=False, on_fault="quarantine")
    env.reset()
    actions = np.zeros((6, 2))
    actions[0, 0] = np.nan
    obs, _, dones, infos = env.step(actions)
    assert infos[0]["fault"] == "a NaN action"
    assert dones.tolist() == [True] + [False] * 5
    assert np.isfinite(obs["obs"]).all()


def test_what_always_fails_is_given_up():
    env = mt.MultiTaskVecEnv(tasks("nan_obs", at=1, first_episode=1), 1, seed=0, on_fault="quarantine")
    env.reset()
    with pytest.raises(mt.TaskFault, match=f"'B'.*{MAX_CONSECUTIVE_FAULTS} times"):
        step_on(env, 50)
    assert env.fault_counts["B"] == MAX_CONSECUTIVE_FAULTS


def test_a_reset_that_gives_a_bad_observation_stops():
    kinds = [mt.Task("B", FaultyEnv, {"kind": "nan_reset", "first_episode": 2, "horizon": 3})]
    env = mt.MultiTaskVecEnv(kinds, 1, seed=0, on_fault="quarantine")
    env.reset()
    with pytest.raises(mt.TaskFault, match="its reset gave a NaN observation"):
        step_on(env, 5)


def test_other_algorithms_learn_on_and_stay_finite():
    model = PPO(
        mt.MultiTaskActorCriticPolicy, make("inf_obs", on_fault="quarantine"), n_steps=20, batch_size=60, device="cpu"
    )
    assert is_finite(model.learn(600))


class TalkingEnv(DriftEnv):
    """Tells of faults of its own, which are none of ours."""

    def step(self, action):
        *step, info = super().step(action)
        return *step, {**info, "fault": "the lamp is out", "physics_fault": False, "worker_error": None}


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_what_an_environment_calls_a_fault_is_none(backend):
    env = mt.MultiTaskVecEnv([mt.Task("A", TalkingEnv)], 1, seed=0, backend=backend, start_method="fork")
    env.reset()
    infos = [env.step(np.zeros((1, 2)))[3][0] for _ in range(7)]
    assert [info["fault"] for info in infos] == ["the lamp is out"] * 7
    assert infos[-1]["episode"]["l"] == 7
    env.close()


def test_faults_of_a_rollout_that_was_cut_short_are_forgotten():
    once = tasks("nan_obs", at=2, every=10**6)
    model = model_on(mt.MultiTaskVecEnv(once, 2, seed=0, on_fault="quarantine"))
    model.learn(10**6, lambda _locals, _globals: not model.rollout_buffer.faults)  # ends at the step after the fault
    assert model.rollout_buffer.faults
    n_before = model._n_updates
    model.learn(30)
    assert model._n_updates > n_before
    assert model.rollout_buffer.keep is None


def test_the_action_in_place_of_a_bad_one_is_one_of_the_space():
    class Pump(DriftEnv):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(0.25, 1.0, (2,), dtype=np.float32)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    env = mt.MultiTaskVecEnv([mt.Task("A", Pump)], 1, seed=0, on_fault="quarantine")
    env.reset()
    assert env.step(np.full((1, 2), np.nan, dtype=np.float32))[3][0]["fault"] == "a NaN action"


def test_faults_are_counted_in_the_log(tmp_path):
    from stable_baselines3.common.logger import configure

    env = make("nan_reward", on_fault="quarantine")
    model = model_on(env)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1200, log_interval=5)
    model.logger.close()
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = header.split(",").index("faults/B")
    assert int(float(rows[-1].split(",")[column])) > 5
    assert "faults/A" not in header


def test_counts_survive_a_checkpoint():
    native = mt.MultiTaskVecEnv(["Hopper-v5"], 2, seed=0, on_fault="quarantine")
    native.reset()
    native.fault_counts["Hopper-v5"] = 4
    other = mt.MultiTaskVecEnv(["Hopper-v5"], 2, seed=1, on_fault="quarantine")
    other.set_state(native.get_state())
    assert other.fault_counts == {"Hopper-v5": 4}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"on_fault": "ignore"}, "`on_fault` must be one of stop, quarantine"),
        ({"worker_timeout": 0}, "positive number"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mt.MultiTaskVecEnv(drift_tasks(2), 1, **kwargs)


def test_what_fails_in_turn_with_other_tasks_is_given_up_too():
    env = mt.MultiTaskVecEnv(tasks("nan_obs", at=1, first_episode=1), 1, seed=0, on_fault="quarantine")
    env.reset()
    views = [env.task_view(i) for i in range(3)]
    for _ in range(MAX_CONSECUTIVE_FAULTS - 1):
        for view in views:
            view.step(np.zeros((1, 2)))
    views[0].step(np.zeros((1, 2)))
    with pytest.raises(mt.TaskFault, match="Task 'B'"):
        views[1].step(np.zeros((1, 2)))


def test_an_evaluation_plays_a_quarantined_episode_again():
    model = model_on(make(""))
    env = mt.MultiTaskVecEnv(tasks("nan_obs", first_episode=1, every=2), 2, seed=0, on_fault="quarantine")
    with pytest.warns(UserWarning, match=r"Episodes with faults were played again: B \(\d"):
        results = mt.evaluate_tasks(model, env, n_eval_episodes=4)
    assert env.fault_counts["B"] > 0
    assert results["B"].episode_lengths == (7, 7, 7, 7)
    assert all(np.isfinite(result.mean_reward) for result in results.values())


def test_copies_for_an_evaluation_are_quarantined_as_those_for_training_are():
    """Or a fault in an evaluation would end a training that outlives it."""
    breaking = tasks("nan_obs", first_episode=1, every=2)
    model = model_on(mt.MultiTaskVecEnv(breaking, 1, seed=0, on_fault="quarantine"))
    with pytest.warns(UserWarning, match="Episodes with faults were played again: B"):
        results = mt.evaluate_tasks(model, n_eval_episodes=2)
    assert results["B"].episode_lengths == (7, 7)
    model = model_on(mt.MultiTaskVecEnv(breaking, 1, seed=0))
    with pytest.raises(mt.TaskFault, match="Task 'B'"):
        mt.evaluate_tasks(model, n_eval_episodes=2)


def test_an_evaluation_in_which_every_episode_fails_stops_at_its_cap_and_says_so():
    model = model_on(make(""))
    env = mt.MultiTaskVecEnv(tasks("nan_obs", first_episode=1), 2, seed=0, on_fault="quarantine")
    with (
        pytest.warns(UserWarning, match="Episodes of B did not end within 50 steps"),
        pytest.warns(UserWarning, match="Episodes with faults were played again: B"),
    ):
        results = mt.evaluate_tasks(model, env, n_eval_episodes=2, max_episode_steps=50)
    assert results["A"].episode_lengths == (5, 5)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_a_single_good_row_is_not_normalised(engine, monkeypatch):
    env = make("", on_fault="quarantine")
    model = model_on(env, engine=engine, normalize_advantage=True).learn(120)
    rows = np.zeros((model.n_steps, model.n_envs), dtype=bool)
    rows[2, 3] = True
    monkeypatch.setattr(TaskRolloutBuffer, "keep", rows)
    before = model.policy.parameters_to_vector()
    model.learn(30)
    assert is_finite(model)
    assert (model.policy.parameters_to_vector() != before).any()

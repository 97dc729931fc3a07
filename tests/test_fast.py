"""The fast engine against torch: the same mathematics, within rounding, on recorded rollouts."""

import copy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks, recorded_tasks
from helpers.models import make_model, recorded_model
from helpers.policies import OwnFeatures
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import nn

import sb3_multitask as mt
from sb3_multitask.algorithms.engine import TorchEngine, why_torch
from sb3_multitask.fast.optimizers import clip_gradient
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.losses import A2CLoss
from sb3_multitask.policies.task_steps import stacked_parameters

SETTINGS = [
    {},
    {"ent_coef": 0.01, "gae_lambda": 0.9},
    {"normalize": False, "max_grad_norm": 1e-3},
    {"normalize_advantage": True, "vf_coef": 1.5, "gamma": 0.9},
    {
        "policy_kwargs": {
            "log_std_mode": "shared",
            "net_arch": {"pi": [8], "vf": [5, 6]},
            "head_arch": {"pi": [7], "vf": []},
        }
    },
    {"policy_kwargs": {"net_arch": {"pi": [], "vf": []}, "head_arch": {"pi": [6, 5], "vf": [4, 4]}}, "n_steps": 8},
    {"policy_kwargs": {"layer_norm": "critic"}},
    {"policy_kwargs": {"layer_norm": True, "net_arch": {"pi": [8, 7], "vf": [6]}, "head_arch": {"pi": [5], "vf": [4]}}},
    {"policy_kwargs": {"layer_norm": True, "net_arch": [], "head_arch": {"pi": [6], "vf": []}}},
    {"learning_rate": lambda remaining: 1e-3 * remaining, "ent_coef": 0.001},
]


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_50_updates_are_torchs_within_rounding(schedule, settings):
    """Truncation, termination, normalisation, entropy, clipping; every weight and every RMSprop average."""
    models = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine, schedule, **settings)
        model.set_random_seed(0)
        n_updates = 50 + (-50 % 3 if schedule == "cycle" else 0)
        model.learn(n_updates * model.n_steps * model.n_envs)
        assert model._n_updates == n_updates
        models.append(model)
    torch_model, fast_model = models
    heads = set(stacked_parameters(torch_model.policy).values())
    for mine, theirs in zip(fast_model.policy.parameters(), torch_model.policy.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 1e-4
        my_state, their_state = (m.policy.optimizer.state[p] for m, p in ((fast_model, mine), (torch_model, theirs)))
        th.testing.assert_close(my_state["square_avg"], their_state["square_avg"], rtol=1e-3, atol=1e-9)
        assert my_state["step"] == n_updates  # which RMSprop does not look at
        assert their_state["step"] == (n_updates / 3 if schedule == "cycle" and theirs in heads else n_updates)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("settings", SETTINGS[:-1])
def test_gradients_are_autograds(schedule, settings):
    """Of one rollout, by both engines; ``test_losses`` has the gradients at the outputs in float64."""
    model = recorded_model("fast", schedule, **settings)
    with th.no_grad():
        model.policy.log_std += th.randn_like(model.policy.log_std) * 0.3
    model.learn(1, StopTraining())
    fast, torch = model.numerics, TorchEngine(model)
    objective = [A2CLoss(1.0, model.ent_coef, model.vf_coef)]
    evaluations = []
    for engine in (fast, torch):  # torch's comes last: it reorders the buffer's rows
        (batch,) = engine.batches(model.rollout_buffer, None, model.normalize_advantage)
        evaluations.append(engine.evaluate(objective, batch))
    for parameter, place in fast.parameters.offsets.items():
        mine, expected = fast.parameters.gradient[place], parameter.grad.flatten().numpy()
        assert np.abs(mine - expected).max() <= 1e-5 * np.abs(expected).max()
    mine, expected = evaluations
    assert mine.tasks == expected.tasks
    assert mine.means == pytest.approx(expected.means, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(mine.losses[0].of_tasks, expected.losses[0].of_tasks, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_acting_values_and_advantages_are_sb3s(schedule):
    """The first rollout: same noise, so same actions; same values, advantages and returns."""
    buffers = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine, schedule, n_steps=12)  # episodes end within
        model.set_random_seed(0)
        model.learn(1, StopTraining())
        buffers.append(model.rollout_buffer)
    theirs, mine = buffers
    for name in ("actions", "values", "advantages", "returns", "rewards", "episode_starts"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-4, atol=2e-6, err_msg=name)
    for key in ("obs", "task"):
        np.testing.assert_allclose(mine.observations[key], theirs.observations[key])
    assert np.isnan(mine.log_probs).all()


class StopTraining(BaseCallback):
    """One rollout, before its update."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.model.train = lambda: None


def test_clipping_is_torchs():
    gradient = np.random.default_rng(0).normal(size=50)
    before, places = gradient.copy(), np.array([[0, 20], [30, 50]])
    is_trained = np.r_[:20, 30:50]
    parameter = nn.Parameter(th.zeros(40, dtype=th.float64))
    parameter.grad = th.tensor(gradient[is_trained])
    norm = th.nn.utils.clip_grad_norm_([parameter], 0.5)
    assert clip_gradient(gradient, places, 0.5) == pytest.approx(norm.item())
    np.testing.assert_allclose(gradient[is_trained], parameter.grad.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(gradient[20:30], before[20:30])  # of what is frozen or absent


def test_engines_can_be_changed_in_mid_training():
    """torch -> fast -> torch: parameters and optimizer state are one and the same."""
    switching, torch_only = recorded_model("torch"), recorded_model("torch")
    for engine in ("torch", "fast", "torch"):
        for model, name in ((switching, engine), (torch_only, "torch")):
            model.engine = name
            model.set_random_seed(1)
            model.learn(10 * 5 * 6)
    for mine, theirs in zip(switching.policy.parameters(), torch_only.policy.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 1e-4


def test_replaced_storage_is_noticed(tmp_path):
    model = recorded_model("fast").learn(60)
    vector = model.policy.parameters_to_vector()
    model.policy.load_from_vector(np.zeros_like(vector))
    model.policy.optimizer.load_state_dict(model.policy.optimizer.state_dict())
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    model.learn(60)
    assert not model.policy.parameters_to_vector().any()
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=mt.make_multitask_vec_env(recorded_tasks(), 2))
    assert loaded.learn(60).last_engine == "fast"


def test_sb3s_locals_are_there_and_what_is_left_out_is_documented():
    seen = set()

    class Watch(BaseCallback):
        def _on_step(self):
            seen.update(self.locals)
            return True

    recorded_model("torch").learn(30, Watch())
    torch_locals, seen = set(seen), set()
    recorded_model("fast").learn(30, Watch())
    missing = torch_locals - seen - {"self", "__class__"}
    assert missing == {"obs_tensor", "values", "log_probs", "idx", "done"}
    from sb3_multitask.fast import FastEngine

    assert all(f"``{name}``" in FastEngine.__doc__ for name in missing)


def test_callbacks_can_stop_and_save_at_any_time(tmp_path):
    model = recorded_model("fast")
    model.learn(120, CheckpointCallback(3, str(tmp_path)))
    assert mt.A2CMultiTask.load(tmp_path / "rl_model_18_steps").num_timesteps == 18

    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls < 8

    model.learn(1000, Stop())
    assert model.num_timesteps == 48
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == 78


def test_it_runs_by_itself_where_it_applies_and_says_so_once(capsys):
    model = recorded_model("auto", verbose=1)
    model.learn(30)
    model.learn(30)
    assert capsys.readouterr().out.count("Using the fast engine") == 1
    assert model.last_engine == "fast"


def test_in_cycle_every_task_is_logged():
    """Updates are logged when somebody asks: the latest of every task, not of the last one only."""
    model = recorded_model("fast", "cycle").learn(5 * 2 * 7)
    for name in "ABC":
        assert f"train/{name}/policy_loss" in model.logger.name_to_value


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"policy_kwargs": {"activation_fn": nn.ReLU}}, "the activation is ReLU, not Tanh"),
        ({"policy_kwargs": {"log_std_mode": "state_dependent"}}, 'log_std_mode is "state_dependent"'),
        ({"policy_kwargs": {"task_embedding": 3}}, "task_embedding is 3"),
        ({"policy_kwargs": {"share": "all"}}, 'task_embedding is "onehot"'),
        ({"policy_kwargs": {"features_extractor_class": OwnFeatures}}, "features_extractor_class is OwnFeatures"),
        ({"policy_kwargs": {"optimizer_class": th.optim.AdamW}}, "the optimizer is AdamW"),
        ({"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"momentum": 0.9}}}, "momentum"),
    ],
)
def test_what_it_does_not_cover_falls_back_to_torch(settings, reason, capsys):
    model = recorded_model("auto", verbose=1, **settings).learn(30)
    assert model.last_engine == "torch"
    assert reason in why_torch(model, "auto")
    assert f"Using the torch engine ({why_torch(model, 'auto')})" in capsys.readouterr().out
    with pytest.raises(ValueError, match='`engine="fast"` does not apply'):
        recorded_model("fast", **settings).learn(30)


def test_other_reasons_against_it():
    class OwnPolicy(mt.MultiTaskActorCriticPolicy):
        pass

    env = mt.make_multitask_vec_env(drift_tasks(2), 1)
    assert "OwnPolicy" in why_torch(mt.A2CMultiTask(OwnPolicy, env, device="cpu"), "auto")

    class Relabel(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            return self.venv.step_wait()

    assert "wrapped with Relabel" in why_torch(
        mt.A2CMultiTask("MultiTaskMlpPolicy", Relabel(env), device="cpu"), "auto"
    )
    single = mt.TaskEnv(DriftEnv(), "A", ["A"])
    assert "not a MultiTaskVecEnv" in why_torch(mt.A2CMultiTask("MultiTaskMlpPolicy", single, device="cpu"), "auto")


def test_same_seed_same_bits_and_another_differs():
    def weights(seed):
        env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=seed)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, device="cpu", engine="fast")
        return model.learn(300).policy.parameters_to_vector()

    np.testing.assert_array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))


# What callbacks change


class EditsAdvantages(BaseCallback):
    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.advantages, buffer.returns = np.zeros_like(buffer.advantages), buffer.returns + 1


class AddsReward(EditsAdvantages):
    """SB3's recipe for an intrinsic reward."""

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.rewards += 0.3
        buffer.compute_returns_and_advantage(th.zeros(6), np.ones(6))


class HalvesWeights(EditsAdvantages):
    def _on_rollout_end(self):
        vector = self.model.policy.parameters_to_vector()
        self.model.policy.load_from_vector(vector * 0.5)


class PutsBackWeights(EditsAdvantages):
    def _on_training_start(self):
        self.first = copy.deepcopy(self.model.get_parameters()["policy"])

    def _on_rollout_end(self):
        if self.num_timesteps % 90 == 0:
            self.model.set_parameters({"policy": self.first}, exact_match=False)


class ChangesObservationsInPlace(EditsAdvantages):
    def _on_rollout_end(self):
        self.model.rollout_buffer.observations["obs"] *= 0.5


class PutsInWhatIsReadOnly(EditsAdvantages):
    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.advantages = buffer.advantages * np.float32(3)
        buffer.advantages.setflags(write=False)


class ShufflesTheBuffer(EditsAdvantages):
    def _on_rollout_end(self):
        next(self.model.rollout_buffer.get())


@pytest.mark.parametrize("teach", [False, True])
@pytest.mark.parametrize(
    "callback",
    [
        *(EditsAdvantages, AddsReward, ChangesObservationsInPlace, PutsInWhatIsReadOnly),
        *(HalvesWeights, PutsBackWeights, ShufflesTheBuffer),
    ],
)
def test_what_callbacks_change_is_learned_from_as_with_torch(callback, teach):
    kwargs = {"learning_rate": 7e-3}
    if teach:
        kwargs |= {"teachers": dict.fromkeys("ABC", recorded_model("torch", normalize=False)), "rl_coef": 1.0}
    weights = []
    for engine, extra in (("torch", [callback()]), ("fast", [callback()]), ("fast", None)):
        model = recorded_model(engine, **kwargs)
        model.set_random_seed(0)
        model.learn(300, extra)
        weights.append(np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()]))
    np.testing.assert_allclose(weights[1], weights[0], atol=2e-5)
    if callback is not ShufflesTheBuffer:
        assert np.abs(weights[1] - weights[2]).max() > 1e-3


def test_new_weights_act_at_once():
    """With a trunk and heads that can only give 64, the next action is 64."""

    class Sets(BaseCallback):
        def _on_step(self):
            seen.append(self.locals["actions"].copy())
            if self.n_calls == 2:
                with th.no_grad():
                    for name, parameter in self.model.policy.named_parameters():
                        parameter.fill_(100.0 if name.endswith("bias") else 0.0)
                    self.model.policy.action_net.layers[-1].weight.fill_(1.0)
                    self.model.policy.action_net.layers[-1].bias.fill_(0.0)
                    self.model.policy.log_std.fill_(-20.0)
            return self.n_calls < 3

    for engine in ("torch", "fast"):
        seen = []
        model = recorded_model(engine, normalize=False)
        model.learn(30, Sets())
        np.testing.assert_allclose(seen[2], 64.0, atol=1e-3)


def test_gamma_is_the_buffers_as_in_sb3():
    weights = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine)
        model.gae_lambda = 0.2  # SB3 does not look at it again
        model.rollout_buffer.gamma, model.rollout_buffer.gae_lambda = 0.5, 0.1
        model.set_random_seed(0)
        model.learn(300)
        weights.append(np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()]))
    np.testing.assert_allclose(weights[1], weights[0], atol=2e-5)


def test_nets_that_were_changed_are_torchs():
    model = recorded_model("auto")
    model.policy.mlp_extractor.policy_net[1] = nn.ReLU()
    assert "not Linear and Tanh" in why_torch(model, "auto")
    model = recorded_model("auto", policy_kwargs={"layer_norm": "critic"})
    model.policy.mlp_extractor.value_net[1].eps = 1e-3
    assert "not Linear, LayerNorm and Tanh" in why_torch(model, "auto")
    model = recorded_model("auto")
    model.policy.value_net.register_forward_hook(lambda *_: None)
    assert why_torch(model, "auto") == "the policy has hooks"
    made = partial(nn.LeakyReLU, 0.2)
    model = recorded_model("auto", policy_kwargs={"activation_fn": made}).learn(30)
    assert model.last_engine == "torch"
    with pytest.raises(ValueError, match=r"activation is LeakyReLU\(negative_slope=0.2\)"):
        mt.save_agent(model, "nowhere")


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_a_model_and_its_saved_copy_act_with_equal_bits(schedule, tmp_path):
    """Torch's products round differently for other addresses, on some processors."""
    model = recorded_model("fast", schedule).learn(150)
    assert model.last_engine == "fast"
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model")
    assert all(parameter.data_ptr() % 64 == 0 for parameter in model.policy.parameters())
    rng = np.random.default_rng(0)
    for i in range(100):
        obs = {"obs": rng.normal(size=3), "task": i % 3}
        np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))


def test_gaps_between_parameters_stay_zero_and_count_for_nothing():
    model = recorded_model("fast", max_grad_norm=1e-3).learn(150)
    mt.freeze(model, "trunk")
    model.learn(150)
    flat = model.numerics.parameters
    is_gap = np.ones(len(flat.weights), dtype=bool)
    for place in flat.offsets.values():
        is_gap[place] = False
    assert is_gap.any()
    assert not flat.gradient[is_gap].any()
    assert not flat.weights[is_gap].any()
    trained = np.concatenate([flat.gradient[start:stop] for start, stop in flat.places(None)])
    assert np.linalg.norm(trained) == pytest.approx(1e-3, rel=1e-2)  # clipped, so of what is trained alone


def test_places_are_not_kept_for_every_set_of_tasks_that_was_ever_present():
    model = make_model(drift_tasks(5))
    flat = FlatParameters(model.policy)
    for present in list(product([False, True], repeat=5)) * 2:
        places = flat.places(present)
        heads = flat.offsets[model.policy.value_net.layers[-1].bias]
        covered = [any(start <= heads.start + task < stop for start, stop in places) for task in range(5)]
        assert covered == list(present)
        assert len(flat._places) <= 6


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_a_single_row_is_not_normalised(schedule):
    """As in SB3's PPO: its spread would be NaN."""
    weights = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine, schedule, 1, tasks=recorded_tasks(1 if schedule == "joint" else 3), n_steps=1,
                           normalize_advantage=True).learn(90)  # fmt: skip
        assert model.last_engine == engine
        assert model._n_updates >= 90
        weights.append(model.policy.parameters_to_vector())
    assert np.isfinite(weights[0]).all()
    np.testing.assert_allclose(*weights, atol=1e-4)

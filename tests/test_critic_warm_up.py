"""A critic that learns alone: no weight of the actor moves while no term of the loss is about the actor."""

import contextlib

import pytest
import torch as th
from helpers.drift import recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import weights_equal
from helpers.policies import OwnFeatures
from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from sb3_multitask.agents import agent_of

NAMES = ("A", "B", "C")
STEPS = 8 * 6  # of a rollout in "joint"
STAGES = {  # distil, warm the critic up, learn; Adam still remembers the gradients of one stage in the next
    "distill_coef": mt.PiecewiseConstant({0: 1.0, 0.25: 0.0, 0.75: 0.1}),
    "rl_coef": mt.PiecewiseConstant({0: 0.0, 0.75: 1.0}),
    "critic_coef": 1.0,
    "ent_coef": 0.1,
}
ALGORITHMS = {
    "ppo": (mt.PPOMultiTask, {"batch_size": 16, "n_epochs": 2}),
    "ppo_decay": (
        mt.PPOMultiTask,
        {"batch_size": 16, "policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-5}}},
    ),
    "ppo_state": (mt.PPOMultiTask, {"batch_size": 16, "policy_kwargs": {"log_std_mode": "state_dependent"}}),
    "a2c": (mt.A2CMultiTask, {}),
    "a2c_adam": (mt.A2CMultiTask, {"policy_kwargs": {"optimizer_class": th.optim.Adam}}),
}


@pytest.fixture(scope="module")
def teachers():
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=5)
    teacher = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=9, learning_rate=0.01).learn(600)
    return dict.fromkeys(NAMES, agent_of(teacher))


def student(name, engine, **settings):
    algorithm, own = ALGORITHMS[name]
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    given = {"n_steps": 8, "seed": 0, "learning_rate": 3e-3, "engine": engine, **own, **settings}
    return algorithm("MultiTaskMlpPolicy", env, **given)


class Weights(BaseCallback):
    """Keeps the weights before every update, and the last one's."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_rollout_end(self):
        self.take(self.model)

    def take(self, model):
        self.seen.append({name: p.detach().clone() for name, p in model.policy.named_parameters()})

    def _on_step(self):
        return True

    def moved(self, update):
        """Names of the parameters that an update changed."""
        before, after = self.seen[update : update + 2]
        return {name for name in before if not th.equal(before[name], after[name])}


def is_critics(name):
    return name.startswith(("mlp_extractor.value_net", "value_net", "vf_features_extractor"))


def moves_of(model, n_rollouts=8):
    weights = Weights()
    model.learn(n_rollouts * model.n_steps * model.n_envs, weights)
    weights.take(model)
    return [weights.moved(update) for update in range(n_rollouts)], set(weights.seen[0])


@pytest.mark.parametrize("engine", ["torch", "fast"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_warm_up_moves_every_weight_of_the_critic_and_none_of_the_actor(teachers, name, engine):
    if name in ("ppo_decay", "ppo_state") and engine == "fast":
        engine = "auto"  # it is torch's
    moved, names = moves_of(student(name, engine, teachers=teachers, **STAGES))
    critic = set(filter(is_critics, names))
    assert len(critic) == 6
    assert [set(moves) for moves in moved[1:5]] == [critic] * 4  # shares 2/8 to 5/8
    for update in (0, 5, 6, 7):
        assert not names - critic - moved[update], update


@pytest.mark.parametrize("engine", ["torch", "fast"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_a_warm_up_needs_no_teachers(engine, schedule):
    """The actor has learned, and the optimizer remembers it."""
    rl = mt.PiecewiseConstant({0: 1.0, 0.5: 0.0})
    model = student("ppo", engine, rl_coef=rl, critic_coef=1.0, task_schedule=schedule, ent_coef=0.1)
    moved, names = moves_of(model, 6)
    assert all(names - set(filter(is_critics, names)) <= moves for moves in moved[:2])
    assert all(moves and set(filter(is_critics, moves)) == moves for moves in moved[3:])


@pytest.mark.parametrize(
    "options",
    [
        {"task_embedding": 2, "layer_norm": True},
        {"share": "all"},
        {"features_extractor_class": OwnFeatures},
        {"features_extractor_class": OwnFeatures, "share_features_extractor": False},
    ],
    ids=["learned", "one_head", "extractor", "extractors_apart"],
)
def test_a_warm_up_knows_what_the_actor_shares_with_the_critic(options):
    rl = mt.PiecewiseConstant({0: 1.0, 0.5: 0.0})
    model = student("ppo", "torch", rl_coef=rl, critic_coef=1.0, ent_coef=0.1, policy_kwargs=options)
    moved, names = moves_of(model, 6)
    critic = set(filter(is_critics, names))
    assert ("vf_features_extractor.net.0.weight" in critic) == (options.get("share_features_extractor") is False)
    assert all(names == moves for moves in moved[:2])
    assert all(moves == critic for moves in moved[3:])


def test_what_is_frozen_stays_so(teachers):
    model = student("ppo", "fast", teachers=teachers, **STAGES)
    mt.freeze(model, "trunk")
    moved, _ = moves_of(model)
    assert not [name for moves in moved for name in moves if name.startswith("mlp_extractor.")]
    assert {name for name, p in model.policy.named_parameters() if not p.requires_grad} == set(model.frozen)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("name", ["ppo", "a2c", "a2c_adam"])
def test_both_engines_agree_through_the_stages(teachers, name, schedule):
    models = []
    for engine in ("torch", "fast"):
        model = student(name, engine, teachers=teachers, task_schedule=schedule, **STAGES)
        models.append(model.learn(24 * model.n_steps * model.n_envs))
        assert model.last_engine == engine
    pairs = zip(*(model.policy.parameters() for model in models), strict=True)
    assert max((a - b).abs().max() for a, b in pairs) < 1e-4


def test_the_rate_does_not_follow_the_divergence_of_an_actor_that_is_held(teachers):
    rates = []

    class Rates(BaseCallback):
        def _on_rollout_end(self):
            rates.append(self.model.policy.optimizer.param_groups[0]["lr"])

        def _on_step(self):
            return True

    model = student("ppo", "fast", teachers=teachers, desired_kl=1e-3, **STAGES)
    model.learn(8 * STEPS, Rates())
    assert rates[0] == 3e-3  # before any update
    assert rates[1] < rates[0]
    assert len(set(rates[1:6])) == 1
    assert rates[6] != rates[5]


@pytest.mark.native
@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_a_resume_in_any_stage_makes_the_same_bits(tmp_path, engine, schedule):
    bodies = [mt.Task(name, f"HalfCheetah{name}-v0") for name in ("SmallFoot", "BigFoot")]
    env = mt.make_multitask_vec_env(bodies, 1, seed=3)
    teacher = agent_of(mt.PPOMultiTask("MultiTaskMlpPolicy", env, n_steps=20, batch_size=40, seed=3).learn(80))
    stages = {**STAGES, "student_rollout_prob": mt.PiecewiseConstant({0: 0.5, 0.25: 1.0})}

    def train(folder, kill_at):
        env = mt.make_multitask_vec_env(bodies, 2, seed=1)
        model = mt.PPOMultiTask("MultiTaskMlpPolicy", env, n_steps=20, batch_size=16, n_epochs=2, seed=0, engine=engine,
                                task_schedule=schedule, teachers=dict.fromkeys(("SmallFoot", "BigFoot"), teacher),
                                **stages)  # fmt: skip
        with contextlib.suppress(Killed):
            model.learn(800, [mt.ResumableCheckpointCallback(folder, every=80, verbose=0), KillAt(kill_at)])
        return model

    uninterrupted = train(tmp_path / "a", 10**9)
    for kill_at in (130, 333, 470, 690):  # before, in and after the warm-up
        train(tmp_path / "b", kill_at)
    resumed = train(tmp_path / "b", 10**9)
    assert resumed.num_timesteps == uninterrupted.num_timesteps
    assert weights_equal(uninterrupted, resumed)

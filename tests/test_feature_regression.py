"""Actor-Mimic's feature regression: the student's last hidden layer, mapped linearly, learns those of its teachers."""

import contextlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers.drift import recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import recorded_model, weights_equal
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.distillation.policies import AgentTeacher
from sb3_multitask.distillation.sources import Teacher, policy_of
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.losses import A2CLoss, FeatureLoss, Outputs, feature_distance
from sb3_multitask.policies.feature_maps import FeatureMaps
from sb3_multitask.readers import read_sb3_zip

ROOT = Path(__file__).parents[1]
NAMES = ("A", "B", "C")


def agent(seed, **policy_kwargs):
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=5)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, learning_rate=0.01, policy_kwargs=policy_kwargs)
    return agent_of(model.learn(200))


@pytest.fixture(scope="module")
def teachers():
    """Teachers whose last hidden layers differ in width: in the trunk, in the head, and behind a layer norm."""
    a, b = agent(1), agent(2, head_arch={"pi": [5], "vf": []}, activation_fn="relu")
    return {"A": a, "B": b, "C": agent(3, net_arch={"pi": [7, 9], "vf": [4]}, layer_norm=True)}


def student(teachers, schedule="joint", **settings):
    return recorded_model("auto", schedule, teachers=teachers, **{"distill_features": 0.1, **settings})


def maps_of(model):
    return {name: tensor.clone() for name, tensor in model.feature_maps.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(th.equal(a[name], b[name]) for name in a)


# The loss and the maps


def worked():
    """Two tasks; student features (1, 2) and (3, -1); teachers of two units and of one."""
    maps = FeatureMaps(2, [2, 1])
    with th.no_grad():
        maps.maps[0].weight[:] = th.tensor([[1.0, 0.0], [0.0, 2.0]])
        maps.maps[0].bias[:] = th.tensor([0.5, 0.0])
        maps.maps[1].weight[:] = th.tensor([[2.0, 1.0]])
        maps.maps[1].bias[:] = -1.0
    features = th.tensor([[1.0, 2.0], [3.0, -1.0]], requires_grad=True)
    return maps, features, th.tensor([0, 1])


class Batch:
    teacher_features = th.tensor([[1.0, 1.0], [2.0, 0.0]])


def test_a_hand_worked_case():
    maps, features, task = worked()
    mapped = maps(features, task)
    assert mapped.tolist() == [[1.5, 4.0], [4.0, 0.0]]  # 0 beyond the second teacher's one unit
    outputs = Outputs(None, None, None, None, mapped)
    loss = FeatureLoss(0.1)
    assert loss.rows(Batch, outputs).feature_loss.tolist() == [9.25, 4.0]  # 0.5^2 + 3^2, 2^2: sums over units
    terms = loss.terms(Batch, outputs)
    assert terms.feature_loss.item() == pytest.approx(6.625)
    assert loss.weighted(terms).item() == pytest.approx(0.6625)
    loss.weighted(terms).backward()
    # 0.1 * 2 / 2 rows * errors (0.5, 3) and (2), through the maps' weights
    np.testing.assert_allclose(features.grad, [[0.05, 0.6], [0.4, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(maps.maps[0].weight.grad, [[0.05, 0.1], [0.3, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(maps.maps[1].bias.grad, [0.2], rtol=1e-6)


def test_a_task_without_rows_leaves_its_map_without_a_gradient():
    maps, features, _ = worked()
    maps(features, th.tensor([1, 1])).sum().backward()
    assert maps.maps[0].weight.grad is None
    assert maps.maps[1].weight.grad is not None


def test_gradients_agree_with_finite_differences():
    th.manual_seed(0)
    maps, task = FeatureMaps(4, [3, 5, 2]).double(), th.tensor([2, 0, 1, 1, 0, 2, 2])
    teacher = maps(th.randn(7, 4, dtype=th.float64), task).detach()

    def loss(features, *weights):
        parameters = dict(zip(dict(maps.named_parameters()), weights, strict=True))
        mapped = th.func.functional_call(maps, parameters, (features, task))
        return feature_distance(mapped, teacher).mean()

    inputs = th.randn(7, 4, dtype=th.float64, requires_grad=True), *maps.parameters()
    assert th.autograd.gradcheck(loss, inputs)


def test_a_models_gradient_agrees_with_finite_differences(teachers, monkeypatch):
    """Through the student's nets and the maps, in the objective of A2C with distillation."""
    model = student(teachers, rl_coef=0.5, policy_kwargs={"head_arch": {"pi": [6], "vf": []}})
    model.learn(5 * model.n_envs)
    model.policy.double()
    model.feature_maps.double()
    (batch,) = model.numerics.batches(model.rollout_buffer, None, normalize_advantage=False)
    batch = batch._replace(**{
        name: value.double() for name, value in batch._asdict().items() if isinstance(value, th.Tensor)
    })  # fmt: skip
    split = model.policy.split_observation

    def split_doubles(obs):
        vectors, *others = split(obs)
        return vectors.double(), *others

    monkeypatch.setattr(model.policy, "split_observation", split_doubles)
    objective = model.with_teachers(A2CLoss(0.5, 0.0, 0.0), 0.7)
    assert [type(loss).__name__ for loss in objective] == ["A2CLoss", "DistillationLoss", "FeatureLoss"]

    def value():
        return sum(terms.weighted() for terms in model.numerics.evaluate(objective, batch).losses)

    value()
    named = dict(model.policy.named_parameters()) | dict(model.feature_maps.named_parameters())
    gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    assert not gradients["value_net.layers.0.weight"].any()
    for name in ("mlp_extractor.policy_net.0.weight", "action_net.layers.0.weight", "maps.0.weight", "maps.2.bias"):
        parameter, gradient = named[name].data.view(-1), gradients[name].view(-1)
        place = int(gradient.abs().argmax())
        values = []
        for sign in (1, -1):
            parameter[place] += sign * 1e-6
            values.append(value())
            parameter[place] -= sign * 1e-6
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[place].item(), rel=1e-5), name


# What is regressed


POLICIES = [
    {},
    {"head_arch": {"pi": [5, 6], "vf": []}},
    {"net_arch": [8], "layer_norm": True, "head_arch": {"pi": [5], "vf": []}},
    {"share": "all"},
    {"task_embedding": 3, "log_std_mode": "state_dependent", "activation_fn": "elu"},
]


@pytest.mark.parametrize("policy_kwargs", POLICIES)
def test_features_of_agent_and_policy_are_what_the_last_layer_takes(policy_kwargs):
    model = recorded_model("torch", normalize=False, policy_kwargs=policy_kwargs)
    taken = []
    last = model.policy.action_net.layers[-1]
    hook = last.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    obs, task = th.randn(12, 3), th.arange(12) % 3
    rows = {"obs": obs, "task": task}
    with th.no_grad():
        features = model.policy.actor_features(rows)
        model.policy.get_distribution(rows)
    hook.remove()
    given = taken[-1].flatten(0, 1)
    assert features.shape == (12, model.policy.actor_features_dim) == (12, given.shape[1])
    if policy_kwargs.get("share") != "all":
        given = given.reshape(3, 4, -1).swapaxes(0, 1).flatten(0, 1)  # grouped by task
    np.testing.assert_array_equal(features, given)
    mine = agent_of(model)
    assert mine.feature_dim == features.shape[1]
    for head in range(3):
        np.testing.assert_allclose(mine.features(obs.numpy()[task == head], head), features[task == head], atol=1e-6)


def test_features_of_sac_are_those_of_its_actor():
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, seed=0, policy_kwargs={"net_arch": [8, 6]}, device="cpu")
    teacher = policy_of(Teacher(model), "Pendulum", 1)
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with th.no_grad():
        expected = model.actor.latent_pi(th.tensor(obs))
    assert teacher.feature_dim == 6
    np.testing.assert_allclose(teacher.features(obs), expected, atol=1e-6)


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
@pytest.mark.parametrize("by_teacher", [False, True])
def test_the_buffer_holds_the_teachers_features_of_its_rows(teachers, algorithm, by_teacher):
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0, normalize=False)
    raw = dict.fromkeys(NAMES, agent_of(recorded_model("torch", normalize=False, policy_kwargs={"net_arch": [4]})))
    raw["B"] = agent_of(recorded_model("torch", normalize=False, policy_kwargs={"net_arch": [3]}))
    sizes = {"batch_size": 8, "n_epochs": 2} if algorithm is mt.PPOMultiTask else {}
    model = algorithm(
        *("MultiTaskMlpPolicy", env),
        n_steps=8,
        teachers=raw,
        distill_features=0.1,
        student_rollout_prob=0.0 if by_teacher else 1.0,
        **sizes,
    )
    model.learn(8 * 6)
    seen = 0
    for batch in model.rollout_buffer.get(8):
        for obs, task, features in zip(*batch.observations.values(), batch.teacher_features, strict=True):
            name = NAMES[int(task)]
            own = raw[name].features(obs.numpy()[None], int(task))[0]
            np.testing.assert_allclose(features[: len(own)], own, atol=1e-6)
            assert (features[len(own) :] == 0).all()
            seen += 1
    assert seen == 48


@pytest.mark.slow
def test_a_student_learns_its_teachers_features(teachers):
    losses = {}
    for n_updates in (1, 600):
        model = student(teachers)
        model.learn(5 * model.n_envs * n_updates)
        assert model.last_engine == "torch"
        log = model.logger.name_to_value
        losses[n_updates] = np.array([log[f"distill/{name}/feature_loss"] for name in NAMES])
        assert log["train/feature_loss"] == pytest.approx(losses[n_updates].mean(), rel=1e-5)  # tasks have as many rows
    assert (losses[600] < 0.3 * losses[1]).all(), losses


def test_ppo_logs_it_too(teachers):
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    model = mt.PPOMultiTask(
        "MultiTaskMlpPolicy", env, n_steps=8, batch_size=16, n_epochs=2, teachers=teachers, distill_features=0.1, seed=0
    ).learn(96)
    log = model.logger.name_to_value
    assert log["train/loss"] == pytest.approx(log["train/distill_loss"] + 0.1 * log["train/feature_loss"], rel=0.5)
    assert {f"distill/{name}/feature_loss" for name in NAMES} <= set(log)


class Moves(BaseCallback):
    """Keeps the maps, and what trains, before every update."""

    def __init__(self):
        super().__init__()
        self.maps, self.weights = [], []

    def _on_rollout_end(self):
        self.maps.append(maps_of(self.model))
        self.weights.append({name: p.detach().clone() for name, p in self.model.policy.named_parameters()})

    def _on_step(self):
        return True


ADAM = {"policy_kwargs": {"optimizer_class": th.optim.Adam}}


def test_features_alone_train_the_actor_before_its_last_layer(teachers):
    model, moves = student(teachers, distill_coef=0.0), Moves()
    model.learn(3 * 5 * model.n_envs, moves)
    moved = {name for name, before in moves.weights[0].items() if not th.equal(before, moves.weights[2][name])}
    assert moved == {f"mlp_extractor.policy_net.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}
    assert not equal(moves.maps[0], moves.maps[2])


def test_maps_of_tasks_that_wait_stay_as_they_are(teachers):
    model, moves = student(teachers, "cycle", **ADAM), Moves()
    model.learn(6 * 5 * model.n_envs, moves)
    for update, (before, after) in enumerate(zip(moves.maps, moves.maps[1:], strict=False)):
        moved = {name for name in before if not th.equal(before[name], after[name])}
        assert moved == {f"maps.{update % 3}.weight", f"maps.{update % 3}.bias"}


def test_while_a_schedule_says_0_the_maps_do_not_move(teachers):
    model, moves = student(teachers, distill_features=mt.PiecewiseConstant({0: 0.1, 0.5: 0.0}), **ADAM), Moves()
    model.learn(8 * 5 * model.n_envs, moves)
    assert not equal(moves.maps[0], moves.maps[2])
    assert equal(moves.maps[5], moves.maps[7])


def test_the_gradient_of_the_maps_is_clipped_with_the_actors(teachers):
    model = student(teachers, max_grad_norm=1e-3, distill_features=5.0)
    model.learn(5 * model.n_envs)
    gradients = [p.grad for p in (*model.policy.parameters(), *model.feature_maps.parameters()) if p.grad is not None]
    assert th.stack([gradient.norm() for gradient in gradients]).norm() == pytest.approx(1e-3, rel=1e-3)


def test_weights_of_tasks_and_combiners_reach_it(teachers):
    model, moves = student(teachers, task_weights={"B": 0.0}, gradient_combiner="pcgrad", conflict_freq=1), Moves()
    model.learn(3 * 5 * model.n_envs, moves)
    assert not equal(moves.maps[0], moves.maps[2])
    assert th.equal(moves.maps[0]["maps.1.weight"], moves.maps[2]["maps.1.weight"])
    assert "conflict/actor/cosine_mean" in model.logger.name_to_value


def test_0_is_as_without_it(tmp_path, teachers):
    models = [recorded_model("torch", teachers=teachers, **given).learn(300) for given in ({}, {"distill_features": 0})]
    assert weights_equal(*models)
    assert models[1].feature_maps is None
    assert models[1].rollout_buffer.teacher_features is None
    assert "feature_maps" not in models[1].get_state()
    assert recorded_model("auto", teachers=teachers, distill_features=0.0).learn(30).last_engine == "fast"


# Files


def test_files_hold_the_maps_and_agents_do_not(tmp_path, teachers):
    model = student(teachers, **ADAM).learn(300)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    for kwargs in ({}, {"env": env, "teachers": {}}, {"env": env, "teachers": teachers}):
        loaded = mt.A2CMultiTask.load(tmp_path / "model.zip", **kwargs)
        assert loaded.distill_features == 0.1
        assert equal(maps_of(loaded), maps_of(model))
        assert len(loaded.policy.optimizer.state) == len(model.policy.optimizer.state)
        ours, theirs = (m.policy.optimizer.state[m.feature_maps.maps[2].weight]["exp_avg"] for m in (loaded, model))
        assert th.equal(ours, theirs)
    before = maps_of(loaded)
    loaded.learn(60, reset_num_timesteps=False)
    assert not equal(maps_of(loaded), before)
    assert loaded.logger.name_to_value["train/feature_loss"] > 0
    without = mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, teachers={}).learn(30)
    assert "train/feature_loss" not in without.logger.name_to_value
    for mine in (agent_of(model), mt.load_agent(tmp_path / "model.zip")):
        assert not [name for name in mine.weights if "maps" in name]
    assert set(read_sb3_zip(tmp_path / "model.zip").weights) == set(model.policy.state_dict())


def test_a_model_without_maps_continues_with_new_ones(tmp_path, teachers):
    model = student(teachers, distill_features=0.0).learn(300)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    loaded = mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, teachers=teachers, distill_features=0.1)
    assert weights_equal(loaded, model)
    assert len(loaded.policy.optimizer.state) == len(model.policy.optimizer.state)
    before = maps_of(loaded)
    loaded.learn(60)
    assert not equal(before, maps_of(loaded))
    loaded.save(tmp_path / "second")
    third = mt.A2CMultiTask.load(tmp_path / "second.zip", env=env, teachers=teachers)
    assert equal(maps_of(third), maps_of(loaded))
    with pytest.raises(ValueError, match=r"maps of a model.*`distill_features`, and this model has none.*transfer"):
        model.set_parameters(tmp_path / "second.zip")


def test_a_mimics_weights_begin_another_task(teachers):
    model = student(teachers).learn(300)
    target = recorded_model("torch", tasks=recorded_tasks(1))
    mt.transfer(target, model, {"A": "B"})
    assert th.equal(target.policy.mlp_extractor.policy_net[0].weight, model.policy.mlp_extractor.policy_net[0].weight)
    assert target.feature_maps is None
    target.learn(60)


@pytest.mark.native
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (mt.A2CMultiTask, {"n_steps": 20, "policy_kwargs": {"optimizer_class": th.optim.Adam}}),
        (mt.PPOMultiTask, {"n_steps": 20, "batch_size": 16, "n_epochs": 2, "task_schedule": "cycle"}),
    ],
)
def test_a_resume_makes_the_same_bits(tmp_path, algorithm, settings):
    bodies = [mt.Task(name, f"HalfCheetah{name}-v0") for name in ("SmallFoot", "BigFoot")]
    teacher = mt.load_pretrained("HalfCheetahBody6-vanilla")

    def train(folder, kill_at, **changes):
        env = mt.make_multitask_vec_env(bodies, 2, seed=1)
        given = {"teachers": dict.fromkeys(("SmallFoot", "BigFoot"), teacher), "distill_features": 0.1, "rl_coef": 0.5}
        given |= {**settings, "student_rollout_prob": 0.7, **changes}
        model = algorithm("MultiTaskMlpPolicy", env, seed=0, **given)
        with contextlib.suppress(Killed):
            model.learn(480, [mt.ResumableCheckpointCallback(folder, every=80, verbose=0), KillAt(kill_at)])
        return model

    uninterrupted = train(tmp_path / "a", 10**9)
    for kill_at in (130, 333):
        train(tmp_path / "b", kill_at)
    resumed = train(tmp_path / "b", 10**9)
    assert resumed.num_timesteps == uninterrupted.num_timesteps
    assert weights_equal(uninterrupted, resumed)
    assert equal(maps_of(uninterrupted), maps_of(resumed))
    for changes, message in (({"distill_features": 0.2}, "distill_features: 0.1 then, 0.2 now"),
                             ({"distill_features": 0.0, "engine": "torch"}, "0.1 then, 0.0 now")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "b", 10**9, **changes)


def test_a_state_with_maps_is_for_a_model_with_maps(teachers):
    model = student(teachers).learn(30)
    state = model.get_state()
    other = student(teachers, distill_features=0.0)
    with pytest.raises(ValueError, match="The state has maps of `distill_features`, the model has none"):
        other.set_state(state)
    with pytest.raises(ValueError, match="The model has maps of `distill_features`, the state has none"):
        model.set_state(other.learn(30).get_state())
    state["feature_maps"]["maps.1.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"maps\.1\.bias are not finite"):
        model.set_state(state)


def test_maps_of_other_sizes_are_refused_before_anything_changes(teachers):
    model, other = student(teachers), student({**teachers, "B": teachers["A"]}).learn(30)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    for take_over, given in (
        (model.set_parameters, other.get_parameters()),
        (model.set_state, other.get_state()),
    ):
        with pytest.raises(ValueError, match=r"maps\.1\.weight is \(64, 64\) there and \(5, 64\) in the model"):
            take_over(given)
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())


@pytest.mark.parametrize("optimizer", [{}, ADAM])
@pytest.mark.parametrize("taught", [False, True])
def test_a_mimic_that_regresses_no_more_has_both_engines(tmp_path, teachers, optimizer, taught):
    student(teachers, **optimizer).learn(300).save(tmp_path / "mimic")
    models = []
    for engine in ("torch", "fast"):
        env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
        given = {"teachers": teachers if taught else {}, "distill_features": 0.0, "engine": engine}
        model = mt.A2CMultiTask.load(tmp_path / "mimic.zip", env=env, **given).learn(300)
        assert model.last_engine == engine
        models.append(model)
    first, second = (model.policy.state_dict() for model in models)
    for name, tensor in first.items():
        th.testing.assert_close(tensor, second[name], rtol=1e-3, atol=1e-5)
    assert equal(maps_of(models[0]), maps_of(models[1]))
    models[1].save(tmp_path / "second")
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    again = {"teachers": teachers, "distill_features": 0.1, "engine": "auto"}
    third = mt.A2CMultiTask.load(tmp_path / "second.zip", env=env, **again).learn(30)
    assert third.last_engine == "torch"
    assert third.logger.name_to_value["train/feature_loss"] > 0


class Averaging(BaseFeaturesExtractor):
    """Keeps averages of what it sees, and counts how often it sees some."""

    def __init__(self, box):
        super().__init__(box, 3)
        self.norm = th.nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x)


def test_an_extractor_sees_the_rows_of_an_update_once(teachers):
    policy_kwargs = {"features_extractor_class": Averaging}
    models = [
        student(teachers, distill_features=features, policy_kwargs=policy_kwargs).learn(60) for features in (0.0, 1e-12)
    ]
    counts = [model.policy.features_extractor.norm.num_batches_tracked.item() for model in models]
    assert counts == [2, 2]  # updates
    assert not models[1].policy.action_net._forward_pre_hooks


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": None}, "`distill_features`=0.1 is for distillation, and `teachers` is empty"),
        ({"distill_features": -1}, "distill_features"),
        ({"distill_features": float("nan")}, "distill_features"),
        ({"engine": "fast"}, "`distill_features` learns maps of its own"),
        ({"policy_kwargs": {"net_arch": []}}, "`distill_features` needs a student with a hidden layer"),
    ],
)
def test_arguments_are_checked(teachers, changes, message):
    given = {"teachers": teachers, "distill_features": 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        recorded_model(given.pop("engine", "auto"), **given).learn(30)


def test_teachers_without_a_known_hidden_layer_are_refused(teachers):
    message = "`distill_features` needs teachers with a hidden layer, and that of task 'B' "
    with pytest.raises(ValueError, match=message + "is a function"):
        student({**teachers, "B": lambda obs: obs[:, :2]})
    flat = agent(4, net_arch=[])
    with pytest.raises(ValueError, match=message + "has no hidden layer"):
        student({**teachers, "B": flat})
    with pytest.raises(ValueError, match="the policy has no hidden layer"):
        AgentTeacher(flat, 1).features(np.zeros((2, 3)))
    student({**teachers, "B": lambda obs: obs[:, :2]}, distill_features=0.0)


def test_other_teachers_must_have_layers_of_the_same_sizes(tmp_path, teachers):
    student(teachers).save(tmp_path / "model")
    env, others = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0), {**teachers, "B": teachers["A"]}
    with pytest.raises(ValueError, match=r"\(64, 64, 9\).*saved with the model are for \(64, 5, 9\)"):
        mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, teachers=others)
    model = mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, teachers=others, distill_features=0.0).learn(30)
    assert "train/feature_loss" not in model.logger.name_to_value


def test_a_coefficient_that_comes_too_late_is_refused(teachers):
    model = student(teachers, distill_features=0.0)
    model.distill_features = 0.3
    with pytest.raises(ValueError, match="`distill_features` is 0.3 now and was 0 when the model was made"):
        model.learn(30)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"got None, \(2, 3\)"):
        feature_distance(None, th.zeros(2, 3))
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(2, 3\)"):
        feature_distance(th.zeros(2, 4), th.zeros(2, 3))
    with pytest.raises(NotImplementedError, match="torch only"):
        FeatureLoss(0.1).output_gradient(None, None)


def test_the_shipped_config_and_the_grid_of_the_page_are_valid(tmp_path):
    config = load_config(TrainConfig, ROOT / "zoo_configs" / "family" / "actor_mimic.yml")
    assert config.distill_features == 0.1
    assert set(config.teachers) == set(config.task_names)
    (block,) = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "family" / "actor_mimic.md").read_text(), flags=re.DOTALL
    )
    shutil.copy(ROOT / "zoo_configs" / "tuned_single.yml", tmp_path)
    (tmp_path / "page.yml").write_text(block)
    assert load_grid(tmp_path / "page.yml")


def test_a_config_has_it():
    teachers = {"SmallFoot": "pretrained:HalfCheetahBody6-vanilla"}
    given = {"tasks": {"SmallFoot": "HalfCheetahSmallFoot-v0"}, "teachers": teachers}
    for algo in ("a2c_mt", "ppo"):
        assert TrainConfig(**given, algo=algo, distill_features=0.1).algorithm_kwargs()["distill_features"] == 0.1
    falling = TrainConfig(**given, distill_features="lin_0.2").algorithm_kwargs()["distill_features"]
    assert falling(0.5) == 0.1
    with pytest.raises(ValueError, match="distill_features"):
        TrainConfig(**given, algo="trpo", distill_features=0.1)

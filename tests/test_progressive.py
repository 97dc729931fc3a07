"""Progressive networks: a column per task, and a schedule that trains tasks in turn."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch as th
from helpers.drift import ReachingEnv, drawn_tasks, drift_tasks, sized_tasks
from helpers.killed_runs import KillAt, Killed, killed_and_resumed, optimizer_difference
from helpers.models import weights_equal
from helpers.policies import OwnFeatures, batch_for, make_policy, make_sized_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from torch import nn

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.evaluation.films import Scene, film
from sb3_multitask.evaluation.films.playing import play
from sb3_multitask.experiments.algorithms import make_algorithm
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
from sb3_multitask.policies.progressive import SCALE_INIT, ProgressiveNet
from sb3_multitask.policies.task_steps import shared_parameters, stacked_parameters
from sb3_multitask.task_schedules import TaskSequence, UniformSampling, make_task_schedule

ALGORITHMS = {
    "a2c": (mt.A2CMultiTask, {}),
    "a2c with Adam": (mt.A2CMultiTask, {"use_rms_prop": False}),
    "ppo": (mt.PPOMultiTask, {"n_steps": 10, "batch_size": 10, "n_epochs": 2}),
    "trpo": (mt.TRPOMultiTask, {"n_steps": 10, "batch_size": 20, "n_critic_updates": 2}),
}
KINDS = {
    "default": {},
    "state": {"log_std_mode": "state_dependent", "log_std_init": -1.0},
    "elu": {"activation_fn": "elu", "net_arch": {"pi": [8, 7], "vf": [6]}, "head_arch": {"pi": [5], "vf": [4, 3]}},
    "no hidden layers": {"net_arch": [], "head_arch": []},
}


def make(algorithm="a2c", tasks=None, schedule=None, seed=0, **policy_kwargs):
    made, kwargs = ALGORITHMS[algorithm]
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3, high=0.5), 2, seed=seed)
    schedule = TaskSequence() if schedule is None else schedule
    policy_kwargs = {"share": "progressive", **policy_kwargs}
    return made(
        "MultiTaskMlpPolicy",
        env,
        task_schedule=schedule,
        policy_kwargs=policy_kwargs,
        seed=seed,
        device="cpu",
        **kwargs,
    )


def with_state(n=3):
    """Tasks whose environments tell their state."""
    return [mt.Task(task.name, ReachingEnv, task.env_kwargs) for task in drift_tasks(n)]


def raw_observations(n=9, dim=3, n_tasks=3):
    rng = np.random.default_rng(0)
    return {"obs": 3 * rng.normal(size=(n, dim)), "task": np.arange(n) % n_tasks}


def all_of_task(model, task, n=8):
    """Everything with which a model acts in a task and values it: outputs on fixed raw observations, and statistics."""
    sizes, normalizer = model.policy.sizes, model.get_vec_normalize_env()
    raw = {"obs": raw_observations(n, sizes.obs_dim)["obs"] * sizes.obs_mask[task], "task": np.full(n, task)}
    obs = {key: th.as_tensor(value) for key, value in normalizer.normalize_obs(raw).items()}
    with th.no_grad():
        gaussian = model.policy.get_distribution(obs).distribution
        outputs = [gaussian.mean, gaussian.stddev, model.policy.predict_values(obs)]
    statistics = model.get_normalizer_state()
    found = {name: output.numpy().copy() for name, output in zip(("mean", "std", "value"), outputs, strict=True)}
    for rms in ("obs_rms", "ret_rms"):
        found |= {f"{rms}.{part}": statistics[rms][part][task].copy() for part in ("mean", "var", "count")}
    return found


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# The networks


def test_two_columns_of_two_units_by_hand():
    policy = make_policy(
        2, obs_dim=1, action_dim=1, share="progressive", activation_fn="relu", net_arch=[2], head_arch=[2]
    )
    net = policy.mlp_extractor.policy_net
    first, second = net.columns
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        first.layers[0].weight.copy_(th.tensor([[1.0], [2.0]]))
        first.layers[0].bias.copy_(th.tensor([0.0, 1.0]))
        first.layers[1].weight.copy_(th.tensor([[1.0, 1.0], [0.0, -1.0]]))
        second.layers[0].weight.copy_(th.tensor([[3.0], [-1.0]]))
        second.layers[1].weight.copy_(th.tensor([[1.0, 0.0], [0.0, 1.0]]))
        second.adapters[0].scale.fill_(0.5)
        second.adapters[0].projection.weight.copy_(th.tensor([[2.0, 0.0], [0.0, 1.0]]))
        second.adapters[0].projection.bias.copy_(th.tensor([0.0, -1.5]))
        second.laterals[0].weight.copy_(th.tensor([[1.0, 0.0], [0.0, 10.0]]))
        second.adapters[1].scale.fill_(2.0)
        second.adapters[1].projection.weight.copy_(th.tensor([[1.0, 0.0], [0.0, 1.0]]))
        policy.action_net.layers[0].weight[0] = th.tensor([[1.0], [1.0], [99.0], [99.0]])
        policy.action_net.layers[0].weight[1] = th.tensor([[1.0], [1.0], [0.1], [0.1]])
    # x = 2. First column: h1 = relu(2, 5) = (2, 5), h2 = relu(7, -5) = (7, 0).
    # Second: h1 = relu(6, -2) = (6, 0); adapter of (2, 5): relu(2 * 1, 2.5 - 1.5) = (2, 1); h2 = relu(6 + 2, 0 + 10).
    # Adapter of (7, 0): (14, 0). Means: 7 + 0 in the first, 8 + 10 + 0.1 * 14 in the second.
    obs = {"obs": th.tensor([[2.0], [2.0]]), "task": th.tensor([0, 1])}
    th.testing.assert_close(net(obs["obs"], obs["task"]), th.tensor([[7.0, 0.0, 0.0, 0.0], [8.0, 10.0, 14.0, 0.0]]))
    th.testing.assert_close(policy.get_distribution(obs).distribution.mean, th.tensor([[7.0], [19.4]]))


def equation_2(net, x, task):
    """The latent of a row by the paper's eq. 2, in float64."""
    arrays = {name: parameter.detach().double().numpy() for name, parameter in net.named_parameters()}
    hidden = []  # of each column, of each layer
    for k in range(task + 1):
        h, column = x, []
        for i in range(len(net.columns[k].layers)):
            before = arrays[f"columns.{k}.layers.{i}.weight"] @ h + arrays[f"columns.{k}.layers.{i}.bias"]
            if i and k:
                before = before + arrays[f"columns.{k}.laterals.{i - 1}.weight"] @ adapted(arrays, hidden, k, i - 1)
            h = np.tanh(before)
            column.append(h)
        hidden.append(column)
    last = len(hidden[-1]) - 1
    lateral = adapted(arrays, hidden, task, last) if task else np.zeros_like(hidden[-1][-1])
    return np.concatenate([hidden[-1][-1], lateral])


def adapted(arrays, hidden, k, i):
    name = f"columns.{k}.adapters.{i}"
    scaled = [alpha * column[i] for alpha, column in zip(arrays[f"{name}.scale"], hidden[:k], strict=True)]
    return np.tanh(arrays[f"{name}.projection.weight"] @ np.concatenate(scaled) + arrays[f"{name}.projection.bias"])


@pytest.mark.parametrize("net", ["policy_net", "value_net"])
def test_latents_of_mixed_rows_are_those_of_equation_2(net):
    policy = make_policy(4, share="progressive", net_arch={"pi": [5, 3], "vf": [4]}, head_arch={"pi": [6], "vf": [2]})
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    task = [3, 0, 2, 2, 1, 3, 0]
    obs = batch_for(policy, task)
    latent = getattr(policy.mlp_extractor, net)(obs["obs"], obs["task"]).detach()
    expected = [
        equation_2(getattr(policy.mlp_extractor, net), x, k)
        for x, k in zip(obs["obs"].double().numpy(), task, strict=True)
    ]
    np.testing.assert_allclose(latent, np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_task_gives_gradients_to_its_own_column_only(options):
    policy = make_policy(3, share="progressive", **options)
    obs = batch_for(policy, [1, 1, 1])
    values, log_prob, entropy = policy.evaluate_actions(obs, th.randn(3, 2))
    (values.sum() + log_prob.sum() + entropy.sum()).backward()
    stacked = stacked_parameters(policy)
    for name, parameter in policy.named_parameters():
        if name in stacked:
            assert not parameter.grad[[0, 2]].any()
        else:
            assert (parameter.grad is not None) == (".columns.1." in name)


def test_a_column_depends_on_earlier_columns_and_on_no_later_one():
    policy = make_policy(3, share="progressive")
    obs = {task: batch_for(policy, [task] * 4) for task in range(3)}

    def means():
        return [policy.get_distribution(obs[task]).distribution.mean.detach().clone() for task in range(3)]

    before = means()
    with th.no_grad():
        for parameter in policy.mlp_extractor.policy_net.columns[1].parameters():
            parameter.add_(0.5)
    assert [th.equal(a, b) for a, b in zip(before, means(), strict=True)] == [True, False, False]


def test_scales_start_small_and_layers_as_sb3s():
    policy = make_policy(4, share="progressive", seed=1)
    scales = th.cat([p.detach() for name, p in policy.named_parameters() if name.endswith(".scale")])
    assert 0 <= scales.min() < scales.max() <= SCALE_INIT
    for column in policy.mlp_extractor.policy_net.columns:
        weight = column.layers[1].weight
        th.testing.assert_close(weight @ weight.T, 2 * th.eye(64), atol=1e-4, rtol=0)  # the gain sqrt(2)
        assert not column.layers[1].bias.any()
    assert shared_parameters(policy) == {"actor": [], "critic": []}


def test_padding_does_not_reach_the_columns():
    policy = make_sized_policy(share="progressive")
    obs = {"obs": th.randn(6, 5), "task": th.tensor([0, 1, 2, 2, 1, 0])}
    other = {**obs, "obs": th.where(policy.obs_mask[obs["task"]], obs["obs"], 7.0)}
    for function in (lambda o: policy.get_distribution(o).distribution.mean, policy.predict_values):
        assert th.equal(function(obs), function(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_norm": True}, "`layer_norm=True` does not go with"),
        ({"layer_norm": "critic"}, "`layer_norm='critic'` does not"),
        ({"task_embedding": "onehot"}, "`task_embedding='onehot'`"),
        ({"task_embedding": 4}, "`task_embedding=4`"),
        ({"log_std_mode": "shared"}, "`log_std_mode='shared'`.*use \"per_task\""),
        ({"features_extractor_class": OwnFeatures}, "`features_extractor_class=OwnFeatures`.*trained by all tasks"),
    ],
)
def test_what_columns_do_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(share="progressive", **options)


# The schedule


@settings(deadline=None)
@given(n_tasks=st.integers(1, 6), n_updates=st.integers(6, 40))
def test_a_sequence_gives_every_task_its_share_in_one_piece(n_tasks, n_updates):
    schedule = TaskSequence()
    schedule.begin("ABCDEF"[:n_tasks], 0)
    schedule.note_training(n_updates)
    shown = []
    for _ in range(n_updates):
        shown.append(schedule.next_task())
        schedule.note_visits([shown[-1]])
    assert shown == sorted(shown)
    assert set(shown) == set(range(n_tasks))
    assert schedule.visits.max() - schedule.visits.min() <= 1
    assert schedule.next_task() == n_tasks - 1  # it stays with the last one


def test_a_sequence_of_some_tasks_and_a_number_of_updates():
    schedule = make_task_schedule({"sequence": {"tasks": ["C", "A"], "n_updates": 2}})
    schedule.begin("ABC", 0)
    shown = []
    for _ in range(5):
        schedule.note_training(99)  # the shares are known
        shown.append(schedule.first_task)
        schedule.note_visits([shown[-1]])
        state = json.loads(json.dumps(schedule.get_state()))
        schedule = TaskSequence(["C", "A"], 2)
        schedule.begin("ABC", 1)
        schedule.set_state(state)
    assert shown == [2, 2, 0, 0, 0]
    assert repr(schedule) == "TaskSequence(mode='next', tasks=['C', 'A'], n_updates=2)"


def test_sequences_that_cannot_be_are_refused():
    for given_tasks, error in ((["A", "A"], ValueError), ([], ValueError), ("AB", TypeError), ([0, 1], TypeError)):
        with pytest.raises(error, match="`tasks` must"):
            TaskSequence(given_tasks)
    with pytest.raises(ValueError, match="`n_updates` must be at least 1"):
        TaskSequence(n_updates=0)
    with pytest.raises(ValueError, match="`tasks` has 'D'.*The tasks are: A, B, C"):
        make(schedule=TaskSequence(["D"]))
    with pytest.raises(ValueError, match="trains 3 tasks, and this learn.. has 2 updates"):
        make().learn(20)


def test_a_sequence_serves_policies_that_share_a_trunk_too():
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, task_schedule=TaskSequence(["B", "A"]), seed=0)
    model.learn(95)
    assert model.task_schedule.visits.tolist() == [5, 5, 0]
    assert model.get_normalizer_state()["obs_rms"]["count"][:, 0] == pytest.approx([52, 52, 0], abs=1e-3)
    assert model.last_engine == "fast"


# Training


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_a_new_column_changes_no_bit_of_the_tasks_before(algorithm, resets):
    model = make(algorithm, schedule=TaskSequence(n_updates=4))
    rollout = model.n_steps * 2
    untrained, old = all_of_task(model, 0), []
    model.learn(4 * rollout)
    for task in (1, 2):
        old.append(all_of_task(model, task - 1))
        waiting = all_of_task(model, task)
        model.learn(4 * rollout, reset_num_timesteps=resets)
        assert all(equal(before, all_of_task(model, i)) for i, before in enumerate(old))
        assert not np.array_equal(waiting["mean"], all_of_task(model, task)["mean"])
    assert not np.array_equal(untrained["mean"], old[0]["mean"])
    assert model.policy.mlp_extractor.trained.tolist() == [1, 1, 1]
    assert model.task_schedule.visits.tolist() == [4, 4, 4]
    assert model.last_engine == "torch"


@pytest.mark.parametrize(
    ("kind", "tasks"), [*((kind, None) for kind in KINDS), ("default", sized_tasks()), ("values", None)]
)
def test_every_kind_of_column_keeps_what_it_learned(kind, tasks):
    options = KINDS.get(kind, {"value_norm": "popart"})
    model = make(tasks=tasks, schedule=TaskSequence(n_updates=6), **options)
    model.learn(60)
    before = all_of_task(model, 0)
    model.learn(120, reset_num_timesteps=False)
    assert equal(before, all_of_task(model, 0))


def test_one_learn_trains_all_tasks_in_turn():
    model = make().learn(150)
    assert model.task_schedule.visits.tolist() == [5, 5, 5]
    assert list(mt.evaluate_tasks(model, n_eval_episodes=1)) == ["A", "B", "C"]


@pytest.mark.parametrize("schedule", ["joint", "cycle", UniformSampling(), UniformSampling("weights")])
def test_columns_are_not_trained_together(schedule):
    with pytest.raises(ValueError, match=r"share=\"progressive\".*TaskSequence\(\).*\{sequence: \{\}\}"):
        make(schedule=schedule)


def test_columns_are_not_trained_in_another_order():
    with pytest.raises(ValueError, match="trains C, B, and columns .* in the model's order, A, B, C"):
        make(schedule=TaskSequence(["C", "B"]))
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    kwargs = {"task_schedule": TaskSequence(["C", "B"]), "policy_kwargs": {"share": "progressive"}}
    later = mt.A2CMultiTask("MultiTaskMlpPolicy", None, _init_setup_model=False, **kwargs)
    later.observation_space, later.action_space, later.n_envs = env.observation_space, env.action_space, 2
    later._setup_model()
    later.set_env(env)
    with pytest.raises(ValueError, match="trains C, B, and columns"):
        later.learn(60)


@pytest.mark.parametrize(("algorithm", "kwargs"), [(A2C, {}), (PPO, {"batch_size": 16})])
def test_sb3s_algorithms_refuse_to_train_columns_together(algorithm, kwargs):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    kwargs = {**kwargs, "n_steps": 8, "policy_kwargs": {"share": "progressive"}, "device": "cpu"}
    model = algorithm(mt.MultiTaskActorCriticPolicy, env, **kwargs)
    with pytest.raises(ValueError, match="trains one task after the other: use A2CMultiTask, PPOMultiTask or TRPO"):
        model.learn(16)


def test_a_column_that_others_read_is_not_trained_again(tmp_path):
    model = make(schedule=TaskSequence(n_updates=2)).learn(40)  # A and B
    model.save(tmp_path / "model.zip")

    def loaded(schedule):
        with pytest.warns(UserWarning, match="another one, and begins without"):
            return mt.A2CMultiTask.load(tmp_path / "model.zip", env=model.env, task_schedule=schedule)

    again = loaded(TaskSequence(["B", "C"], 2))
    before = all_of_task(again, 0)
    again.learn(40)  # no trained column reads B yet
    assert equal(before, all_of_task(again, 0))
    other = loaded(TaskSequence())
    with pytest.raises(
        ValueError, match=r"begins with task 'A', whose column those of B read.*TaskSequence\(\['C'\]\)"
    ):
        other.learn(60)


# Growing


def grown(source, names="ABCD", schedule=None, seed=9):
    """A model of more tasks, with the columns of a trained one."""
    tasks = drift_tasks(len(names), high=0.5)
    new = make(tasks=tasks, schedule=schedule or TaskSequence([names[-1]]), seed=seed)
    mt.transfer(new, source, {name: name for name in source.task_names})
    return new


def test_a_trained_model_grows_by_a_task():
    source = make().learn(150)
    model = grown(source)
    old = [all_of_task(source, i) for i in range(3)]
    assert all(equal(before, all_of_task(model, i)) for i, before in enumerate(old))
    new = all_of_task(model, 3)
    model.learn(100)
    assert all(equal(before, all_of_task(model, i)) for i, before in enumerate(old))
    assert not np.array_equal(new["mean"], all_of_task(model, 3)["mean"])
    assert model.policy.mlp_extractor.trained.tolist() == [1, 1, 1, 1]
    assert model.get_normalizer_state()["obs_rms"]["count"][3].min() > 100


def test_a_model_of_one_task_grows_too():
    source = make(tasks=drift_tasks(1, high=0.5), schedule="joint").learn(50)
    model = grown(source, "AB")
    before = all_of_task(source, 0)
    model.learn(50)
    assert equal(before, all_of_task(model, 0))


def test_columns_are_taken_over_in_order_only():
    source, model = make().learn(60), make(tasks=drift_tasks(4, high=0.5))
    for tasks in ({"B": "B"}, {"A": "B"}, {"A": "A", "C": "C"}, {"B": "A"}):
        with pytest.raises(ValueError, match="must be the first of both models, in order"):
            mt.transfer(model, source, tasks)
    with pytest.raises(ValueError, match="`heads=False` carries what tasks share"):
        mt.transfer(model, source, {"A": "A"}, heads=False)
    vanilla = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(3, high=0.5), seed=0)
    with pytest.raises(ValueError, match="`share` is 'progressive', the source's is 'heads'"):
        mt.transfer(model, vanilla, {"A": "A"})
    before = all_of_task(source, 1)
    with pytest.raises(ValueError, match="`model` has trained B, C, whose columns read those"):
        mt.transfer(source, make(seed=4), {"A": "A"})
    assert equal(before, all_of_task(source, 1))


def test_columns_that_a_trained_one_reads_are_not_replaced():
    model = make(schedule=TaskSequence(["C"])).learn(20)  # reads those of A and B as they began
    before = all_of_task(model, 2)
    for n in (1, 2):
        with pytest.raises(ValueError, match="`model` has trained C, whose columns read those that would be replaced"):
            mt.transfer(model, make(seed=1), {name: name for name in "AB"[:n]})
    assert equal(before, all_of_task(model, 2))


def test_what_is_frozen_stays():
    model = make(schedule=TaskSequence(n_updates=3))
    mt.freeze(model, "all_but_last")
    before = model.policy.mlp_extractor.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items() if name != "trained"}
    head = model.policy.action_net.layers[0].weight.detach().clone()
    model.learn(90)
    after = model.policy.mlp_extractor.state_dict()
    assert all(th.equal(tensor, after[name]) for name, tensor in before.items())
    assert not th.equal(head, model.policy.action_net.layers[0].weight)


# Files, agents, resume


@pytest.mark.parametrize("algorithm", ["a2c", "ppo", "trpo"])
def test_a_checkpoint_resumes_exactly(tmp_path, algorithm):
    def run(folder, stop):
        model = make(algorithm, with_state())
        checkpoints = mt.ResumableCheckpointCallback(tmp_path / folder, every=20, verbose=0)
        with contextlib.suppress(Killed):
            model.learn(240, [checkpoints, KillAt(stop)])
        return model

    for stop in (70, 90, 170):  # around the ends of the first task, at 80, and of the second
        run("resumed", stop)
    resumed, whole = run("resumed", np.inf), run("whole", np.inf)
    assert resumed.num_timesteps == whole.num_timesteps == 240
    assert resumed.task_schedule.visits.tolist() == whole.task_schedule.visits.tolist()
    assert weights_equal(resumed, whole)
    assert all(equal(all_of_task(resumed, i), all_of_task(whole, i)) for i in range(3))
    assert not optimizer_difference(*(model.policy.optimizer.state_dict() for model in (resumed, whole)))


@pytest.mark.native
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_runs_that_are_killed_resume_exactly(tmp_path, algorithm):
    made, kwargs = ALGORITHMS[algorithm]
    different, _ = killed_and_resumed(
        tmp_path,
        [(777, 0.0), (1610, 0.05)],
        total=5000,
        n_envs=2,
        algorithm=made,
        policy_kwargs={"share": "progressive"},
        task_schedule=TaskSequence(),
        **kwargs,
    )
    assert different == []


def test_a_file_continues_the_sequence(tmp_path):
    model = make(schedule=TaskSequence(n_updates=4)).learn(60)
    model.save(tmp_path / "model.zip")
    loaded = mt.A2CMultiTask.load(tmp_path / "model.zip")
    assert weights_equal(loaded, model)
    assert loaded.policy.mlp_extractor.trained.tolist() == [1, 1, 0]
    env = mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2, seed=0)
    loaded = mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, task_schedule=TaskSequence(n_updates=4))
    before = [all_of_task(model, i) for i in range(3)]
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.task_schedule.visits.tolist() == [4, 4, 4]
    assert [equal(old, all_of_task(loaded, i)) for i, old in enumerate(before)] == [True, False, False]
    with pytest.raises(ValueError, match="TaskSequence"):
        mt.A2CMultiTask.load(tmp_path / "model.zip", env=env, task_schedule="joint")


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [None, sized_tasks()], ids=["alike", "sized"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_agents_and_exports_act_as_their_models(tmp_path, options, tasks):
    model = make(tasks=tasks, **options).learn(150)
    mt.save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "model.zip")
    mt.export_torch(model, tmp_path / "model.pt2")
    mt.export_onnx(model, tmp_path / "model.onnx")
    sizes = model.policy.sizes
    raw = raw_observations(dim=sizes.obs_dim)
    raw["obs"] = raw["obs"] * sizes.obs_mask[raw["task"]]
    seen = model.get_vec_normalize_env().normalize_obs(raw)
    given_to_model = {"obs": seen["obs"].astype(np.float32), "task": raw["task"]}
    expected = model.predict(given_to_model, deterministic=True)[0]
    for agent in (mt.load_agent(tmp_path / "agent"), mt.load_agent(tmp_path / "model.zip")):
        np.testing.assert_allclose(agent.predict(raw, deterministic=True)[0], expected, atol=1e-6)
        assert (agent.obs_dim, agent.action_dim) == (sizes.obs_dim, sizes.action_dim)
        assert agent.digest == agent_of(model).digest
    obs = raw["obs"].astype(agent.obs_dtype)
    program = th.export.load(tmp_path / "model.pt2").module()
    with th.no_grad():
        out = program(th.from_numpy(obs), th.from_numpy(raw["task"]))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["action"], {"obs": obs, "task": raw["task"]})[0], expected, atol=1e-5)


def test_making_an_agent_draws_no_random_numbers():
    model = make()
    before = th.get_rng_state()
    agent = agent_of(model)
    assert th.equal(before, th.get_rng_state())
    assert not any(parameter.requires_grad for parameter in agent.columns.parameters())


def test_agents_take_observations_that_cannot_be_written():
    agent = dataclasses.replace(agent_of(make()), statistics=None)
    obs = raw_observations()["obs"].astype(np.float32)
    expected = agent.distribution(obs, 2)[0]
    obs.flags.writeable = False
    np.testing.assert_array_equal(agent.distribution(obs[::-1], 2)[0][::-1], expected)


class OwnSequence(TaskSequence):
    """A sequence of one's own."""


def test_a_model_with_an_own_sequence_is_loaded_without_it(tmp_path):
    model = make(schedule=OwnSequence()).learn(60)
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model")
    assert weights_equal(model, loaded)
    loaded.set_env(mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2))
    with pytest.raises(ValueError, match=r"task_schedule=OwnSequence\(...\)"):
        loaded.learn(60)


def test_a_policys_own_file_has_its_columns(tmp_path):
    policy = make().learn(60).policy
    policy.save(tmp_path / "policy.zip")
    loaded = mt.MultiTaskActorCriticPolicy.load(tmp_path / "policy.zip", device="cpu")
    obs = batch_for(policy, [0, 1, 2])
    assert th.equal(policy.predict_values(obs), loaded.predict_values(obs))
    assert loaded.mlp_extractor.trained.tolist() == [1, 1, 1]


def test_another_process_films_the_same():
    agent = agent_of(make(tasks=drawn_tasks()).learn(100))
    scene = Scene(agent, tuple(drawn_tasks()), 4)
    assert str(list(film(scene))) == str(list(play(scene)))


@pytest.mark.slow
def test_agents_teach_and_columns_are_taught():
    teacher = agent_of(make().learn(90))
    student = mt.A2CMultiTask(
        "MultiTaskMlpPolicy",
        mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2, seed=1),
        teachers=dict.fromkeys("ABC", teacher),
        policy_kwargs={"share": "progressive"},
        task_schedule=TaskSequence(n_updates=100),
        learning_rate=0.01,
        seed=0,
    )
    for task in "ABC":
        student.learn(10, reset_num_timesteps=False)
        first = student.logger.name_to_value[f"distill/{task}/kl"]
        student.learn(990, reset_num_timesteps=False)
        assert student.logger.name_to_value[f"distill/{task}/kl"] < first


def test_features_are_the_last_hidden_layer_of_the_column():
    model = make(net_arch=[8], head_arch=[5]).learn(60)
    agent, raw = agent_of(model), raw_observations()
    seen = {key: th.as_tensor(value) for key, value in model.get_vec_normalize_env().normalize_obs(raw).items()}
    features = model.policy.actor_features(seen)
    assert features.shape == (9, agent.feature_dim) == (9, model.policy.actor_features_dim) == (9, 5)
    latent = model.policy.mlp_extractor.forward_actor(seen["obs"], seen["task"])
    assert th.equal(features, latent[:, :5])
    for task in range(3):
        mine = raw["task"] == task
        own = agent.features(raw["obs"][mine], task)
        np.testing.assert_allclose(own, features[mine].detach(), atol=1e-6)
    student = mt.A2CMultiTask(
        "MultiTaskMlpPolicy",
        mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2, seed=1),
        teachers=dict.fromkeys("ABC", agent),
        distill_features=1.0,
        policy_kwargs={"share": "progressive"},
        task_schedule=TaskSequence(n_updates=3),
        seed=0,
    )
    student.learn(30)
    before = all_of_task(student, 0)
    student.learn(60, reset_num_timesteps=False)
    assert equal(before, all_of_task(student, 0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net.columns[1].layers.__setitem__(1, nn.Identity()), "columns.1.layers.1` is a Identity"),
        (lambda net: net.columns.__setitem__(0, nn.Identity()), "columns.0` is a Identity"),
        (lambda net: setattr(net.columns[2].adapters[0], "activation", nn.ReLU()), r"adapters.0.activation` is ReLU"),
        (lambda net: setattr(net.columns[0], "activation", nn.ReLU()), r"columns.0.activation` is ReLU"),
        (lambda net: net.columns[1].register_forward_hook(lambda *_: None), "it has forward hooks"),
    ],
)
def test_changed_columns_make_no_agents(change, reason):
    model = make()
    change(model.policy.mlp_extractor.policy_net)
    with pytest.raises(ValueError, match=reason):
        agent_of(model)


def test_columns_that_do_not_fit_make_no_agents():
    agent = agent_of(make())
    prefix = "mlp_extractor.policy_net.columns."
    for change in (
        lambda w: w.pop(f"{prefix}1.adapters.0.scale"),
        lambda w: w.update({f"{prefix}2.layers.1.weight": np.zeros((64, 3), np.float32)}),
        lambda w: w.update({f"{prefix}0.layers.0.weight": np.zeros(3, np.float32)}),
        lambda w: [w.pop(name) for name in list(w) if name.startswith(f"{prefix}2.")],
    ):
        weights = dict(agent.weights)
        change(weights)
        with pytest.raises(ValueError, match=r"do not fit together \((the columns|mlp_extr|the policy has 2 columns)"):
            dataclasses.replace(agent, weights=weights)


def test_a_small_file_does_not_make_a_large_net():
    """Its columns name few arrays, and would be as many modules as the product of the layers and columns they name."""
    prefix, number = "mlp_extractor.policy_net.columns", np.zeros((1, 1), np.float32)
    weights = {f"{prefix}.0.layers.{i}.weight": number for i in range(1000)}
    weights |= {f"{prefix}.{k}.layers.0.weight": number for k in range(1000)}
    with pytest.raises(ValueError, match=r"1000 tasks .* they have 1999 arrays in place of 5995001") as raised:
        ProgressiveNet.of_weights(weights, nn.Tanh)
    assert len(str(raised.value)) < 500


# Configs


def test_a_config_trains_columns():
    config = make_config(
        TrainConfig,
        {
            "tasks": ["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"],
            "task_schedule": {"sequence": {}},
            "policy_kwargs": {"share": "progressive"},
        },
    )
    with contextlib.closing(mt.make_multitask_vec_env(config.resolved_tasks(), 1)) as env:
        model = make_algorithm(config, env, 0).learn(40)
    assert model.task_schedule.visits.tolist() == [4, 4]
    assert model.policy.mlp_extractor.trained.tolist() == [1, 1]


def test_the_policy_says_how_many_parameters_each_column_has():
    policy = make_policy(3, obs_dim=4, share="progressive", net_arch=[2], head_arch=[3])
    net = policy.mlp_extractor.policy_net
    # First: 4*2+2 + 2*3+3 = 19. k-th: + k scales for 2 layers + V (2k*2+2, 3k*3+3) + U 2*3, with k columns before.
    assert net.n_parameters == [19, 19 + 2 + 6 + 12 + 6, 19 + 4 + 10 + 21 + 6]
    assert "parameters of each column: 19, 45, 60" in str(policy)


def test_the_page_has_the_numbers_of_parameters():
    page = (Path(__file__).parents[1] / "docs" / "family" / "progressive.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", page, flags=re.MULTILINE)
    sizes = {"obs_dim": 17, "action_dim": 6}
    counts = {
        share: [0, *(sum(p.numel() for p in make_policy(k, share=share, **sizes).parameters()) for k in range(1, 7))]
        for share in ("progressive", "heads")
    }
    numbers = [tuple(int(number.replace(",", "")) for number in row) for row in rows]
    progressive = counts["progressive"]
    assert numbers == [
        (k, progressive[k], progressive[k] - progressive[k - 1], counts["heads"][k]) for k in range(1, 7)
    ]
    unused = make_policy(1, share="progressive", **sizes)
    assert sum(net.layers[0].weight[0, 64:].numel() for net in (unused.action_net, unused.value_net)) == 448


def test_the_shipped_config_is_one():
    path = Path(__file__).parents[1] / "zoo_configs" / "family" / "progressive.yml"
    config = load_config(TrainConfig, path)
    assert config.policy_kwargs["share"] == "progressive"
    assert isinstance(config.algorithm_kwargs()["task_schedule"], TaskSequence)

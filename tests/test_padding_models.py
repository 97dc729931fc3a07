"""Models of tasks of different sizes: engines, agents, teachers and transfer."""

import base64
import dataclasses
import json
import zipfile

import numpy as np
import pytest
import torch as th
from helpers.drift import RecordedEnv, drift_tasks, sized_tasks
from helpers.models import make_model, recorded_model
from stable_baselines3 import PPO

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.losses import A2CLoss
from sb3_multitask.readers import UnreadableFileError

RECORDED = sized_tasks(RecordedEnv)
PPO_SETTINGS = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}


def padding(model):
    """The parameters of heads and log-stds of actions that a task does not have, as one vector."""
    is_own = th.from_numpy(model.policy.sizes.action_mask)
    heads = model.policy.action_net.layers[-1]
    parts = [heads.weight.transpose(1, 2)[~is_own], heads.bias[~is_own]]
    parts += [model.policy.log_std[~is_own]] if model.policy.log_std.ndim == 2 else []
    return th.cat([part.detach().flatten() for part in parts])


def make(engine, algorithm=mt.A2CMultiTask, tasks=RECORDED, **kwargs):
    """A model with other weights than 0 in the padding, which is as if they were not there."""
    env = mt.make_multitask_vec_env(tasks, 2, seed=0, normalize=True)
    model = algorithm("MultiTaskMlpPolicy", env, seed=0, device="cpu", engine=engine, **kwargs)
    is_own = th.from_numpy(model.policy.sizes.action_mask)
    with th.no_grad():
        model.policy.action_net.layers[-1].bias[~is_own] = 3.0
        if model.policy.log_std.ndim == 2:
            model.policy.log_std[~is_own] = -1.0
    return model


@pytest.fixture(scope="module")
def trained():
    return make_model(sized_tasks()).learn(200)


# Engines


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (mt.A2CMultiTask, {"ent_coef": 0.01}),
        (mt.A2CMultiTask, {"policy_kwargs": {"log_std_mode": "shared", "net_arch": {"pi": [], "vf": []}}}),
        (mt.PPOMultiTask, {**PPO_SETTINGS, "ent_coef": 0.01}),
    ],
)
@pytest.mark.usefixtures("kernels")
def test_30_updates_of_both_engines_agree_and_never_touch_the_padding(algorithm, settings, schedule):
    models = []
    for engine in ("torch", "fast"):
        model = make(engine, algorithm, task_schedule=schedule, **settings)
        before = padding(model)
        models.append(model.learn(30 * model.n_steps * model.n_envs))
        assert model.last_engine == engine
        assert th.equal(padding(model), before)
        actions = model.rollout_buffer.by_step("actions")
        mask = model.policy.sizes.action_mask[model.rollout_buffer.by_step("task")[..., 0].astype(int)]
        assert actions[mask].all()
        assert not actions[~mask].any()
    for mine, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        assert (mine - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [{}, {"distill_loss": "reverse_kl", "rl_coef": 0.5}, {"distill_loss": "mse"}])
@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
def test_both_engines_agree_with_teachers_of_each_tasks_size(trained, algorithm, settings):
    teachers = {task.name: make_model([task], seed=i).learn(40) for i, task in enumerate(sized_tasks())}
    settings = {**settings, **(PPO_SETTINGS if algorithm is mt.PPOMultiTask else {})}
    models = []
    for engine in ("torch", "fast"):
        model = make(engine, algorithm, teachers=teachers, **settings)
        before = padding(model)
        models.append(model.learn(20 * model.n_steps * model.n_envs))
        assert th.equal(padding(model), before)
        for target in model.rollout_buffer.targets:
            assert not target[:, ~model.policy.sizes.action_mask[model.env.task_ids]].any()
    for mine, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        assert (mine - theirs).abs().max() < 1e-4


def test_gradients_are_autograds():
    model = make("fast")
    model.learn(model.n_steps * model.n_envs)
    model.train = lambda: None
    model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
    fast, torch = model.numerics, TorchEngine(model)
    for engine in (fast, torch):  # torch's comes last: it reorders the buffer's rows
        (batch,) = engine.batches(model.rollout_buffer, None, normalize_advantage=False)
        engine.evaluate([A2CLoss(1.0, 0.1, 0.5)], batch)
    for parameter, place in fast.parameters.offsets.items():
        mine, expected = fast.parameters.gradient[place], parameter.grad.flatten().numpy()
        assert np.abs(mine - expected).max() <= 1e-5 * np.abs(expected).max()
        assert ((expected != 0) | (mine == 0)).all()


def test_environments_get_actions_within_their_own_bounds():
    model = make("fast", tasks=sized_tasks())
    seen = []
    step_async = model.env.unwrapped.step_async
    model.env.unwrapped.step_async = lambda actions: (seen.append(actions.copy()), step_async(actions))[1]
    model.learn(300)
    sizes, tasks, actions = model.policy.sizes, model.env.unwrapped.task_ids, np.array(seen)
    assert (actions >= sizes.action_low[tasks]).all()
    assert (actions <= sizes.action_high[tasks]).all()
    assert (actions == sizes.action_high[tasks])[:, sizes.action_mask[tasks]].any()


@pytest.mark.parametrize("mode", ["per_task", "shared", "state_dependent"])
def test_trpo_has_no_gradient_in_the_padding(mode, monkeypatch):
    env = mt.make_multitask_vec_env(sized_tasks(), 2, seed=0)
    model = mt.TRPOMultiTask(
        "MultiTaskMlpPolicy", env, n_steps=32, batch_size=32, seed=0, policy_kwargs={"log_std_mode": mode}
    )
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    compute, gradients = model._compute_actor_grad, []

    def remember(*given):
        gradients.append(compute(*given))
        return gradients[-1]

    monkeypatch.setattr(model, "_compute_actor_grad", remember)
    model.learn(2 * 32 * 6)
    is_own = th.from_numpy(model.policy.sizes.action_mask)
    is_own = is_own.repeat(1, 2) if mode == "state_dependent" else is_own
    named = dict(model.policy.named_parameters())
    assert (named["action_net.layers.0.weight"] != before["action_net.layers.0.weight"]).transpose(1, 2)[is_own].all()
    assert len(gradients) == 2
    for actor, of_objective, of_kl, _ in gradients:
        place = sum(p.numel() for p in actor[: [p is named["action_net.layers.0.bias"] for p in actor].index(True)])
        for flat in (of_objective, of_kl):
            of_bias = flat[place : place + is_own.numel()].view(is_own.shape)
            assert not of_bias[~is_own].any()
        assert of_objective[place : place + is_own.numel()].view(is_own.shape)[is_own].all()


def test_sb3s_own_ppo_learns_on_them_too(tmp_path):
    env = mt.make_multitask_vec_env(sized_tasks(), 2, seed=0, normalize=False)
    model = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=32, batch_size=32, n_epochs=2, device="cpu").learn(192)
    model.save(tmp_path / "ppo")
    saved = mt.readers.read_sb3_zip(tmp_path / "ppo.zip")
    assert saved.task_space == model.observation_space["task"]


def test_the_logged_std_is_of_a_tasks_own_actions():
    model = make("fast")
    with th.no_grad():
        model.policy.log_std.fill_(np.log(5.0))
        model.policy.log_std[th.from_numpy(model.policy.sizes.action_mask)] = np.log(2.0)
    logged = mt.algorithms.task_logs.stds("ABC", model.policy)
    assert list(logged.values()) == pytest.approx([2.0] * 4)


# Agents


def observations(n=12):
    rng = np.random.default_rng(0)
    return {"obs": rng.normal(size=(n, 5)) * 3, "task": np.arange(n) % 3}


def test_an_agent_acts_as_its_model(trained):
    agent, given = agent_of(trained), observations()
    normalized = trained.get_vec_normalize_env().obs_rms["obs"]
    raw = np.where(agent.sizes.obs_mask[given["task"]], given["obs"], 0)
    mean, var = normalized.mean[given["task"]], normalized.var[given["task"]]
    expected, _ = trained.predict(
        {"obs": np.clip((raw - mean) / np.sqrt(var + 1e-8), -10, 10), "task": given["task"]}, deterministic=True
    )
    actions, _ = agent.predict(given, deterministic=True)
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    for task, (obs_dim, n) in enumerate(((5, 2), (3, 3), (4, 1))):
        for obs in (given["obs"][task], given["obs"][task, :obs_dim]):
            single, _ = agent.predict({"obs": obs, "task": task}, deterministic=True)
            np.testing.assert_allclose(single, actions[task, :n], atol=1e-6)
            assert [part.shape for part in agent.distribution(obs[None], task)] == [(1, n)] * 2
    with pytest.raises(ValueError, match=r"task B must be \(3,\).*\(4,\)"):
        agent.predict({"obs": np.zeros(4), "task": 1})


@pytest.mark.parametrize("names", ["ABC", "CA", "B"])
def test_an_agent_is_evaluated_as_its_model(trained, tmp_path, names):
    mt.save_agent(agent_of(trained), tmp_path / "agent")
    tasks = [task for name in names for task in sized_tasks() if task.name == name]
    models = trained, agent_of(trained), mt.load_agent(tmp_path / "agent")
    expected, *others = (mt.evaluate_tasks(model, tasks, n_eval_episodes=2) for model in models)
    for results in others:
        assert list(results) == list(names)
        for name, result in results.items():
            np.testing.assert_allclose(result.episode_rewards, expected[name].episode_rewards, rtol=1e-5)


def test_an_agent_is_not_evaluated_on_a_task_of_another_size(trained):
    with pytest.raises(ValueError, match=r"'A' has 3 numbers in an observation and 2 .* has 5 and 2"):
        mt.evaluate_tasks(agent_of(trained), drift_tasks(1), n_eval_episodes=1)


def test_an_agents_files_and_a_models_hold_the_sizes(trained, tmp_path):
    agent = agent_of(trained)
    mt.save_agent(agent, tmp_path / "agent")
    trained.save(tmp_path / "model")
    for loaded in (mt.load_agent(tmp_path / "agent"), mt.load_agent(tmp_path / "model.zip")):
        assert loaded.task_space == agent.task_space == trained.observation_space["task"]
        assert loaded.digest == agent.digest
        np.testing.assert_array_equal(*(one.predict(observations(), deterministic=True)[0] for one in (agent, loaded)))
    assert json.loads((tmp_path / "agent.json").read_text())["schema"] == 3  # older versions would not mask


@pytest.mark.parametrize("tasks", [None, ["B"], ["C", "A"]])
def test_an_agent_is_evaluated_on_tasks_of_its_sizes_as_its_model(trained, tasks):
    tasks = None if tasks is None else [task for name in tasks for task in sized_tasks() if task.name == name]
    mine, theirs = (mt.evaluate_tasks(one, tasks, n_eval_episodes=3) for one in (agent_of(trained), trained))
    assert list(mine) == list(theirs)
    for task, result in mine.items():
        assert result.episode_rewards == pytest.approx(theirs[task].episode_rewards, abs=1e-4)


def test_an_env_of_other_sizes_under_the_same_names_is_refused(trained):
    a, b, c = sized_tasks()
    env = mt.MultiTaskVecEnv([mt.Task("A", b.env_id, b.env_kwargs), mt.Task("B", a.env_id, a.env_kwargs), c])
    for model in (trained, agent_of(trained)):
        with pytest.raises(ValueError, match=r"'A' has 3 numbers in .* and 3 in an action; .* head has 5 and 2"):
            mt.evaluate_tasks(model, env)


def test_a_model_whose_sizes_cannot_be_read_is_refused(trained, tmp_path):
    trained.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    content = base64.b64decode(data["observation_space"][":serialized:"])
    for damaged in (content.replace(b"obs_dims", b"abs_dims"), content[:-9], b"no pickle"):
        data["observation_space"][":serialized:"] = base64.b64encode(damaged).decode()
        with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as archive:
            for name, member in {**members, "data": json.dumps(data)}.items():
                archive.writestr(name, member)
        with pytest.raises(UnreadableFileError, match="its tasks differ in size, but how cannot be read"):
            mt.load_agent(tmp_path / "damaged.zip")


def test_agents_of_equal_sizes_are_saved_as_before(tmp_path):
    agent = agent_of(make_model(drift_tasks(2)))
    mt.save_agent(agent, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())
    assert described["schema"] == 2
    assert "task_sizes" not in described
    assert mt.load_agent(tmp_path / "agent").task_space is None


def test_sizes_that_do_not_fit_the_weights_are_refused(trained):
    agent = agent_of(trained)
    for change in ((6, 3, 4), (5, 3)):
        bounds = agent.task_space.action_bounds[: len(change)]
        with pytest.raises(ValueError, match="`task_space`"):
            dataclasses.replace(agent, task_space=type(agent.task_space)(change, bounds))


@pytest.mark.parametrize(
    "options", [{}, {"share": "all", "layer_norm": True}, {"task_embedding": 2, "log_std_mode": "state_dependent"}]
)
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_exports_leave_the_padding_out(tmp_path, kind, options):
    model = make_model(sized_tasks(), {"A": 1, "B": 3, "C": 2}, policy_kwargs=options).learn(60)
    agent, given = agent_of(model), observations()
    expected, _ = agent.predict(given, deterministic=True)
    obs = np.where(agent.sizes.obs_mask[given["task"]], given["obs"], 1e3).astype(agent.obs_dtype)
    if kind == "torch":
        mt.export_torch(agent, tmp_path / "agent.pt2")
        run = th.export.load(tmp_path / "agent.pt2").module()
        actions = run(th.from_numpy(obs), th.from_numpy(given["task"])).numpy()
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        mt.export_onnx(agent, tmp_path / "agent.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "agent.onnx", providers=["CPUExecutionProvider"])
        actions = session.run(["action"], {"obs": obs, "task": given["task"]})[0]
        assert json.loads(session.get_modelmeta().custom_metadata_map["action_dims"]) == [2, 3, 1]
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert not actions[~agent.sizes.action_mask[given["task"]]].any()


# Teachers


def test_a_multi_task_teacher_labels_each_task_at_its_size(trained):
    model = make("fast", teachers=dict.fromkeys("ABC", trained), student_rollout_prob=0.0)
    model.learn(3 * model.n_steps * model.n_envs)
    mean, log_std = model.rollout_buffer.targets
    is_own = model.policy.sizes.action_mask[model.env.task_ids]
    assert not mean[:, ~is_own].any()
    assert not log_std[:, ~is_own].any()
    assert mean[:, is_own].all()


def test_a_teacher_of_another_size_is_refused():
    other = make_model([sized_tasks()[0]])
    with pytest.raises(ValueError, match=r"task 'B' takes observations of size 5 and gives actions of size 2.*3 and 3"):
        make("auto", teachers=dict.fromkeys("ABC", other))


# Transfer


def test_heads_go_between_tasks_of_the_same_size(trained):
    model = make_model(sized_tasks(), seed=1)
    mt.transfer(model, trained, {"A": "A", "C": "C"})
    given = {"obs": np.zeros((2, 5)), "task": [0, 2]}
    np.testing.assert_array_equal(*(one.predict(given, deterministic=True)[0] for one in (model, trained)))


def test_the_trunk_alone_goes_to_heads_of_another_size(trained):
    model = make_model(sized_tasks(), seed=1)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=r"'A' of the model has actions of size 2.*'B'.*3.*heads=False"):
        mt.transfer(model, trained, {"A": "B"})
    with pytest.raises(ValueError, match=r"'A'.* observations of size 5.*'B'.* 3"):
        mt.transfer(model, trained, {"A": "B"}, heads=False)
    with pytest.raises(ValueError, match="at least one task"):
        mt.transfer(model, trained, {})
    mt.transfer(model, trained, {}, heads=False)
    for name, tensor in model.policy.state_dict().items():
        source = trained.policy.state_dict() if name.startswith("mlp_extractor") else before
        assert th.equal(tensor, source[name]), name


def test_with_the_trunk_go_the_statistics_of_observations():
    wide, narrow = (drift_tasks(2, action_dim=n) for n in (3, 1))
    source, model = make_model(wide).learn(100), make_model(narrow, seed=1)
    with pytest.raises(ValueError, match="heads=False"):
        mt.transfer(model, source, {"A": "B"})
    mt.transfer(model, source, {"A": "B"}, heads=False)
    mine, theirs = (one.get_vec_normalize_env() for one in (model, source))
    np.testing.assert_array_equal(mine.obs_rms["obs"].mean[0], theirs.obs_rms["obs"].mean[1])
    assert mine.ret_rms.var[0] != theirs.ret_rms.var[1]
    assert mine.obs_rms["obs"].mean[1].tolist() != theirs.obs_rms["obs"].mean[1].tolist()


def test_trunks_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"observations of size 3.* 5"):
        mt.transfer(make_model(drift_tasks(2)), recorded_model("torch", tasks=RECORDED), {"A": "A"}, heads=False)

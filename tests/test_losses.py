import math

import numpy as np
import pytest
import torch as th

from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBufferSamples
from sb3_multitask.losses import (
    A2CLoss,
    DistillationLoss,
    GroupedOutputs,
    GroupedRows,
    LikelihoodLoss,
    Outputs,
    PPOLoss,
    a2c_loss,
    distill_loss,
    gaussian_kl,
    log_std_at_temperature,
)
from sb3_multitask.losses.gaussians import grouped_gaussian_kl
from sb3_multitask.losses.loss import evaluate_groups, evaluation_of_sums, terms_of_samples

ROWS = {
    "log_prob": th.tensor([-1.0, -2.0, -0.5]),
    "values": th.tensor([1.0, 0.0, 2.0]),
    "entropy": th.tensor([1.5, 0.5, 1.0]),
    "advantages": th.tensor([2.0, -1.0, 4.0]),
    "returns": th.tensor([3.0, -1.0, 2.0]),
}


def test_hand_worked_values():
    loss = a2c_loss(**ROWS)
    assert loss.policy_loss.item() == pytest.approx((2 - 2 + 2) / 3)
    assert loss.value_loss.item() == pytest.approx((4 + 1 + 0) / 3)
    assert loss.entropy_loss.item() == pytest.approx(-1)


def test_per_task_terms_are_means_over_each_tasks_rows():
    loss, samples, outputs = (
        A2CLoss(),
        samples_of(ROWS),
        Outputs(*(ROWS[n] for n in ("values", "log_prob", "entropy")), None),
    )
    rows, task = loss.rows(samples, outputs), th.tensor([2, 0, 2])
    terms = terms_of_samples(loss, rows, loss.terms(samples, outputs), task, 3)
    np.testing.assert_array_equal(terms.of_tasks, [[-2, 1, -0.5], [2, 2, -1.25]])  # policy, value and entropy loss
    assert terms.pooled == pytest.approx((2 / 3, 5 / 3, -1))


def samples_of(rows):
    return TaskRolloutBufferSamples({}, None, None, None, rows["advantages"], rows["returns"])


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape .*'values': \(3, 1\)"):
        a2c_loss(**{**ROWS, "values": ROWS["values"].unsqueeze(1)})


# Distillation


def gaussians(n_rows=5, action_dim=3, seed=0, dtype=th.float64):
    generator = th.Generator().manual_seed(seed)
    draw = [th.randn(n_rows, action_dim, generator=generator, dtype=dtype) for _ in range(4)]
    return draw[0], 0.5 * draw[1], draw[2], 0.5 * draw[3]


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "mse"])
def test_distillation_of_equals_is_zero(kind):
    mean, log_std, *_ = gaussians(dtype=th.float32)
    assert distill_loss(kind, mean, log_std, mean, log_std).tolist() == [0.0] * 5


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "mse"])
def test_distillation_gradients(kind):
    teacher_mean, teacher_log_std, mean, log_std = gaussians()
    mean.requires_grad_()
    log_std.requires_grad_()
    assert th.autograd.gradcheck(lambda m, s: distill_loss(kind, teacher_mean, teacher_log_std, m, s), (mean, log_std))


def test_hand_worked_kl():
    """KL(N(0, 1) || N(1, 2)) = log 2 + (1 + 1) / 8 - 1/2, and the other way round; sums over two equal dimensions."""
    zero, one, log_2 = th.zeros(1, 2), th.ones(1, 2), th.full((1, 2), math.log(2))
    forward = 2 * (math.log(2) + 2 / 8 - 0.5)
    backward = 2 * (-math.log(2) + 5 / 2 - 0.5)
    assert gaussian_kl(zero, zero, one, log_2).item() == pytest.approx(forward)
    assert distill_loss("forward_kl", zero, zero, one, log_2).item() == pytest.approx(forward)
    assert distill_loss("reverse_kl", zero, zero, one, log_2).item() == pytest.approx(backward)
    assert distill_loss("mse", zero, zero, one, log_2).item() == pytest.approx(2 * (1 + 1))


def test_reverse_kl_is_the_papers_eq_4():
    """1/2 (log |S_T|/|S_S| - n + tr(S_T^-1 S_S) + (mu_T - mu_S)' S_T^-1 (mu_T - mu_S)), as printed."""
    teacher_mean, teacher_log_std, mean, log_std = gaussians()
    var_t, var_s = (2 * teacher_log_std).exp(), (2 * log_std).exp()
    printed = 0.5 * (
        (var_t.log() - var_s.log()).sum(1) - 3 + (var_s / var_t).sum(1) + ((teacher_mean - mean) ** 2 / var_t).sum(1)
    )
    th.testing.assert_close(distill_loss("reverse_kl", teacher_mean, teacher_log_std, mean, log_std), printed)


def test_kl_agrees_with_torch_and_with_monte_carlo():
    mean_p, log_std_p, mean_q, log_std_q = gaussians(n_rows=2)
    p, q = th.distributions.Normal(mean_p, log_std_p.exp()), th.distributions.Normal(mean_q, log_std_q.exp())
    kl = gaussian_kl(mean_p, log_std_p, mean_q, log_std_q)
    th.testing.assert_close(kl, th.distributions.kl_divergence(p, q).sum(dim=1))
    th.manual_seed(0)
    samples = p.sample((200_000,))
    ratios = (p.log_prob(samples) - q.log_prob(samples)).sum(dim=2)
    error = ratios.std(dim=0) / math.sqrt(len(ratios))
    assert ((ratios.mean(dim=0) - kl).abs() < 5 * error).all()


def test_kl_is_exact_near_zero_and_never_negative_in_float32():
    mean, log_std, *_ = gaussians(n_rows=1000, dtype=th.float32)
    for tiny in (1e-3, 1e-5, 1e-7):
        kl = gaussian_kl(mean, log_std, mean, log_std + tiny)
        assert (kl >= 0).all()
        doubles = gaussian_kl(*(x.double() for x in (mean, log_std, mean, log_std + tiny)))
        th.testing.assert_close(kl.double(), doubles, rtol=1e-3, atol=1e-14)


def test_a_log_std_may_be_one_row_for_all():
    teacher_mean, teacher_log_std, mean, log_std = gaussians()
    one = log_std[0]
    loss = distill_loss("forward_kl", teacher_mean, teacher_log_std, mean, one)
    th.testing.assert_close(loss, distill_loss("forward_kl", teacher_mean, teacher_log_std, mean, one.expand(5, 3)))


def test_other_shapes_of_gaussians_are_refused():
    teacher_mean, teacher_log_std, mean, log_std = gaussians()
    for bad in (
        (teacher_mean, teacher_log_std, mean[:2], log_std),
        (teacher_mean, teacher_log_std, mean, log_std[:2]),
        (teacher_mean[0], teacher_log_std[0], mean[0], log_std[0]),
    ):
        with pytest.raises(ValueError, match=r"Means must be \(n_rows, action_dim\)"):
            distill_loss("mse", *bad)


def test_kl_keeps_its_digits_across_the_change_of_formula():
    """Against the series in whole numbers; float64 and float32, below and above the change."""
    ratio = np.concatenate([10.0 ** np.arange(-7, 0), [0.0299999, 0.0300001, 0.059, 0.25, 0.999, 1.001]])
    for sign in (1, -1):
        x = sign * ratio
        exact = sum(x**n / math.factorial(n) for n in range(20, 1, -1))
        for dtype, tolerance in ((th.float64, 1e-13), (th.float32, 2e-6)):
            mean, log_std = th.zeros(len(x), 1, dtype=dtype), th.tensor(x / 2, dtype=dtype)[:, None]
            kl = gaussian_kl(mean, log_std, mean, th.zeros_like(log_std))
            given = 2 * log_std[:, 0].double().numpy()  # as rounded
            wanted = exact if dtype == th.float64 else sum(given**n / math.factorial(n) for n in range(20, 1, -1))
            np.testing.assert_allclose(2 * kl.double().numpy(), wanted, rtol=tolerance)


# Both faces


LOSSES = [
    A2CLoss(1.0, 0.01, 0.5),
    A2CLoss(0.3, 0.0, 1.5),
    A2CLoss(0.0, 0.1, 0.0),
    PPOLoss(0.5, None, 1.0, 0.01, 0.5),
    PPOLoss(0.9, 0.7, 0.4, 0.0, 1.5),
    *(DistillationLoss(kind, 0.7) for kind in ("forward_kl", "reverse_kl", "mse")),
]


def random_rows(kept, k=3, m=4, action_dim=2, seed=0):
    """Rows of k tasks and outputs for them, in float64."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=(k, *shape))

    keep = (rng.random((k, m, 1)) < 0.6).astype(float) if kept else None
    rows = GroupedRows(
        np.arange(k), draw(m, action_dim), draw(m, 1), draw(m, 1), keep, draw(m, action_dim), draw(m, action_dim) / 2
    )
    rows.old_values, rows.old_log_prob = draw(m, 1), draw(m, 1) - 3
    return rows, GroupedOutputs(rows, draw(m, action_dim), draw(1, action_dim) / 2, draw(m, 1))


def in_torch(rows, outputs):
    """The same rows for torch: samples, outputs, the task of each, and the leaves that gradients arrive at."""
    kept = np.ones(rows.advantages.shape[:2], bool) if rows.kept is None else rows.kept[:, :, 0] > 0
    mean, log_std, values = (th.tensor(x, requires_grad=True) for x in (outputs.mean, outputs.log_std, outputs.values))

    def flat(array):
        return th.as_tensor(array)[th.as_tensor(kept)]

    samples = TaskRolloutBufferSamples(
        *({}, flat(rows.actions), flat(rows.old_values)[:, 0], flat(rows.old_log_prob)[:, 0]),
        *(flat(rows.advantages)[:, 0], flat(rows.returns)[:, 0], None),
        *(flat(rows.teacher_mean), flat(rows.teacher_log_std)),
    )
    normal = th.distributions.Normal(flat(mean), flat(log_std.expand_as(mean)).exp())
    log_prob, entropy = normal.log_prob(samples.actions).sum(1), normal.entropy().sum(1)
    task = flat(np.broadcast_to(rows.tasks[:, None], kept.shape).copy())
    return samples, Outputs(flat(values)[:, 0], log_prob, entropy, normal), task, (mean, log_std, values)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_at_the_outputs_is_autograds(loss, kept):
    rows, outputs = random_rows(kept)
    samples, torch_outputs, _, (mean, log_std, values) = in_torch(rows, outputs)
    loss.weighted(loss.terms(samples, torch_outputs)).backward()
    gradient = loss.output_gradient(rows, outputs)
    np.testing.assert_allclose(gradient.mean, mean.grad, atol=1e-13)
    np.testing.assert_allclose(gradient.log_std, log_std.grad[:, 0], atol=1e-13)
    if values.grad is None:
        assert gradient.values is None
    else:
        np.testing.assert_allclose(gradient.values, values.grad, atol=1e-13)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_terms_of_both_faces_agree(loss, kept):
    rows, outputs = random_rows(kept)
    samples, torch_outputs, task, _ = in_torch(rows, outputs)
    terms = loss.terms(samples, torch_outputs)
    expected = terms_of_samples(loss, loss.rows(samples, torch_outputs), terms, task, 3)
    (mine,) = evaluation_of_sums([loss], [evaluate_groups([loss], outputs)[1]]).losses
    assert mine.pooled == pytest.approx(expected.pooled, rel=1e-7)  # SB3 counts clipped rows in float32
    np.testing.assert_allclose(mine.of_tasks, expected.of_tasks, rtol=1e-9)


def test_gradients_of_losses_add():
    rows, outputs = random_rows(kept=False)
    both = A2CLoss().output_gradient(rows, outputs)
    both += DistillationLoss("mse", 0.5).output_gradient(rows, outputs)
    parts = [loss.output_gradient(rows, outputs) for loss in (A2CLoss(), DistillationLoss("mse", 0.5))]
    np.testing.assert_allclose(both.mean, parts[0].mean + parts[1].mean)
    np.testing.assert_allclose(both.log_std, parts[0].log_std + parts[1].log_std)
    np.testing.assert_array_equal(both.values, parts[0].values)


def test_a_task_of_which_no_row_is_kept_took_no_part():
    rows, outputs = random_rows(kept=True)
    rows.kept[1] = 0
    rows.__post_init__()
    evaluation = evaluation_of_sums([A2CLoss()], [evaluate_groups([A2CLoss()], outputs)[1]])
    assert evaluation.tasks == [0, 2]
    (terms,) = evaluation.losses
    assert len(terms.of_tasks) == 2
    assert np.isfinite(terms.of_tasks).all()
    gradient = A2CLoss(ent_coef=0.1).output_gradient(rows, outputs)
    assert not gradient.mean[1].any()
    assert not gradient.log_std[1].any()
    assert not gradient.values[1].any()


def test_kl_of_arrays_is_torchs_and_keeps_its_digits_near_zero():
    means = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    log_stds = np.random.default_rng(1).normal(size=(2, 50, 3)).astype(np.float32)
    for shift in (1.0, 1e-2, 1e-3):
        q = log_stds + np.float32(shift)
        kl = grouped_gaussian_kl(means, log_stds, means + np.float32(shift), q)
        doubles = (th.tensor(x.astype(float)).flatten(0, 1) for x in (means, log_stds, means + np.float32(shift), q))
        np.testing.assert_allclose(kl.ravel(), gaussian_kl(*doubles), rtol=1e-3)
        assert (kl >= 0).all()


def test_rows_that_are_not_learned_from_may_have_any_ratio():
    """They hold places in groups of equal size, and an action of another task is very likely for no head."""
    rows, outputs = random_rows(kept=True)
    expected = [PPOLoss().output_gradient(rows, outputs).mean, PPOLoss().evaluate_groups(rows, outputs)[1].of_tasks]
    rows.old_log_prob = np.where(rows.kept > 0, rows.old_log_prob, -2000.0)
    found = [PPOLoss().output_gradient(rows, outputs).mean, PPOLoss().evaluate_groups(rows, outputs)[1].of_tasks]
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(after, before)


# Likelihood of recorded actions, and temperature


def test_hand_worked_likelihood():
    """Actions (1, 3) under N(0, 2^2) and N(2, 1): 1/8 + log 2 and 1/2 + 0, and log(2 pi) / 2 for each."""
    student = th.distributions.Normal(th.tensor([[0.0, 2.0]]), th.tensor([[2.0, 1.0]]))
    actions = th.tensor([[1.0, 3.0]])
    outputs = Outputs(None, student.log_prob(actions).sum(dim=1), None, student)
    batch = samples_of(ROWS)._replace(actions=actions)
    expected = 1 / 8 + math.log(2) + 1 / 2 + math.log(2 * math.pi)
    loss = LikelihoodLoss(3.0)
    assert loss.terms(batch, outputs)._asdict() == {"loss": pytest.approx(expected)}
    assert loss.weighted(loss.terms(batch, outputs)).item() == pytest.approx(3 * expected)
    taught = batch._replace(teacher_mean=th.zeros(1, 2), teacher_log_std=th.zeros(1, 2))
    kl = (math.log(2) + 1 / 8 - 0.5) + 4 / 2
    assert loss.terms(taught, outputs)._asdict() == {"loss": pytest.approx(expected), "kl": pytest.approx(kl)}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_the_likelihoods_gradient_is_that_of_finite_differences(labelled, kept):
    """Two tasks, two actions, three rows of each; in float64 by central differences."""
    generator = np.random.default_rng(0)
    mean, log_std, actions = (generator.normal(size=shape) for shape in ((2, 3, 2), (2, 1, 2), (2, 3, 2)))
    keep = np.ones((2, 3, 1))
    keep[1, 2] = 0
    nothing = np.zeros((2, 3, 1))
    of_teacher = {"teacher_mean": np.zeros((2, 3, 2)), "teacher_log_std": np.zeros((2, 3, 2))} if labelled else {}
    rows = GroupedRows(np.arange(2), actions, nothing, nothing, keep if kept else None, **of_teacher)
    loss = LikelihoodLoss(0.7)

    def total(mean, log_std):
        terms = loss.rows(rows, GroupedOutputs(rows, mean, log_std, nothing))
        return 0.7 * (terms.loss * (keep if kept else 1)).sum() / rows.n_rows

    gradient = loss.output_gradient(rows, GroupedOutputs(rows, mean, log_std, nothing))
    for array, found in ((mean, gradient.mean), (log_std, gradient.log_std[:, None])):
        for place in np.ndindex(*array.shape):
            step = np.zeros_like(array)
            step[place] = 1e-6
            ends = [(mean + s * step, log_std) if array is mean else (mean, log_std + s * step) for s in (1, -1)]
            assert found[place] == pytest.approx((total(*ends[0]) - total(*ends[1])) / 2e-6, abs=1e-8)


def test_the_temperature_is_that_of_a_softmax_over_log_densities():
    """On a fine grid of actions, softmax(log p / tau) is the density of the Gaussian whose std has the factor
    sqrt(tau)."""
    grid, mean, log_std, temperature = np.linspace(-6, 6, 4001), 0.3, np.float64(-0.2), 0.25

    def log_density(log_std):
        return -0.5 * ((grid - mean) / np.exp(log_std)) ** 2

    def softmax(q):
        weights = np.exp(q - q.max())
        return weights / weights.sum()

    scaled = log_std_at_temperature(log_std, temperature)
    assert np.exp(scaled) == pytest.approx(0.5 * np.exp(log_std))
    np.testing.assert_allclose(softmax(log_density(log_std) / temperature), softmax(log_density(scaled)), atol=1e-12)


def test_hand_worked_kl_at_a_temperature():
    """N(0, 1) at 1/4 is N(0, 1/4): KL to N(1, 2^2) is log 4 + (1/4 + 1) / 8 - 1/2."""
    log_std = th.from_numpy(log_std_at_temperature(np.zeros((1, 1)), 0.25))
    student = th.ones((1, 1), dtype=th.float64), th.full((1, 1), math.log(2), dtype=th.float64)
    expected = math.log(4) + 1.25 / 8 - 0.5
    assert distill_loss("forward_kl", th.zeros((1, 1)).double(), log_std, *student).item() == pytest.approx(expected)
    array = np.zeros(2, np.float32)
    assert log_std_at_temperature(array, 1.0) is array
    assert log_std_at_temperature(array, 2.0).dtype == np.float32

import math

import numpy as np
import pytest
import torch as th

from sb3_multitask.losses import a2c_loss, a2c_loss_per_task, distill_loss, gaussian_kl, mean_per_task

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
    loss = a2c_loss_per_task(th.tensor([2, 0, 2]), 3, **ROWS)
    th.testing.assert_close(loss.policy_loss, th.tensor([-2.0, th.nan, 2.0]), equal_nan=True)
    th.testing.assert_close(loss.value_loss, th.tensor([1.0, th.nan, 2.0]), equal_nan=True)
    th.testing.assert_close(loss.entropy_loss, th.tensor([-0.5, th.nan, -1.25]), equal_nan=True)


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


def test_mean_per_task():
    means = mean_per_task(th.tensor([2, 0, 2]), 3, th.tensor([1.0, 2.0, 4.0]))
    th.testing.assert_close(means, th.tensor([2.0, th.nan, 2.5]), equal_nan=True)


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

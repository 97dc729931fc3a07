import pytest
import torch as th

from sb3_multitask.losses import a2c_loss, a2c_loss_per_task

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

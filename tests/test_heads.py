"""Stacked heads and the grouping of rows by task."""

import math

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sb3_multitask.policies.heads import TaskHeads, TaskRows


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_grouping_then_ungrouping_is_the_identity(task):
    rows = TaskRows.of(th.tensor(task), 5)
    values = th.arange(2.0 * len(task)).reshape(-1, 2)
    grouped = rows.group(values)
    assert grouped.shape[:2] == (len(set(task)), max(task.count(t) for t in task))
    assert th.equal(rows.ungroup(grouped), values)
    present = sorted(set(task))
    for i, t in enumerate(present):
        mine = values[th.tensor(task) == t]
        assert th.equal(grouped[i, : len(mine)], mine)
        assert not grouped[i, len(mine) :].any()
    assert rows.select(th.arange(5)).tolist() == present


def test_rows_in_order_are_not_moved():
    rows = TaskRows.of(th.tensor([0, 0, 1, 1]), 2)
    values = th.randn(4, 3)
    assert rows.slots is None
    assert rows.group(values).data_ptr() == values.data_ptr()


def test_heads_are_separate_single_task_nets():
    n_tasks, sizes = 3, (5, 7, 2)
    heads = TaskHeads(n_tasks, sizes, nn.Tanh)
    nets = []
    for t in range(n_tasks):
        first, second = nn.Linear(5, 7), nn.Linear(7, 2)
        with th.no_grad():
            for linear, stacked in zip((first, second), heads.layers, strict=True):
                linear.weight.copy_(stacked.weight[t].T)
                linear.bias.copy_(stacked.bias[t])
        nets.append(nn.Sequential(first, nn.Tanh(), second))
    task = th.tensor([2, 0, 1, 1, 2, 2, 0])
    latent = th.randn(7, 5)
    output = heads(latent, TaskRows.of(task, n_tasks))
    for i, t in enumerate(task):
        th.testing.assert_close(output[i], nets[t](latent[i]), rtol=1e-6, atol=1e-6)


def test_the_gradient_of_one_tasks_rows_is_exactly_zero_in_the_other_heads():
    heads = TaskHeads(4, (5, 7, 2), nn.Tanh)
    task = th.tensor([0, 1, 1, 2, 3, 1])
    output = heads(th.randn(6, 5), TaskRows.of(task, 4))
    output[task == 1].square().sum().backward()
    for parameter in heads.parameters():
        assert not parameter.grad[[0, 2, 3]].any()
        assert parameter.grad[1].any()


def test_each_head_starts_orthogonal_and_different():
    heads = TaskHeads(3, (6, 6, 2), nn.Tanh)
    heads.init_orthogonal(math.sqrt(2), output_gain=0.01)
    hidden, output = heads.layers
    for t in range(3):
        th.testing.assert_close(hidden.weight[t].T @ hidden.weight[t], 2 * th.eye(6), atol=1e-5, rtol=0)
        th.testing.assert_close(output.weight[t].T @ output.weight[t], 1e-4 * th.eye(2), atol=1e-8, rtol=0)
    assert not th.equal(hidden.weight[0], hidden.weight[1])
    assert not any(layer.bias.any() for layer in heads.layers)


@pytest.mark.parametrize("task", [[0], [2, 2, 2]])
def test_absent_tasks_cost_and_contribute_nothing(task):
    heads = TaskHeads(3, (4, 2), nn.Tanh)
    rows = TaskRows.of(th.tensor(task), 3)
    assert rows.shape == (1, len(task))
    heads(th.randn(len(task), 4), rows).sum().backward()
    absent = [t for t in range(3) if t != task[0]]
    assert not heads.layers[0].weight.grad[absent].any()

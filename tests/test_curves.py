import numpy as np
import pytest

from sb3_multitask.experiments.curves import (
    RunCurves,
    _are_of_one_scale,
    draw_learning_curves,
    read_training_returns,
    smooth,
)


def write_monitor(folder, row, episodes, task):
    lines = ['#{"t_start": 0}', "r,l,t,task", *(f"{r},{length},0.0,{task}" for r, length in episodes)]
    (folder / f"{row}.monitor.csv").write_text("\n".join(lines) + "\n")


def test_returns_are_ordered_by_steps_not_by_time(tmp_path):
    write_monitor(tmp_path, 0, [(1.0, 10), (2.0, 10)], "A")
    write_monitor(tmp_path, 1, [(3.0, 5), (4.0, 20)], "A")
    write_monitor(tmp_path, 2, [(9.0, 7)], "B")
    write_monitor(tmp_path, 3, [], "B")
    curves = read_training_returns(tmp_path)
    steps, returns = curves["A"]
    assert steps.tolist() == [10, 20, 40, 50]  # two copies step side by side
    assert returns.tolist() == [3.0, 1.0, 2.0, 4.0]
    assert curves["B"][1].tolist() == [9.0]


def test_smoothing_is_the_mean_of_the_last_episodes():
    np.testing.assert_allclose(smooth(np.array([1.0, 3.0, 5.0, 7.0]), 2), [1, 2, 4, 6])
    assert smooth(np.array([])).size == 0


def test_curves_are_drawn_even_without_episodes(tmp_path):
    curves = RunCurves({"A": (np.array([1.0]), np.array([2.0]))})
    draw_learning_curves({"": curves}, ["A", "B"], tmp_path / "c.png", "t")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("scale", "is_one"), [(1.0, True), (9.0, True), (30.0, False)])
def test_panels_share_an_axis_unless_returns_are_of_other_sizes(scale, is_one):
    steps = np.arange(5)
    curves = RunCurves({"A": (steps, np.full(5, -3.0)), "B": (steps, np.full(5, 3 * scale))}, {})
    assert _are_of_one_scale([curves], ["A", "B"]) is is_one

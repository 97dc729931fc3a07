"""The paper's report, which stands beside its results: tables and figures from run folders and from committed data."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.finished_runs import write_grid, write_run

from results.paper.report.__main__ import write_paper_report
from results.paper.report.comparisons import ablation, comparisons, control, control_compared, students
from results.paper.report.methods import BODIES, Method
from results.paper.report.reaching import _first_frames, frames_to_reach
from results.paper.report.tables import table_1, table_2
from sb3_multitask.experiments.report import read_runs

PAPER = Path(__file__).parents[1] / "results" / "paper"


@pytest.fixture
def runs(tmp_path):
    return write_grid(tmp_path / "runs")


def test_a_report_has_the_papers_tables_and_figures(tmp_path, runs):
    output = tmp_path / "report"
    missing = write_paper_report(runs, output, with_clips=False)
    assert missing == ["p/vanilla/seed_2: waiting"]
    table_2 = (output / "table_2_p.md").read_text()
    cells = ["BigFoot", "1000 [1000, 1001]", "38 ± 441", "900 [900, 901]", "-63 ± 1", "1500 [1500, 1501]", "2188 ± 21"]
    assert f"| {' | '.join(cells)} |" in table_2
    assert "| mean of the six |" in table_2
    table_1 = (output / "table_1_p.csv").read_text()
    assert '5M,SmallFoot,"700 [700, 701]",2,1501 ± 30' in table_1
    transfer = (output / "transfer_p.md").read_text()
    assert "| SmallFoot to SmallLeg | forgetting of SmallFoot | -700 [-701, -700] | 2 |" in transfer
    comparisons = (output / "comparisons_p.md").read_text()
    assert "| vanilla over scratch | 500 [" in comparisons
    assert "1.00 [1.00, 1.00]" in comparisons
    page = (output / "report.html").read_text()
    linked = re.findall(r"<a href='#([a-z0-9_]+)'", page)
    assert linked[0] == "table_1_p"
    assert linked[-2:] == ["runs", "curves"]
    assert all(page.count(f"<section id='{name}'>") == 1 for name in linked)
    for number in range(2, 9):
        assert (output / f"figure_{number}_p.svg").exists()
        assert (output / f"figure_{number}_p.png").read_bytes().startswith(b"\x89PNG")
        assert f"<figure id='figure_{number}_p'>" in page
    assert page.count("<svg") == 7


def test_titles_say_the_budgets_that_ran(tmp_path, runs):
    """One run's other budget shows; the paper's number stands beside its own budget only."""
    found, _ = read_runs(runs)
    ours = ["scratch 3M", "paper", "distillation 1M", "paper", "vanilla 1M", "paper"]
    assert table_2(found, "p").header[1:] == ours
    assert table_2(found, "p").rows[-1] == ["seeds", "2", "", "2", "", "2", ""]
    assert "over 20 deterministic episodes" in table_2(found, "p").note
    write_run(runs, "p", "scratch_BigFoot", 2, {"BigFoot": "HalfCheetahBigFoot-v0"}, 9, n_timesteps=2_000_000)
    write_run(runs, "p", "scratch_SmallLeg", 2, {"SmallLeg": "HalfCheetahSmallLeg-v0"}, 9, n_timesteps=2_000_000)
    found, _ = read_runs(runs)
    assert table_2(found, "p").header[1] == "scratch 2M or 3M"
    scratch = {row[2]: row for row in table_1(found, "p").rows if row[0].startswith("scratch")}
    assert scratch["SmallFoot"][1:] == ["5M", "SmallFoot", "1000 [1000, 1001]", "2", "1583 ± 30"]
    assert scratch["SmallLeg"][1:3] + scratch["SmallLeg"][4:] == ["2M or 5M", "SmallLeg", "3", ""]


def test_methods_are_compared_on_the_seeds_that_both_have(tmp_path, runs):
    """Scratch gets a third seed of 9000 on every body, which vanilla and the students do not have."""
    before = comparisons(read_runs(runs)[0], "p").rows
    for body in BODIES:
        tasks = {body: f"HalfCheetah{body}-v0"}
        write_run(runs, "p", f"scratch_{body}", 2, tasks, 9000, ("before", "3000000", "after"), n_timesteps=5_000_000)
    found, _ = read_runs(runs)
    assert comparisons(found, "p").rows == before
    assert before[1][:2] == ["distillation over scratch", "-100 [-100, -100]"]  # seed by seed
    assert [row[-1] for row in before] == ["2", "2", "2"]
    rows = students(found, "p").rows
    assert rows == [["0", "1000", "900", "90%"], ["1", "1001", "901", "90%"], ["mean", "1000", "900", "90%"]]
    assert students(found, "nobody").rows == []


def test_frames_until_a_level(tmp_path, runs):
    """Curves rise linearly over 4000 frames of a body: to 1000 + seed, 900 + seed, 1500 + seed."""
    found, _ = read_runs(runs)
    rows = {row[0]: row for row in frames_to_reach(found, "p", level=950).rows}
    assert rows["scratch"][1:4] == ["1.00", "1.00", "0.004M"]
    assert rows["distillation"][1:4] == ["0.00", "", "(0 of 12)"]
    frames = _first_frames(found, Method("p", "vanilla"), 950, 1000)
    assert sorted(frames) == [0, 1]
    assert all((of_seed == 3000).all() for of_seed in frames.values())  # the third is the first at 950 or above
    assert frames_to_reach(found, "nobody").rows[0][-1] == "0"


def test_who_is_looked_at_more_often_is_not_sooner(tmp_path):
    """Two seeds, one to 2000 and one never to 1000: reached by half. Eight evaluations count as four."""
    for seed, level in enumerate((2000, 400)):
        write_run(tmp_path, "p", "distillation", seed, "HalfCheetahBody6", level, points=4)
        write_run(tmp_path, "p", "vanilla", seed, "HalfCheetahBody6", level, points=8)
    found, _ = read_runs(tmp_path)
    _, distilled, vanilla = frames_to_reach(found, "p").rows
    assert distilled[1:4] == ["0.50", "", "(6 of 12)"]
    assert distilled[4].startswith("SmallFoot (1 of 2); BigFoot (1 of 2)")
    each = _first_frames(found, Method("p", "vanilla"), 1000, 1000)
    assert set(each[0]) == {3000}  # at 2500 a look that the other method does not have
    assert vanilla[1:4] == distilled[1:4]
    assert set(_first_frames(found, Method("p", "vanilla"), 1900, 1500)[0]) == {
        np.inf
    }  # 2000 at 4000, after the last look


@pytest.fixture
def no_paper_figures(monkeypatch):
    """Another test draws them; they take seconds."""
    monkeypatch.setattr("results.paper.report.figures.draw_paper_figures", lambda *_: [])


def test_an_ablation_stands_beside_its_preset(tmp_path, no_paper_figures):
    runs = tmp_path / "runs"
    for seed in range(3):
        write_run(runs, "tuned", "vanilla", seed, "HalfCheetahBody6", 1500)
    for seed in (0, 1):
        write_run(runs, "ablation", "vanilla_1_env", seed, "HalfCheetahBody6", 500, n_envs_per_task=1)
    found, _ = read_runs(runs)
    ((change, mean, median, worst, without, difference, better, seeds),) = ablation(found, "ablation", "tuned").rows
    assert (change, seeds) == ("vanilla: 1 env", "2")
    assert mean.startswith("500 [")
    assert median.startswith("500 [")
    assert worst.startswith("500 [")
    assert without.startswith("1500 [")  # seeds 0 and 1; with seed 2 it would be 1501
    assert difference.startswith("-1000 [")
    assert better.startswith("0.00")
    write_paper_report(runs, tmp_path / "report", with_clips=False)
    assert "| vanilla: 1 env | 500 [" in (tmp_path / "report/ablation_ablation.md").read_text()
    assert "<figure id='ablation_ablation'>" in (tmp_path / "report/report.html").read_text()


def test_students_in_an_ablation_are_compared_seed_by_seed(tmp_path):
    for seed in (0, 1000):
        write_run(tmp_path, "tuned", "distillation", seed, "HalfCheetahBody6", 1500)
        write_run(tmp_path, "ablation", "distillation_mse", seed, "HalfCheetahBody6", 1400)
        write_run(tmp_path, "ablation", "vanilla_alone", seed, "HalfCheetahBody6", 1400)
    rows = {row[0]: row for row in ablation(read_runs(tmp_path)[0], "ablation", "tuned").rows}
    assert rows["distillation: mse"][5] == "-100 [-100, -100]"
    assert rows["vanilla: alone"][4:6] == ["-", "-"]  # nothing to stand beside
    for seed in (0, 1000):  # students of the same teachers, which are not the base's
        write_run(tmp_path, "ablation", "distillation", seed, "HalfCheetahBody6", 1700)
    rows = {row[0]: row for row in ablation(read_runs(tmp_path)[0], "ablation", "tuned").rows}
    assert rows["distillation: mse"][5] == "-300 [-300, -300]"
    assert set(rows) == {"distillation: mse", "vanilla: alone"}


def test_a_control_separates_settings_from_sharing(tmp_path, runs, no_paper_figures):
    """Scratch 1000, single tasks with the control's settings 1300, vanilla 1500; each plus its seed."""
    (runs / "p").rename(runs / "tuned")
    for body in BODIES:
        for seed in (0, 1, 2):
            tasks = {body: f"HalfCheetah{body}-v0"}
            write_run(runs, "control", f"alone_{body}", seed, tasks, 1300, n_timesteps=3_000_000)
    found, _ = read_runs(runs)
    table = control(found, "control", "tuned")
    assert table.header == ["body", "scratch 3M (tuned)", "alone 3M (control)", "vanilla 1M (tuned)"]
    assert table.rows[0] == ["SmallFoot", "1000 [1000, 1001]", "1301 [1300, 1302]", "1500 [1500, 1501]"]
    assert table.rows[-1] == ["seeds", "2", "3", "2"]
    rows = {row[0]: row for row in control_compared(found, "control", "tuned").rows}
    assert rows["alone over scratch"][1].startswith("300 [")
    assert rows["vanilla over alone"][1].startswith("200 [")
    assert [row[-1] for row in rows.values()] == ["2", "2", "2"]
    write_paper_report(runs, tmp_path / "report", with_clips=False)
    page = (tmp_path / "report/report.html").read_text()
    assert "<figure id='control_control'>" in page
    assert (
        "What the settings of &#x27;control&#x27; explain" in page or "What the settings of 'control' explain" in page
    )


def test_the_committed_tables_and_page_are_made_from_the_committed_data(tmp_path, monkeypatch):
    """The figures, which depend on matplotlib's version, are taken from what is committed."""

    def committed(preset):
        drawn = [*PAPER.glob(f"figure_*_{preset}.svg"), *PAPER.glob(f"{preset}_{preset}.svg")]
        return sorted(drawn)

    monkeypatch.setattr("results.paper.report.__main__.paper_figures", lambda _runs, preset, _folder: committed(preset))
    assert write_paper_report(PAPER / "data", tmp_path) == []
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(PAPER) for path in PAPER.rglob("*") if path.suffix in (".csv", ".md", ".html", ".json")}
    assert made == {path for path in kept if path.name != "README.md" and path.parts[0] != "report"}
    assert [str(path) for path in sorted(made) if (tmp_path / path).read_bytes() != (PAPER / path).read_bytes()] == []


def test_runs_of_other_tasks_are_not_taken_for_the_papers(tmp_path, no_paper_figures):
    write_run(tmp_path, "p", "vanilla", 0, {"a": "Hopper-v5"}, 50)
    with pytest.raises(ValueError, match=r"sb3-multitask report"):
        write_paper_report(tmp_path, tmp_path / "report")
    write_run(tmp_path, "p", "distillation", 0, "HalfCheetahBody6", 70)
    write_paper_report(tmp_path, tmp_path / "report", with_clips=False)
    assert "p/vanilla" in (tmp_path / "report/runs.md").read_text()
    rows = (tmp_path / "report/table_2_p.csv").read_text().splitlines()
    assert rows[-1] == "seeds,0,,1,,0,"

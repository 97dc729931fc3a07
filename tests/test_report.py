"""Statistics against hand-worked cases; reports from run folders alone."""

import csv
import html
import json
import re
import shutil
import subprocess
from dataclasses import asdict

import numpy as np
import pytest
from helpers.finished_runs import write_grid, write_run
from PIL import Image

import sb3_multitask as mt
from sb3_multitask.evaluation.evaluate import TaskResult
from sb3_multitask.evaluation.films import NoRendererError, find_renderer
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.report import continual, statistics, write_report
from sb3_multitask.experiments.report.any_grid import carried_over, gains, presets_compared, taught
from sb3_multitask.experiments.report.clips import render_clips
from sb3_multitask.experiments.report.collect import read_runs, write_data
from sb3_multitask.experiments.report.figures import draw_sides
from sb3_multitask.experiments.report.statistics import difference, paired_difference
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import TASK_SETS

SCORES = np.array([[0.0, 10.0], [2.0, 20.0], [4.0, 30.0], [6.0, 40.0]])


def test_point_estimates():
    assert statistics.mean(SCORES).value == pytest.approx(14)
    assert statistics.interquartile_mean(SCORES).value == pytest.approx((4 + 6 + 10 + 20) / 4)
    assert statistics.median_task(SCORES).value == pytest.approx((3 + 25) / 2)
    assert statistics.worst_task(SCORES).value == pytest.approx(3)
    assert difference(SCORES, SCORES - 5).value == pytest.approx(5)


def test_the_interval_of_a_mean_is_that_of_resampled_seeds():
    """Two seeds, one task: resampling gives a, (a + b) / 2, b with probabilities 1/4, 1/2, 1/4."""
    estimate = statistics.mean(np.array([[0.0], [8.0]]))
    assert (estimate.value, estimate.low, estimate.high) == (4, 0, 8)
    constant = statistics.mean(np.full((3, 2), 7.0))
    assert (constant.low, constant.high) == (7, 7)


def test_seeds_that_belong_together_are_compared_seed_by_seed():
    """Seeds differ by 1000, the two sides of each seed by 5 exactly."""
    scores = np.array([[0.0], [1000.0], [3000.0]])
    assert str(paired_difference(scores + 5, scores)) == "5 [5, 5]"
    apart = difference(scores + 5, scores)
    assert (apart.value, apart.low < -1000) == (5, True)


def test_tasks_are_resampled_by_themselves():
    """Stratified: a task's own spread is all that enters; tasks far apart give no interval between them."""
    scores = np.array([[0.0, 1000.0], [0.0, 1000.0], [0.0, 1000.0]])
    estimate = statistics.mean(scores)
    assert (estimate.low, estimate.high) == (500, 500)


def test_intervals_cover():
    """A 95% interval of the mean of 10 normal seeds covers the truth about nine times in ten, or more."""
    rng = np.random.default_rng(0)
    estimates = [statistics.mean(rng.normal(size=(10, 1))) for _ in range(100)]
    assert 84 <= sum(e.low <= 0 <= e.high for e in estimates) <= 99


def test_probability_of_improvement():
    """By hand: of 3 x 3 pairs the first wins 4, and 1 is a tie: 4.5 / 9; the other task: all 9."""
    a, b = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]), np.array([[2.0, 1.0], [3.0, 1.0], [6.0, 1.0]])
    expected = (3.5 / 9 + 1) / 2
    assert statistics.probability_of_improvement(a, b).value == pytest.approx(expected)
    assert statistics.probability_of_improvement(a, a).value == pytest.approx(0.5)


def test_one_seed_has_no_interval_and_none_no_value():
    one = statistics.mean(np.array([[3.0, 5.0]]))
    assert str(one) == "4 (1 seed)"
    assert np.isnan(one.low)
    assert str(statistics.mean(np.empty((0, 2)))) == "-"
    assert str(statistics.mean(SCORES)).startswith("14 [")
    assert str(statistics.mean(np.array([[-0.2], [-0.4]]))) == "0 [0, 0]"


def test_forgetting_and_transfer_by_hand():
    """Three tasks; rows are phases. One seed, then the same under a leading axis."""
    matrix = np.array([[10.0, 2.0, 1.0], [7.0, 20.0, 4.0], [3.0, 25.0, 30.0]])
    assert continual.forgetting(matrix).tolist() == [10 - 3, 20 - 25, 0]
    assert continual.backward_transfer(matrix).tolist() == [3 - 10, 25 - 20]
    assert continual.zero_shot_transfer(matrix, np.array([9.0, 1.0, -1.0])).tolist() == [2 - 1, 4 - -1]
    seeds = np.stack([matrix, 2 * matrix])
    assert continual.forgetting(seeds)[1].tolist() == [14, -10, 0]
    assert continual.zero_shot_transfer(seeds, np.zeros((2, 3)))[1].tolist() == [4, 8]
    curve = (np.array([1.0, 3.0]), np.array([5.0, 9.0]))
    scratch = (np.array([0.0, 4.0]), np.array([0.0, 8.0]))  # 2 and 6 at those steps
    assert continual.area_transfer(curve, scratch) == 3
    assert np.isnan(continual.area_transfer((np.empty(0), np.empty(0)), scratch))


# From folders


@pytest.fixture
def runs(tmp_path):
    return write_grid(tmp_path / "runs")


def test_a_report_has_tables_figures_data_and_a_page(tmp_path, runs):
    """The names of these runs are the paper's, which a report of the package does not know."""
    output = tmp_path / "report"
    missing = write_report(runs, output, with_clips=False)
    assert missing == ["p/vanilla/seed_2: waiting"]
    assert {path.stem for path in output.glob("*.md")} == {"gains_p", "runs"}
    data = json.loads((output / "data/p/vanilla_seed_1.json").read_text())
    assert data["settings"]["seed"] == 1
    assert data["results"]["after"]["BigFoot"]["episode_rewards"] == [1501, 1501]
    assert data["curves"]["BigFoot"]["returns"][-1] == 1501
    assert data["ran_with"]["versions"]["mujoco"]
    page = (output / "report.html").read_text()
    assert "1 runs are not finished, and not in here.</summary>p/vanilla/seed_2: waiting</details>" in page
    linked = re.findall(r"<a href='#([a-z0-9_]+)'", page)
    assert linked == ["gains_p", "runs", "curves"]
    assert all(page.count(f"<section id='{name}'>") == 1 for name in linked)
    names = sorted(path.name for path in (runs / "p").iterdir())
    for name in names:
        assert (output / f"curves_{name}.svg").exists()
        assert (output / f"curves_{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"<figure id='curves_{name}'>" in page
    assert page.count("<svg") == len(names) == 10
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def write_conflicts(folder, shares):
    """Cosines of three tasks: in each measurement so many of the three pairs are at -0.5, and the others at 0.25."""
    cosines = np.array([np.eye(3)] * len(shares))
    for matrix, n_negative in zip(cosines, shares, strict=True):
        for i, pair in enumerate([(0, 1), (0, 2), (1, 2)]):
            matrix[pair] = matrix[pair[::-1]] = -0.5 if i < n_negative else 0.25
    arrays = {"actor": cosines, "critic": np.full_like(cosines, np.nan)}
    np.savez(folder / "conflicts.npz", timesteps=np.arange(1, len(shares) + 1), task_names=list("abc"), **arrays)


def test_conflicts_are_a_table_and_heat_maps_of_the_runs_that_measured_them(tmp_path):
    """By hand: the shares of conflicting pairs are 1, 1/3, 0 with one seed, and 1, 2/3, 2/3 with the other."""
    root, output = tmp_path / "runs", tmp_path / "report"
    tasks = dict.fromkeys("abc", "Hopper-v5")
    for name in ("measured", "plain"):
        for seed in (0, 1):
            write_run(root, "p", name, seed, tasks, 100)
    write_conflicts(root / "p/measured/seed_0", (3, 1, 0))
    write_conflicts(root / "p/measured/seed_1", (3, 2, 2))
    write_report(root, output, with_clips=False)
    _, *rows = csv.reader((output / "conflicts_p.csv").read_text().splitlines())
    seeds = np.array([[-0.5, 0, 0.25], [-0.5, -0.25, -0.25]]).mean(axis=1)
    shares = "61 [44, 78]", "100 [100, 100]", "33 [0, 67]"  # of the seeds: (1 + 1/3) / 3 and (1 + 4/3) / 3
    cosine = f"{seeds.mean():.2f} [{seeds.min():.2f}, {seeds.max():.2f}]"
    assert rows == [["measured", "actor", cosine, *shares, "2"]]
    text = (output / "conflicts_p.md").read_text()
    (words,) = re.findall(r"^!\[(.*)\]\(<conflicts_p_measured.svg>\)$", text, re.MULTILINE)
    assert words.startswith("measured: heat maps of the mean cosines between the gradients of 3 tasks")
    assert "the actor's lowest mean cosine is -0.38, of a and b" in words  # five times of six at -0.5
    page = (output / "report.html").read_text()
    assert f"<figure id='conflicts_p_measured' role='img' aria-label='{html.escape(words)}'><svg" in page
    assert "<a href='#conflicts_p'>" in page
    write_report(output / "data", tmp_path / "again", with_clips=False)
    for name in ("conflicts_p.csv", "conflicts_p.md", "conflicts_p_measured.svg"):
        assert (output / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def write_small_grid(root):
    """A teacher, a student and a run that goes on from the teacher, two seeds each, one of which comes after nine."""
    for seed in (0, 10):
        write_run(root, "p", "teacher", seed, {"a": "Hopper-v5"}, 100, ("before", "1000", "after"))
        teacher = str(root / "p/teacher" / f"seed_{seed}")
        write_run(root, "p", "teacher_2", seed, {"a": "Hopper-v5"}, 90, init_from=teacher, also_on={"b": "Walker2d-v5"})
        write_run(root, "p", "student", seed, {"a": "Hopper-v5"}, 80, teachers={"a": f"{teacher}/agents/1000"})
    return root


def test_a_report_on_the_data_of_a_report_is_the_same_report(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_report(write_small_grid(tmp_path / "runs"), first, with_clips=False)
    write_report(first / "data", second)  # no agents: nothing to film
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert {"taught_p.md", "carried_over_p.md", "report.html", "data/p/student_seed_0.json"} <= set(map(str, files))
    assert sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file()) == files
    assert [str(path) for path in files if (first / path).read_bytes() != (second / path).read_bytes()] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [('"settings"', '"setings"'), ('"steps": [', '"steps": [7.0, '), ("{", "["), ('"returns": [', '"returns": ["x", ')],
)
def test_data_that_are_damaged_are_named(tmp_path, old, new):
    write_run(tmp_path / "runs", "p", "run", 0, {"a": "Hopper-v5"}, 5)
    (run,), _ = read_runs(tmp_path / "runs")
    write_data(run, tmp_path / "data")
    path = tmp_path / "data/p/run_seed_0.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UnreadableFileError, match="run_seed_0.json"):
        read_runs(tmp_path / "data")


def test_gains_over_the_untrained_agent(tmp_path):
    """Seeds 0 and 1 return 5 and 6, after 0; one seed has no interval, so nothing is claimed."""
    for seed in (0, 1):
        write_run(tmp_path, "floor", "group", seed, {"a": "Hopper-v5", "b": "HopperBigFoot-v0"}, 5)
    write_run(tmp_path, "floor", "single", 0, {"a": "Hopper-v5"}, 5)
    rows = gains(read_runs(tmp_path)[0], "floor").rows
    assert [row[:2] for row in rows] == [["group", "a"], ["group", "b"], ["single", "a"]]
    assert rows[0][2:] == ["0 [0, 0]", "6 [5, 6]", "6 [5, 6]", "yes", "2"]
    assert rows[2][-2:] == ["no", "1"]


@pytest.mark.slow
def test_what_runs_kept_forgot_and_took_over(tmp_path):
    """By hand; the names are the paper's, which mean nothing here."""
    root = tmp_path / "runs"
    for preset, level in (("base", 0), ("small", 5)):
        for seed in (0, 1):
            for task, begin in (("Foot", 100), ("Leg", 200)):
                name, moments = f"scratch_{task}", ("before", "2000", "after")
                write_run(root, preset, name, seed, {task: "Hopper-v5"}, begin + level, moments, n_timesteps=4000)
            foot, leg = (root / preset / f"scratch_{task}" / f"seed_{seed}" for task in ("Foot", "Leg"))
            write_run(
                *(root, preset, "finetune_Foot_to_Leg", seed, {"Leg": "Hopper-v5"}, 300),
                also_on={"Foot": "Walker2d-v5"},
                init_from=str(foot),
                init_tasks={"Leg": "Foot"},
            )
            teachers = {"Foot": str(foot / "agents/2000"), "Leg": str(leg)}
            both = {"Foot": "Hopper-v5", "Leg": "Hopper-v5"}
            write_run(root, preset, "distillation", seed, both, 90, teachers=teachers)
            for name in ("vanilla", "vanilla_joint", "alone_Foot"):
                write_run(root, preset, name, seed, both, 50)
    write_report(root, tmp_path / "report", with_clips=False)
    tables = {path.stem for path in (tmp_path / "report").glob("*.md")}
    kinds = ("gains", "taught", "carried_over")
    assert tables == {f"{kind}_{preset}" for kind in kinds for preset in ("base", "small")} | {"presets", "runs"}
    runs = read_runs(root)[0]
    assert [row[1:] for row in taught(runs, "base").rows] == [
        ["Foot", "100 [100, 101]", "90 [90, 91]", "-10 [-10, -10]", "90%", "2"],
        ["Leg", "200 [200, 201]", "90 [90, 91]", "-110 [-110, -110]", "45%", "2"],
        ["mean", "150 [150, 151]", "90 [90, 91]", "-60 [-60, -60]", "60%", "2"],
    ]
    assert [row[1:] for row in carried_over(runs, "base").rows] == [
        ["forgetting of Foot", "0 [0, 0]", "300 [300, 301]", "-300 [-301, -300]", "2"],
        ["zero-shot transfer to Leg", "0 [0, 0]", "0 [0, 0]", "0 [0, 0]", "2"],
        ["area transfer to Leg", "", "", "50 [50, 50]", "2"],  # two lines that end 100 apart
    ]
    assert len(gains(runs, "base").rows) == 3 + 4 * 2
    assert "6 seeds" not in (tmp_path / "report/curves_vanilla.svg").read_text()
    assert "2 seeds" in (tmp_path / "report/curves_vanilla.svg").read_text()


def test_a_legend_has_every_side_of_every_panel(tmp_path):
    curve = (np.array([1e6, 2e6]), np.array([0.0, 1.0]))
    panels = {"first": {"a": [curve]}, "second": {"a": [curve] * 2, "b": [curve] * 3}}
    (path,) = draw_sides(panels, tmp_path / "sides.svg", "steps")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    assert {"first (1 seed)", "second (2 or 3 seeds)", "a: mean over seeds", "b: mean over seeds"} <= set(texts)
    assert {"1M", "2M", "steps"} <= set(texts)


def test_the_same_run_in_two_presets(tmp_path):
    """5 and 6 against 2, 3 and 4 of the common seeds 0 and 1; a run that one preset has alone is not compared."""
    for seed in (0, 1):
        write_run(tmp_path, "a", "group", seed, {"x": "Hopper-v5"}, 5)
    for seed in (0, 1, 2):
        write_run(tmp_path, "b", "group", seed, {"x": "Hopper-v5"}, 2)
    write_run(tmp_path, "b", "alone", 0, {"x": "Hopper-v5"}, 5)
    table = presets_compared(read_runs(tmp_path)[0])
    assert [row[:2] for row in table.rows] == [["group", "a over b"]]
    assert table.rows[0][2:] == ["6 [5, 6]", "2 [2, 3]", "3 [2, 4]", "1.00 [1.00, 1.00]", "2"]
    for name in ("report", "again"):
        write_report(tmp_path, tmp_path / name, with_clips=False)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("report", "again")]
    assert pages[0] == pages[1]  # of the same runs
    assert "| group | a over b |" in (tmp_path / "report/presets.md").read_text()
    assert [path.name for path in sorted((tmp_path / "report").glob("*.svg"))] == [
        "curves_alone.svg",
        "curves_group.svg",
    ]
    assert all(
        text in (tmp_path / "report/report.html").read_text()
        for text in ("a: mean over seeds", "b: mean over seeds", "x (2 or 3 seeds)")
    )


def test_what_a_run_was_is_read_from_its_folder(runs):
    found, _ = read_runs(runs)
    run = next(run for run in found if run.name == "finetune_SmallFoot_to_SmallLeg" and run.seed == 1)
    assert set(run.curves()) == {"SmallLeg", "SmallFoot"}
    steps, values = run.curves()["SmallLeg"]
    assert steps.tolist() == [1000, 2000, 3000, 4000]
    assert values[-1] == 701
    assert json.loads(json.dumps(asdict(run.results["after"]["SmallLeg"])))["mean_reward"] == 701
    vanilla = next(run for run in found if run.name == "vanilla")
    assert vanilla.curves()["BigFoot"][0].tolist() == [1000, 2000, 3000, 4000]  # steps of each body
    assert list(vanilla.curves()) == [task.name for task in TASK_SETS["HalfCheetahBody6"]]


@pytest.mark.slow
def test_clips_are_films_or_a_line_that_says_why(tmp_path):
    kwargs = {"policy_kwargs": {"ortho_init": False}}  # it moves untrained
    tasks = [mt.Task("Small", "HalfCheetahSmallFoot-v0"), mt.Task("Big", "HalfCheetahBigFoot-v0")]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", tasks, device="cpu", seed=0, **kwargs)
    mt.save_agent(model, tmp_path / "agent")
    with pytest.raises(UnreadableFileError, match="nobody"):
        render_clips(tmp_path / "nobody", tasks, tmp_path / "clips")
    if find_renderer() is None:
        with pytest.raises(NoRendererError, match="libegl1"):
            render_clips(tmp_path / "agent", tasks, tmp_path / "clips")
        return
    clips = render_clips(tmp_path / "agent", tasks, tmp_path / "clips")
    assert list(clips) == ["Small", "Big"]
    for path in clips.values():
        with Image.open(path) as film:
            assert film.size == (192, 144)
            assert film.n_frames > 30  # frames that are alike are one


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no runs"):
        write_report(tmp_path, tmp_path / "report")


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in")
def test_a_browser_finds_every_figure_and_no_error(tmp_path, runs):
    write_report(runs, tmp_path / "report", with_clips=False)
    page = (tmp_path / "report" / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    log = ["--enable-logging=stderr", "--v=0", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, *log, page], capture_output=True, text=True, timeout=120, check=True)
    for folder in (runs / "p").iterdir():
        assert f'<figure id="curves_{folder.name}">' in done.stdout
    assert done.stdout.count("</svg>") == 10
    assert "CONSOLE" not in done.stderr


def test_a_group_learned_in_turn_stands_beside_hendersons(tmp_path):
    """By hand: two seeds with returns 100 x phase + 10 x task + seed after each phase, 0 before."""
    root = tmp_path / "runs"
    tasks = [task.name for task in TASK_SETS["HalfCheetahGravity5"]]
    for seed in (0, 1):
        folder = RunFolder(root / "a2c" / "gravity" / f"seed_{seed}")
        folder.path.mkdir(parents=True)
        dump_config(TrainConfig(tasks="HalfCheetahGravity5", seed=seed, sequential=True), folder.config)
        results = {"before": {task: TaskResult.of([(0.0, 1000)]) for task in tasks}}
        for phase in range(1, 6):
            value = {task: 100.0 * phase + 10 * i + seed for i, task in enumerate(tasks)}
            results[f"after_{phase}"] = {task: TaskResult.of([(value[task], 1000)]) for task in tasks}
        folder.write_results(**results, after=results["after_5"])
        folder.write_status("finished")
    write_report(root, tmp_path / "report", with_clips=False)
    table = (tmp_path / "report/gravity_a2c.md").read_text()
    assert (
        "| Earth | 220 [220, 221] | 1868 ± 252 | 320 [320, 321] | 2410 ± 137 | 520 [520, 521] | 1744 ± 100 |" in table
    )
    assert "| forgetting, mean over all but the last | -250 [" in table  # own: 100 to 400 with 0 to 30; last: 500
    assert "| backward transfer, mean over all but the last | 250 [" in table
    forward = (110 + 220 + 330 + 440) / 4 + 0.5
    assert (
        f"| forward transfer, zero-shot, mean over all but the first | {forward:.0f} [" in table
        or f"| {forward - 0.5:.0f} [" in table
    )


def test_seeds_with_other_settings_are_not_averaged(tmp_path):
    root = tmp_path / "runs"

    def write_student(seed, **settings):
        teachers = {"Hopper-v5": str(root / f"p/teacher/seed_{seed}/agents/3000")}
        write_run(root, "p", "student", seed, ("Hopper-v5",), 2.0, teachers=teachers, **settings)

    write_student(0)
    write_student(1, n_timesteps=500)
    assert len(read_runs(root)[0]) == 2  # each seed has its own teacher, which is no other setting
    write_student(2, gamma=0.9)
    with pytest.raises(ConfigError, match=r"p/student: seeds 0 and 2 .*gamma \(0.99 and 0.9\)"):
        write_report(root, tmp_path / "report", with_clips=False)


def test_what_stands_beside_a_worst_tasks_interval_is_what_a_simulation_finds():
    """Six equal tasks: the interval of the worst holds the truth far less often than it says."""
    generator, found = np.random.default_rng(0), 0
    for _ in range(100):
        estimate = statistics.worst_task(generator.normal(size=(5, 6)))
        found += estimate.low <= 0 <= estimate.high
    assert found < 30
    assert "rarely holds the truth" in statistics.WORST_TASK

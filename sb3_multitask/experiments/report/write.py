"""Writes a report: tables, figures, and one page that holds them all."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sb3_multitask.experiments.report import any_grid, comparisons, paper, reaching, statistics
from sb3_multitask.experiments.report.clips import render_clips
from sb3_multitask.experiments.report.collect import Run, read_runs, returns, select
from sb3_multitask.experiments.report.figures import draw_changes, draw_control, draw_paper_figures, draw_runs
from sb3_multitask.experiments.report.methods import is_of_paper
from sb3_multitask.experiments.report.sequential import sequential_tables
from sb3_multitask.experiments.report.tables import Table
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.files import write_text
from sb3_multitask.readers import UnreadableFileError

_PROVENANCE = (
    "versions",
    "python",
    "machine",
    "torch_threads",
    "revision",
    "engine",
    "backend",
    "physics_threads",
    "wall_seconds",
    "cpu_seconds",
)
BASE = "tuned"
"""The preset that the ablation and the control of the paper's grid stand beside."""
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1300px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{border:1px solid #ccc;padding:.2rem .6rem;"
    "white-space:nowrap}.numbers{text-align:right}.words,.long{text-align:left}td.long{white-space:normal;min-width:16rem}"
    "section{overflow-x:auto}nav{columns:3;margin:1rem 0}nav a{display:block}figure{margin:1rem 0}"
    "svg{max-width:100%;height:auto}.clip{display:inline-block;margin:.3rem;text-align:center}"
    "figcaption{font-size:.9em;color:#555;text-align:center}"
)


def write_report(root: Path, output: Path, with_clips: bool = True) -> list[str]:
    """Turn the run folders below ``root`` into tables (Markdown, CSV), figures (SVG, PNG) and ``report.html``.

    ``data/`` holds of every run what the numbers come from: settings, versions, all evaluations and their episodes.

    :param root: folder of a grid
    :param output: where the files go
    :param with_clips: film the best multi-task agent of each preset, where a renderer is at hand
    :return: what is missing: runs that are not finished, with their status
    :raises FileNotFoundError: if there is no run
    """
    runs, others = read_runs(root)
    presets = sorted({run.preset for run in runs}, key=lambda preset: (preset != BASE, preset))
    output.mkdir(parents=True, exist_ok=True)
    tables: list[Table] = []
    figures: list[Path] = []
    of_paper = [run for run in runs if is_of_paper(run)]
    own = list(runs)  # without a place in a table of the paper
    for preset in presets:
        if papers := paper_tables(of_paper, preset):
            own = [run for run in own if run.preset != preset or run not in of_paper]
            figures += _paper_figures(of_paper, preset, output)
        tables += papers + own_tables(own, preset) + sequential_tables(runs, preset)
    figures += draw_runs(own, output)
    tables += [table for table in (any_grid.presets_compared(runs), all_runs(runs)) if table is not None]
    for table in tables:
        table.write(output)
    for run in runs:
        _write_data(run, output / "data" / run.preset / f"{run.name}_seed_{run.seed}.json")
    clips = "".join(_film_best(runs, preset, output / "clips" / preset) for preset in presets) if with_clips else ""
    write_text(output / "report.html", _page(tables, figures, clips, others))
    return others


def paper_tables(runs: Sequence[Run], preset: str) -> list[Table]:
    """The paper's tables, of a preset that has runs for them.

    :param runs: such as belong to the paper, see ``is_of_paper``
    """
    names = {run.name for run in runs if run.preset == preset}
    tables = []
    if any(name.startswith("finetune_") for name in names):
        tables += [paper.table_1(runs, preset), paper.transfer_matrix(runs, preset)]
    if names & {"vanilla", "distillation"}:
        tables += [paper.table_2(runs, preset), comparisons.comparisons(runs, preset)]
        tables += [comparisons.students(runs, preset), reaching.frames_to_reach(runs, preset)]
    if _is_ablation(runs, preset):
        tables.append(comparisons.ablation(runs, preset, BASE))
    if _is_control(runs, preset):
        tables += [comparisons.control(runs, preset, BASE), comparisons.control_compared(runs, preset, BASE)]
    return tables


def own_tables(runs: Sequence[Run], preset: str) -> list[Table]:
    """The tables that a preset of any grid has runs for."""
    makers = (any_grid.gains, any_grid.taught, any_grid.carried_over)
    return [table for make in makers if (table := make(runs, preset)) is not None]


def _paper_figures(runs: Sequence[Run], preset: str, output: Path) -> list[Path]:
    figures = draw_paper_figures(runs, preset, output)
    if _is_ablation(runs, preset):
        figures += draw_changes(runs, preset, BASE, output)
    if _is_control(runs, preset):
        figures += draw_control(runs, preset, BASE, output)
    return figures


def _is_ablation(runs: Sequence[Run], preset: str) -> bool:
    names = {run.name for run in runs if run.preset == preset}
    return _has_base(runs) and "vanilla" not in names and any(name.startswith("vanilla_") for name in names)


def _is_control(runs: Sequence[Run], preset: str) -> bool:
    return _has_base(runs) and any(run.name.startswith("alone_") for run in runs if run.preset == preset)


def _has_base(runs: Sequence[Run]) -> bool:
    return any(run.preset == BASE for run in runs)


def all_runs(runs: Sequence[Run]) -> Table:
    """Every run's return at its end: each task, and their mean, median and worst."""
    rows = []
    for preset, name in dict.fromkeys((run.preset, run.name) for run in runs):
        seeds = select(runs, preset, name)
        tasks = seeds[0].config.task_names
        scores = returns(seeds, "after", tasks)
        per_task = "; ".join(f"{task} {np.mean(scores[:, i]):.0f}" for i, task in enumerate(tasks))
        rows.append(
            [
                f"{preset}/{name}",
                str(len(seeds)),
                str(statistics.mean(scores)),
                str(statistics.interquartile_mean(scores)),
                str(statistics.median_task(scores)),
                str(statistics.worst_task(scores)),
                per_task,
                _minutes(seeds),
                _revisions(seeds),
            ]
        )
    return Table(
        "runs",
        "All runs",
        "Deterministic returns at the end of training: mean over seeds and tasks, interquartile mean, median task and "
        "worst task, with 95% stratified bootstrap intervals; the mean over seeds of each task; the mean CPU time of a "
        f"seed, evaluations included; and the revisions of the code that ran. {statistics.WORST_TASK}",
        ["run", "seeds", "mean", "IQM", "median task", "worst task", "each task", "CPU minutes", "code"],
        rows,
    )


def _minutes(runs: Sequence[Run]) -> str:
    """Mean CPU time of the runs whose folders know it."""
    seconds = [run.status["cpu_seconds"] for run in runs if "cpu_seconds" in run.status]
    return f"{np.mean(seconds) / 60:.1f}" if seconds else "-"


def _revisions(runs: Sequence[Run]) -> str:
    """Short revisions of the code that the runs were made with, as far as it stood under version control."""
    found = dict.fromkeys(str(run.status["revision"]) for run in runs if run.status.get("revision"))
    return ", ".join(f"{text[:7]}{'+' if text.endswith('-dirty') else ''}" for text in found)


def _write_data(run: Run, path: Path) -> None:
    curves = run.curves().items()
    content = {
        "settings": run.config.model_dump(mode="json", exclude_unset=True),
        "ran_with": {name: run.status[name] for name in _PROVENANCE if name in run.status},
        "results": {m: {task: asdict(result) for task, result in tasks.items()} for m, tasks in run.results.items()},
        "curves": {task: {"steps": steps.tolist(), "returns": values.tolist()} for task, (steps, values) in curves},
    }
    write_text(path, json.dumps(content) + "\n")


def _film_best(runs: Sequence[Run], preset: str, folder: Path) -> str:
    """Clips of the preset's best agent on several tasks, as HTML; without any, a line that says why."""
    agents = [run for run in runs if run.preset == preset and len(run.config.task_names) > 1]
    if not agents:
        return ""
    best = max(agents, key=lambda run: np.mean([result.mean_reward for result in run.results["after"].values()]))
    try:
        clips = render_clips(RunFolder(best.path).agents / "final", best.config.resolved_tasks(), folder)
    except (RuntimeError, UnreadableFileError) as e:
        return f"<p>No clips of {preset}/{best.name}: {html.escape(str(e))}</p>"
    images = []
    for task, path in clips.items():
        data = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(task)
        caption = f"{name}: {best.results['after'][task].mean_reward:.0f}"
        image = f"<img alt='{name}' src='data:image/gif;base64,{data}'>"
        images.append(f"<figure class='clip'>{image}<figcaption>{caption}</figcaption></figure>")
    return f"<h2>{preset}/{best.name}, seed {best.seed}: three seconds, at half speed</h2><div>{''.join(images)}</div>"


def _page(tables: Sequence[Table], figures: Sequence[Path], clips: str, others: Sequence[str]) -> str:
    drawn = "".join(
        f"<figure id='{path.stem}'>{_inline_svg(path)}<figcaption>{path.stem.replace('_', ' ')}</figcaption></figure>"
        for path in figures
    )
    names = html.escape("; ".join(others))
    missing = (
        f"<details><summary>{len(others)} runs are not finished, and not in here.</summary>{names}</details>"
        if others
        else ""
    )
    entries = [(table.name, table.title) for table in tables] + ([("curves", "Learning curves")] if figures else [])
    contents = "".join(f"<a href='#{name}'>{html.escape(title)}</a>" for name, title in entries)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>sb3-multitask report</title>"
        f"<style>{_STYLE}</style></head><body><h1>Report</h1>{missing}"
        f"<nav>{contents}</nav>{''.join(table.html() for table in tables)}{clips}"
        f"<section id='curves'><h2>Learning curves</h2>{drawn}</section></body></html>\n"
    )


def _inline_svg(path: Path) -> str:
    """The drawing itself, ids made its own, so that drawings on one page do not share them."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    return (
        svg.replace('id="', f'id="{path.stem}-')
        .replace("url(#", f"url(#{path.stem}-")
        .replace('href="#', f'href="#{path.stem}-')
    )

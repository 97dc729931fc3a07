"""Write a report: tables, figures, and one page with all of them."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_multitask.experiments.report import any_grid
from sb3_multitask.experiments.report.clips import render_clips
from sb3_multitask.experiments.report.collect import Run, read_runs, write_data
from sb3_multitask.experiments.report.conflicts import conflict_tables
from sb3_multitask.experiments.report.figures import draw_runs
from sb3_multitask.experiments.report.tables import Table
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.many_tasks import shown_tasks
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.storage.files import write_text

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1300px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{border:1px solid #ccc;padding:.2rem .6rem;"
    "white-space:nowrap}.numbers{text-align:right}.words,.long{text-align:left}td.long{white-space:normal;min-width:16rem}"
    "section{overflow-x:auto}nav{columns:3;margin:1rem 0}nav a{display:block}figure{margin:1rem 0}"
    "svg{max-width:100%;height:auto}.clip{display:inline-block;margin:.3rem;text-align:center}"
    "figcaption{font-size:.9em;color:#555;text-align:center}"
)


def write_report(root: Path, output: Path, with_clips: bool = True) -> list[str]:
    """Turn the runs below ``root`` into tables (Markdown, CSV), figures (SVG, PNG) and ``report.html``.

    ``data/`` holds the sources of every run's numbers: settings, versions, all evaluations and their episodes.

    :param root: folder of a grid, or ``data/`` of a report
    :param output: folder of the files
    :param with_clips: film the best multi-task agent of each preset, if there is a renderer
    :return: the runs that are not finished, with their status
    :raises FileNotFoundError: if there is no run
    """
    runs, others = read_runs(root)
    presets = sorted({run.preset for run in runs})
    tables = [table for preset in presets for table in any_grid.tables_of_preset(runs, preset)]
    tables += conflict_tables(runs, output)
    tables += any_grid.tables_of_grid(runs)
    write_page(output, runs, tables, draw_runs(runs, output), others, presets if with_clips else ())
    return others


def write_page(
    output: Path,
    runs: Sequence[Run],
    tables: Sequence[Table],
    figures: Sequence[Path],
    others: Sequence[str] = (),
    filmed: Sequence[str] = (),
) -> None:
    """Write every table, ``data/`` of the runs, and ``report.html``, the page with tables, figures and clips.

    :param output: folder of the files
    :param figures: SVG files, as :func:`draw_runs`, :func:`draw_sides` and :func:`draw_panels` return them
    :param others: lines of the page about runs that are not finished
    :param filmed: presets whose best multi-task agent is filmed, if there is a renderer
    """
    for table in tables:
        table.write(output)
    for run in runs:
        write_data(run, output / "data")
    clips = "".join(_film_best(runs, preset, output / "clips" / preset) for preset in filmed)
    write_text(output / "report.html", _page(tables, figures, clips, others))


def _film_best(runs: Sequence[Run], preset: str, folder: Path) -> str:
    """Return clips of the preset's best agent on several tasks, as HTML, or a line with the reason for none.

    A report's data contain no agents, so their runs are not filmed.
    """
    of_preset = [run for run in runs if run.preset == preset and run.recorded is None]
    agents = [run for run in of_preset if len(run.config.task_names) > 1]
    if not agents:
        return ""
    best = max(agents, key=lambda run: np.mean([result.mean_reward for result in run.results["after"].values()]))
    tasks, after = best.config.resolved_tasks(), best.results["after"]
    shown = set(shown_tasks({task.name: after[task.name].mean_reward for task in tasks}))
    tasks = tuple(task for task in tasks if task.name in shown)
    try:
        clips = render_clips(RunFolder(best.path).agents / "final", tasks, folder)
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
        f"<nav>{contents}</nav>{''.join(table.html() + _pictures(table) for table in tables)}{clips}"
        f"<section id='curves'><h2>Learning curves</h2>{drawn}</section></body></html>\n"
    )


def _pictures(table: Table) -> str:
    """Return the pictures of a table, which its Markdown names, as HTML."""
    return "".join(
        f"<figure id='{path.stem}' role='img' aria-label='{html.escape(words)}'>{_inline_svg(path)}"
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
        for path, words in table.pictures.items()
    )


def _inline_svg(path: Path) -> str:
    """Return the SVG element with unique ids, so that drawings on one page do not share them."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    return (
        svg.replace('id="', f'id="{path.stem}-')
        .replace("url(#", f"url(#{path.stem}-")
        .replace('href="#', f'href="#{path.stem}-')
    )

"""The paper's tables, figures and page, from the runs of ``zoo_configs/paper_grid.yml``:

    python -m results.paper.report runs/paper --output results/paper
    python -m results.paper.report results/paper/data --output DIR    # again, from what is committed

Runs are recognised by the names that the grid gives them. ``sb3-multitask report`` has the tables of any grid.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from results.paper.report import comparisons, figures, reaching, tables
from results.paper.report.methods import is_of_paper
from sb3_multitask.experiments.report import Run, Table, read_runs, tables_of_grid, write_page

BASE = "tuned"
"""The preset that the ablation and the control stand beside."""


def write_paper_report(root: Path, output: Path, with_clips: bool = True) -> list[str]:
    """Write the paper's tables (Markdown, CSV), its figures (SVG, PNG) and ``report.html``.

    Runs that are not of the paper, by name or by tasks, are in the table of all runs only.

    :param root: folder of the grid's runs, or ``data/`` of a report on them
    :param output: where the files go
    :param with_clips: film the best multi-task agent of each preset, where a renderer is at hand
    :return: what is missing: runs that are not finished, with their status
    :raises FileNotFoundError: if there is no run
    :raises ValueError: if no run is of the paper
    """
    runs, others = read_runs(root)
    of_paper = [run for run in runs if is_of_paper(run)]
    if runs and not of_paper:
        raise ValueError(f"{root} holds no runs of the paper's grid; `sb3-multitask report {root}` reports any grid")
    presets = sorted({run.preset for run in runs}, key=lambda preset: (preset != BASE, preset))
    found = [table for preset in presets for table in paper_tables(of_paper, preset)]
    drawn = [path for preset in presets for path in paper_figures(of_paper, preset, output)]
    write_page(output, runs, [*found, *tables_of_grid(runs)], drawn, others, presets if with_clips else ())
    return others


def paper_tables(runs: Sequence[Run], preset: str) -> list[Table]:
    """The paper's tables that a preset has runs for.

    :param runs: such as belong to the paper, see ``is_of_paper``
    """
    names = {run.name for run in runs if run.preset == preset}
    found = []
    if any(name.startswith("finetune_") for name in names):
        found += [tables.table_1(runs, preset), tables.transfer_matrix(runs, preset)]
    if names & {"vanilla", "distillation"} and not _is_ablation(runs, preset):
        found += [tables.table_2(runs, preset), comparisons.comparisons(runs, preset)]
        found += [comparisons.students(runs, preset), reaching.frames_to_reach(runs, preset)]
    if _is_ablation(runs, preset):
        found.append(comparisons.ablation(runs, preset, BASE))
    if _is_control(runs, preset):
        found += [comparisons.control(runs, preset, BASE), comparisons.control_compared(runs, preset, BASE)]
    return found


def paper_figures(runs: Sequence[Run], preset: str, output: Path) -> list[Path]:
    """The SVG files of the figures that a preset has runs for, each with a PNG beside it."""
    if _is_ablation(runs, preset):
        drawn = figures.draw_changes(runs, preset, BASE, output)
    else:
        drawn = figures.draw_paper_figures(runs, preset, output)
    if _is_control(runs, preset):
        drawn += figures.draw_control(runs, preset, BASE, output)
    return drawn


def _is_ablation(runs: Sequence[Run], preset: str) -> bool:
    names = {run.name for run in runs if run.preset == preset}
    return _has_base(runs) and "vanilla" not in names and any(name.startswith("vanilla_") for name in names)


def _is_control(runs: Sequence[Run], preset: str) -> bool:
    return _has_base(runs) and any(run.name.startswith("alone_") for run in runs if run.preset == preset)


def _has_base(runs: Sequence[Run]) -> bool:
    return any(run.preset == BASE for run in runs)


def main() -> None:
    """Read the command line and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the grid's runs, or data/ of a report on them")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="default: %(default)s")
    parser.add_argument("--no-clips", action="store_true", help="do not film the best agent of each preset")
    args = parser.parse_args()
    missing = write_paper_report(args.runs, args.output, not args.no_clips)
    if missing:
        print(f"{len(missing)} runs are not finished, and not in the report (such as {missing[0]})")
    print(f"Report: {args.output / 'report.html'}")


if __name__ == "__main__":
    main()

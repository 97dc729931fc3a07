"""Make tables, curves and a page from run folders; the parts are also for custom reports."""

from sb3_multitask.experiments.curves import Curve
from sb3_multitask.experiments.report import continual, statistics
from sb3_multitask.experiments.report.any_grid import tables_of_grid, tables_of_preset
from sb3_multitask.experiments.report.collect import Run, of_same_seeds, presets_of_runs, read_runs, returns, select
from sb3_multitask.experiments.report.conflicts import conflict_tables
from sb3_multitask.experiments.report.figures import Panel, Sides, draw_panels, draw_runs, draw_sides
from sb3_multitask.experiments.report.tables import Table
from sb3_multitask.experiments.report.write import write_page, write_report

__all__ = [
    "Curve",
    "Panel",
    "Run",
    "Sides",
    "Table",
    "conflict_tables",
    "continual",
    "draw_panels",
    "draw_runs",
    "draw_sides",
    "of_same_seeds",
    "presets_of_runs",
    "read_runs",
    "returns",
    "select",
    "statistics",
    "tables_of_grid",
    "tables_of_preset",
    "write_page",
    "write_report",
]

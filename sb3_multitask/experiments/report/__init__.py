"""From run folders alone to tables, curves and a page."""

from sb3_multitask.experiments.report.write import write_report

__all__ = ["write_report"]

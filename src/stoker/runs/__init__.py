"""What was run: a folder a training with its record, metrics and report."""

from stoker.runs.run import Run, all_runs

__all__ = ["Run", "all_runs"]

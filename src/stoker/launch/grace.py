"""How long a stop may take: time for a training to write its checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

SERVICE_S = 10
"""Of a notebook or an SSH box: JupyterLab saves as one works, sshd has nothing to save."""
_TRAINING_S = 60
_TIMES = 10
"""A checkpoint waits for its step, and a disk that others write to is slow."""
_BYTES_PER_S = 200e6
"""Of a network disk at 2 Gbit/s; a local one takes a tenth of that."""
_MOST_RUNS = 50


def training_grace_s(project: Path) -> int:
    """Return the seconds between SIGTERM and SIGKILL: ten times what the project's largest checkpoint takes to write, a minute at least."""
    largest = max(_checkpoint_bytes(project / "runs"), default=0)
    return max(_TRAINING_S, round(_TIMES * largest / _BYTES_PER_S))


def _checkpoint_bytes(runs: Path) -> Iterator[int]:
    """Yield the sizes of the checkpoints of the newest runs, whose names begin with their date."""
    with contextlib.suppress(OSError):
        for run in sorted(runs.iterdir(), reverse=True)[:_MOST_RUNS]:
            with contextlib.suppress(OSError):
                yield from (file.stat().st_size for file in (run / "checkpoints").iterdir() if file.is_file())

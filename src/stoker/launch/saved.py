"""What a training saved when it was stopped: the checkpoints in the project's runs that were written after the stop began."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What Stoker, PyTorch Lightning, Hugging Face and plain scripts call them.
_ENDINGS = (".pt", ".pth", ".ckpt", ".safetensors")
_FOLDERS = 4
"""How deep a checkpoint lies in a folder of runs: runs/ID/checkpoints/step-1.pt, lightning_logs/version_0/checkpoints/x.ckpt."""
_MOST_FILES = 50_000
# Looked into first: there may be more pictures in a project than files are looked at.
_LIKELY = {"runs", "checkpoints", "lightning_logs", "logs", "output", "outputs", "models", "weights"}
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "data", "datasets"}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that was written."""

    path: Path
    size_bytes: int
    written: float
    """Seconds since 1970."""


def saved_since(project: Path, moment: float) -> tuple[Saved, ...]:
    """Return the newest checkpoint of each folder in a project that was written whole after `moment` (seconds since 1970), the newest first.

    Looks a few folders deep, and no further than some ten thousand files. Raises nothing.
    """
    newest: dict[Path, Saved] = {}
    for found in _checkpoints(project):
        # The clock of files ticks a few milliseconds behind that of the system.
        if found.written >= moment - 0.05:
            before = newest.get(found.path.parent)
            newest[found.path.parent] = found if before is None or found.written > before.written else before
    return tuple(sorted(newest.values(), key=lambda found: found.written, reverse=True))


def _checkpoints(project: Path) -> Iterator[Saved]:
    seen = 0
    top = len(project.parts)
    for folder, folders, names in os.walk(project):
        deep = len(Path(folder).parts) - top >= _FOLDERS
        kept = [] if deep else [name for name in folders if not name.startswith(".") and name not in _SKIPPED]
        folders[:] = sorted(kept, key=lambda name: name not in _LIKELY)
        seen += len(names) + 1
        for name in names:
            # Hidden: one that is being written, and has not got its name yet.
            if name.endswith(_ENDINGS) and not name.startswith("."):
                with contextlib.suppress(OSError):
                    status = os.stat(os.path.join(folder, name))
                    yield Saved(path=Path(folder, name), size_bytes=status.st_size, written=status.st_mtime)
        if seen > _MOST_FILES:
            return

"""Where the machine's own files are read from: `/`, or a written-down machine in tests."""

from __future__ import annotations

import os
from pathlib import Path


def filesystem_root() -> Path:
    """Return the folder that stands for `/`: the environment variable STOKER_HOST_ROOT, else `/`."""
    return Path(os.environ.get("STOKER_HOST_ROOT") or "/")


def read(path: Path) -> str | None:
    """Return the stripped text of a small system file, or None when it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return None

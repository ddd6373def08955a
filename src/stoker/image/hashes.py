"""The hash of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

_STEP_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content as hex digits, reading it piece by piece. Raises OSError."""
    told = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_STEP_BYTES):
            told.update(piece)
    return told.hexdigest()

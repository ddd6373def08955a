"""Notes of who stopped what, so that its log can say so: engines do not remember it. A note that is lost costs a name, nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from stoker import settings

_KEPT_S = 30 * 86400.0


def note_stop(container_id: str) -> None:
    """Note that this person stops a container by `stoker stop`. Raises nothing."""
    with contextlib.suppress(OSError):
        path = _path(container_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget_old(path.parent)
        path.write_text(f"`stoker stop` ({_who()}, {time.strftime('%Y-%m-%d %H:%M:%S')})")


def stopped_by(container_id: str, since: float | None) -> str | None:
    """Return who stopped a container after `since` (its start, in seconds since 1970), or None where nothing is noted."""
    with contextlib.suppress(OSError, ValueError):
        path = _path(container_id)
        if path.stat().st_mtime >= (since or 0.0):
            return path.read_text(encoding="utf-8")[:200]
    return None


def forget_stop(container_id: str) -> None:
    """Remove the note, with its container. Raises nothing."""
    with contextlib.suppress(OSError):
        _path(container_id).unlink()


def _who() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"


def _path(container_id: str) -> Path:
    return settings.cache_folder() / "launch" / f"stopped-{re.sub(r'[^A-Za-z0-9]', '-', container_id)[:80]}"


def _forget_old(folder: Path) -> None:
    for path in folder.glob("stopped-*"):
        if path.stat().st_mtime < time.time() - _KEPT_S:
            path.unlink()

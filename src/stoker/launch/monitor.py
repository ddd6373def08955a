"""The folder in which podman is called to start a container.

Podman's monitor (conmon) leaves an empty file `oom` in the folder in which podman was called, when the kernel kills in the container for want of
memory. In a folder of the container's own it is no litter in a project, but the kernel's word, which podman 4 does not hand on (`OOMKilled` is false)
and which few users may read in the kernel's log.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from stoker import settings

_MARK = "oom"
_KEPT_S = 30 * 86400.0
# Of a file system that counts whole seconds.
_CLOCK_S = 1.0


def calling_folder(container: str) -> Path | None:
    """Make and return an empty folder to call podman in, by its name for the container; None where that cannot be done. Raises nothing."""
    folder = _folder(container)
    with contextlib.suppress(OSError):
        _forget_old(folder.parent)
        forget_folder(container)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return None


def has_folder(container: str) -> bool:
    """Whether this person may have a container of this name: its folder is made before it, and removed after it. Raises nothing."""
    return os.path.exists(_folder(container))


def killed_for_memory(container: str, since: float | None) -> bool:
    """Whether the kernel killed in a container after `since` (its start, in seconds since 1970), as its monitor says. Raises nothing."""
    try:
        return (_folder(container) / _MARK).stat().st_mtime >= (since or 0.0) - _CLOCK_S
    except OSError:
        return False


def forget_folder(container: str) -> None:
    """Remove the folder, with its container. Raises nothing."""
    _remove(_folder(container))


def _folder(container: str) -> Path:
    return settings.cache_folder() / "launch" / f"of-{container}"


def _forget_old(folders: Path) -> None:
    """Remove those in which nothing was changed for a month: of containers that somebody else removed."""
    for folder in folders.glob("of-*"):
        if folder.stat().st_mtime < time.time() - _KEPT_S:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder in which there are only files."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

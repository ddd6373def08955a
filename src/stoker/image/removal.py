"""Folders removed with whatever a build left in them: read-only ones, and files of mapped users."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from stoker import shell


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that can be done; one that is not there is fine."""
    if not path.is_dir() or path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        _open_up(path)
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # Of a build by an ordinary user: only inside a user namespace does it own these files.
        shell.run(["mmdebstrap", "--unshare-helper", "rm", "-rf", "--", str(path)], timeout_s=600)
        shutil.rmtree(path, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """Make every folder writable that is ours."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    for place, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(place, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)

"""Which Python is meant: the one that was asked for, the active environment's, or the one that runs Stoker."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from stoker import shell

_NEUTRAL = Path("/")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A Python to examine."""

    executable: str
    asked: str | None = None
    chosen: str
    """Why this one."""
    active: bool = False
    """Whether it is an environment that somebody activated."""
    error: str | None = None
    """Why there is no such Python."""


def choose(asked: str | None) -> Choice:
    """Return the Python that was asked for, else the active environment's, else the first on PATH that has torch, else the one that runs Stoker."""
    if asked is not None:
        return _asked_for(asked)
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable)
        # conda's base environment is always active and seldom meant.
        if folder and not (variable == "CONDA_PREFIX" and os.environ.get("CONDA_DEFAULT_ENV") == "base") and (found := _program(Path(folder), None)):
            return Choice(executable=found, chosen=f"it is the active environment ({variable})", active=True)
    first = shutil.which("python") or shutil.which("python3")
    if first and first != sys.executable and _has_torch(first):
        return Choice(executable=first, chosen="it is the first Python on PATH, and has torch")
    # ./stoker looks at a machine out of .venv.look while .venv is not there or does not fit the machine: .venv is meant then.
    meant = Path(sys.prefix).with_name(".venv")
    if Path(sys.prefix).name == ".venv.look" and (found := _program(meant, None)):
        return Choice(executable=found, chosen="it is the environment of this source tree")
    return Choice(executable=sys.executable, chosen="it is the Python that runs Stoker")


def _asked_for(asked: str) -> Choice:
    try:
        path = Path(asked).expanduser()
        executable = _program(path, asked) if asked else None
        error = None if executable else _why_not(path, asked)
    except (OSError, ValueError, RuntimeError) as refused:  # a name that is too long, a zero byte, a home that nobody has
        executable, error = None, str(refused)[:300]
    return Choice(executable=executable or asked, asked=asked, chosen="it was asked for", error=error)


def _program(path: Path, name: str | None) -> str | None:
    """Return the interpreter that a folder, a file or a name on PATH stands for; None when there is none that can be executed."""
    if path.is_dir():
        inside = [path / "bin" / "python", path / "bin" / "python3", path / "python", path / "Scripts" / "python.exe"]
        return next((str(one) for one in inside if one.is_file() and os.access(one, os.X_OK)), None)
    if path.is_file():
        return str(path.absolute()) if os.access(path, os.X_OK) else None
    return shutil.which(name) if name and os.sep not in name else None


def _why_not(path: Path, asked: str) -> str:
    if not asked:
        return "an empty name"
    if path.is_dir():
        return "a folder without bin/python"
    if path.is_file():
        return "not executable"
    if path.is_symlink():
        return f"a link to {os.readlink(path)}, which is not there"
    if path.exists():
        return "no file that can be run"
    return "not there" if os.sep in asked else "no such program on PATH, and no such folder"


def _has_torch(executable: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return shell.run([executable, "-c", code], timeout_s=3, folder=_NEUTRAL).ok

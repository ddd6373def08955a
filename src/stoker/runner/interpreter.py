"""Which Python a program runs on, and whether boost can get in there: asked before the program is started, never in its way."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker import __version__, shell

_ASK = """
import importlib.metadata as metadata
print(any(entry.name == "stoker" for entry in metadata.entry_points(group="torch.backends")))
"""
_ASK_S = 10.0
_SHEBANG_BYTES = 512


def find_python(program: str, path: str | None = None) -> Path | None:
    """Return the Python that `program` (a name or a path) runs on: itself, or the one of its first line; None when it is no Python program.

    Links are not followed: the Python of an environment is a link to the one that it was made from.
    """
    found = shutil.which(program, path=path)
    if found is None:
        return None
    file = Path(found).absolute()
    if _is_python(file):
        return file
    words = _shebang(file)
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        words[:1] = [shutil.which(words[0], path=path) or ""] if words else []
    if words and _is_python(Path(words[0])):
        return Path(words[0])
    # pip writes a long path to Python, and uv one beside the script, as `#!/bin/sh` and an exec of it in the second line.
    return _second_line(file) if words and Path(words[0]).name == "sh" else None


def warnings(program: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return what keeps boost out of a program as far as that can be seen from outside, with what to do about it. Starts a Python at most once."""
    said = []
    if environment.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        said.append("TORCH_DEVICE_BACKEND_AUTOLOAD=0 tells PyTorch not to let anybody in: unset it, or boost stays out")
    python = find_python(program[0], environment.get("PATH"))
    if python is None:
        return said
    if same_environment(python) or has_door(python):
        return said
    return [*said, f"{python} has no Stoker, so boost stays out of it: {installing(shlex.quote(str(python)))}, or run {sys.executable}, which has it"]


def installing(python: str) -> str:
    """Return what installs this very Stoker for a Python. Never by name alone: a registry may have something else under it."""
    root = Path(__file__).resolve().parents[3]
    return f"{python} -m pip install {shlex.quote(str(root))}" if (root / "pyproject.toml").exists() else f"install Stoker {__version__} for it"


def same_environment(python: Path) -> bool:
    """Whether a Python is of the environment that this one runs in."""
    return os.path.realpath(python.parent) == os.path.realpath(Path(sys.executable).parent)


def has_door(python: Path) -> bool:
    """Ask a Python whether the entry point through which PyTorch lets Stoker in is installed there. One that does not answer may have it."""
    answer = shell.run([str(python), "-c", _ASK], timeout_s=_ASK_S)
    return not answer.ok or answer.out.split()[-1:] == ["True"]


def _is_python(file: Path) -> bool:
    # By its name: the python of pyenv is a script that becomes a Python.
    return re.fullmatch(r"(python|pypy)[0-9.]*t?", file.name) is not None


def _shebang(file: Path) -> list[str]:
    """Return the words of a script's first line; none when it is not a script."""
    try:
        with open(file, "rb") as opened:
            first = opened.read(_SHEBANG_BYTES).split(b"\n", 1)[0]
    except OSError:
        return []
    return first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []


def _second_line(file: Path) -> Path | None:
    try:
        with open(file, "rb") as opened:
            lines = opened.read(2 * _SHEBANG_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    found = re.fullmatch(r"""\'\'\'exec\' ("\$\(dirname .*\)"/)?["\']?([^"\']+)["\']? "\$0" "\$@".*""", lines[1] if len(lines) > 1 else "")
    if found is None:
        return None
    python = file.resolve().parent / found[2] if found[1] else Path(found[2])
    return python if _is_python(python) else None

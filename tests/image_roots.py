"""A tiny root made of this machine's own shell, and somebody who is not root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("sh", "cat", "id", "ls", "sleep", "head")
SOURCE = Path(__file__).resolve().parents[1] / "src"
# The interpreter of the tests may lie in root's home, where nobody else may go.
PYTHON = "/usr/bin/python3"
ORDINARY = 4242
"""A user id without an account, unless `ordinary(..., account=True)`."""


def tiny_root(folder: Path) -> Path:
    """Fill a folder with PROGRAMS and the libraries that they need, and return it."""
    for name in ("tmp", "mnt", "dev", "proc", "etc", "usr/bin"):
        (folder / name).mkdir(parents=True)
    (folder / "bin").symlink_to("usr/bin")
    for name in PROGRAMS:
        program = Path(shutil.which(name) or name).resolve()
        shutil.copy(program, folder / "usr/bin" / name)
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+)", libraries):
            target = folder / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), target)
    return folder


def ordinary(code: str, *arguments: str, environment: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python code that imports stoker as somebody who is not root; `before` are commands in front of it."""
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        **(environment or {}),
    }
    user = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"] if os.geteuid() == 0 else []
    python = PYTHON if os.geteuid() == 0 else sys.executable
    return subprocess.run([*before, *user, python, "-c", code, *arguments], env=variables, capture_output=True, text=True)


def may_be_ordinary() -> bool:
    """Whether somebody who is not root can run this source and make user namespaces."""
    done = ordinary("import sys; assert sys.version_info >= (3, 10); from stoker.image.root import namespace_refusal as n; sys.exit(n() is not None)")
    return done.returncode == 0

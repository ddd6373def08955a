"""The C kernels of this checkout, compiled for a test in place of the installed ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY, need

_WARNINGS = ("-Wall", "-Wextra", "-Werror")


def compiled(source: str, folder: Path, *flags: str) -> Path:
    """Return `native/SOURCE` as a library in `folder`. Skips the test where there is no compiler (in CI it fails)."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    need(compiler is not None, "a C compiler")
    path = folder / f"{Path(source).stem}.so"
    command = [str(compiler), "-O2", "-fno-math-errno", "-shared", "-fPIC", *_WARNINGS, *flags, "-o", str(path), str(REPOSITORY / "native" / source)]
    subprocess.run(command, check=True)
    return path

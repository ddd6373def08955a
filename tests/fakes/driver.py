"""The fake driver library for the start of a container, compiled: its folder goes into LD_LIBRARY_PATH before a process starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("driver.c")


def build(folder: Path) -> Path | None:
    """Compile libnvidia-ml.so.1 into `folder`. Returns None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *options, "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)], check=True, capture_output=True, text=True)
    return folder

"""The fake NVML library, compiled, beside an empty libcuda: put the folder that `build` returns into LD_LIBRARY_PATH before a process starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")


def build(folder: Path) -> Path | None:
    """Compile libnvidia-ml.so.1 and a libcuda.so.1 without a function into `folder`. Returns None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("libnvidia-ml.so.1", str(SOURCE)), ("libcuda.so.1", "/dev/null")):
        options = ["-shared", "-fPIC", "-O1", "-Wall", f"-Wl,-soname,{name}", "-x", "c"]
        subprocess.run([compiler, *options, "-o", str(folder / name), source], check=True, capture_output=True, text=True)
    return folder

"""Python environments to break: made by uv from its cache, so that making one takes seconds, and thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from broken.debian import NotMade
from stoker.shell import run

TORCH, TORCHVISION = "2.13.0", "0.28.0"
"""What is installed where nothing else is said; the pair of the lock."""


def install(environment: Path, *packages: str) -> None:
    """Make a virtual environment with these packages, accelerate and pip. Raises NotMade."""
    _uv("venv", "--quiet", "--relocatable", "--python", os.path.realpath(sys.executable), str(environment))
    add(environment, *packages, "numpy", "accelerate", "pip")


def install_cpu_torch(environment: Path) -> None:
    """Make a virtual environment with the PyTorch of PyTorch's index for CPUs, or of the folder in PIP_FIND_LINKS. Raises NotMade."""
    folder = os.environ.get("PIP_FIND_LINKS")
    source = ["--find-links", folder] if folder else ["--torch-backend", "cpu"]
    install(environment, *source, f"torch=={TORCH}+cpu")


def add(environment: Path, *packages: str) -> None:
    """Install more, without asking whether it fits (--no-deps among the packages). Raises NotMade."""
    _uv("pip", "install", "--quiet", "--python", str(environment / "bin/python"), *packages)


def site_packages(environment: Path) -> Path:
    """Return its folder of packages."""
    return next(environment.glob("lib/python3.*/site-packages"))


def delete_half(environment: Path, package: str) -> int:
    """Delete the second half of a package's files, in the order of its RECORD, as an uninstall that was interrupted. Returns how many."""
    packages = site_packages(environment)
    record = next(packages.glob(f"{package}-*.dist-info")) / "RECORD"
    files = [packages / line.split(",")[0] for line in record.read_text().splitlines() if line.startswith(f"{package}/")]
    gone = files[len(files) // 2 :]
    for file in gone:
        file.unlink(missing_ok=True)  # only this name: uv's cache keeps the file
    return len(gone)


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv")
    if uv is None:
        raise NotMade("uv is needed to make environments quickly")
    done = run([uv, *arguments], timeout_s=600)
    if not done.ok:
        raise NotMade(f"{done.command}: {done.err.strip()[-400:]}")

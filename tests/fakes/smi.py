"""Fake programs nvidia-smi, nvidia-ctk, docker, podman: small scripts that say what the real ones say."""

from __future__ import annotations

import shlex
from pathlib import Path

# The words of the real program (driver 580), and its exit statuses.
HEALTHY = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
|   0  NVIDIA H200                    On  |   00000000:18:00.0 Off |                    0 |
+-----------------------------------------------------------------------------------------+"""
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running."
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95"
UNKNOWN = "Failed to initialize NVML: Unknown Error"
NO_DEVICES = "No devices were found"


def program(folder: Path, name: str, out: str = "", *, code: int = 0, err: str = "", hangs: bool = False) -> Path:
    """Write a program that prints `out` and `err` and ends with `code`, or hangs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lines = ["#!/bin/sh", f"printf '%s\\n' {shlex.quote(out)}"] if out else ["#!/bin/sh"]
    lines += [f"printf '%s\\n' {shlex.quote(err)} >&2"] if err else []
    lines += [f"touch {shlex.quote(str(path))}.begun", "exec sleep 60"] if hangs else [f"exit {code}"]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path

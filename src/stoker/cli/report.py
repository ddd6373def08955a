"""The report of a bug: versions, command and traceback in a text file that is ready to paste."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

from stoker import __version__
from stoker.environment.venv import lock_digest

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "timm", "scikit-learn", "onnx", "onnxruntime", "click", "rich", "psutil", "nvidia-ml-py")


def write_report(traceback: str, command: list[str]) -> Path | None:
    """Write the report into the working directory, else into the temporary one; None when neither can be written."""
    name = f"stoker-bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = _text(traceback, command)
    for folder in (_working_directory(), Path(tempfile.gettempdir())):
        try:
            path = folder / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
        except OSError:
            continue
    return None


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:
        return Path(tempfile.gettempdir())


def _text(traceback: str, command: list[str]) -> str:
    versions = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    lines = [
        f"stoker {__version__}",
        f"time {time.strftime('%Y-%m-%dT%H:%M:%S%z')}",
        f"command {shlex.join(['stoker', *command[1:]])}",
        f"python {platform.python_version()} ({sys.executable})",
        f"system {platform.platform()}",
        f"lock {lock_digest() or 'none'}",
        *versions,
        "",
        traceback,
    ]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except Exception:
        return None

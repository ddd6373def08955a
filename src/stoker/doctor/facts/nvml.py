"""NVML asked in a child process with a time limit: a library that hangs, dies or answers garbage is an answer too."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker import shell

_CHILD = Path(__file__).with_name("nvml_child.py")
# The child gives up after 3.5 s and names the call that hangs; this is for a child that cannot even do that.
_LIMIT_S = 4.5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What NVML said."""

    start: dict[str, Any] = field(default_factory=dict)
    """`code` of its start, `driver_version`, `cuda` (13000), `count`; empty: it did not come so far."""
    gpus: tuple[dict[str, Any], ...] = ()
    loaded: dict[str, Any] = field(default_factory=dict)
    """Of a brief answer: `paths` of libcuda and libnvidia-ml as the loader took them, `libcuda_error`."""
    error: str | None = None
    """What went wrong, in words; None: nothing."""
    binding: bool = True
    """Whether NVML's Python binding is installed."""


def read_nvml(*, brief: bool = False) -> Answer:
    """Ask NVML in a child process; `brief` leaves the GPUs out. Raises nothing. 0.1 s where all is well, at most 4.5 s."""
    done = shell.run([sys.executable, str(_CHILD), *(["--brief"] if brief else [])], timeout_s=_LIMIT_S)
    start: dict[str, Any] = {}
    loaded: dict[str, Any] = {}
    gpus: list[dict[str, Any]] = []
    error, ended = None, False
    for line in done.out.splitlines():
        said = _object(line)
        start = _dictionary(said.get("start")) or start
        loaded = _dictionary(said.get("loaded")) or loaded
        if _dictionary(said.get("gpu")):
            gpus.append(said["gpu"])
        ended = ended or said.get("end") is True
        if "hung" in said:
            error = f"NVML gave no answer within 3.5 s (at {said['hung']})"
    if not ended and error is None and start.get("binding") is not False:
        error = _ending(done)
    if error is None and start.get("code") != 0:
        error = str(start.get("error") or "NVML did not start")
    return Answer(start=start, gpus=tuple(gpus), loaded=loaded, error=error, binding=start.get("binding") is not False)


def _ending(done: shell.Outcome) -> str:
    """Say how a child that did not come to its end ended."""
    if done.code is None:
        return f"NVML gave no answer: {done.err}"
    if done.code < 0:
        try:
            name = signal.Signals(-done.code).name
        except ValueError:
            name = "?"
        return f"NVML died with signal {-done.code} ({name})"
    return f"asking NVML failed with exit status {done.code}: {done.err.strip()[-300:]}"


def _object(line: str) -> dict[str, Any]:
    try:
        return _dictionary(json.loads(line))
    except ValueError:
        return {}


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

"""Several services in one container: when one ends, the others are ended, and the container with them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from stoker import console

_PATIENCE_S = 8.0
"""Less than the 10 s after which docker and podman kill a container that they stop."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program that runs until it is told to end."""

    command: Sequence[str]
    environment: Mapping[str, str]


def run_together(services: Sequence[Service]) -> int:
    """Run services until one of them ends or this process is told to; return the exit status of the first that ended (128 + signal)."""
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    running = [subprocess.Popen(list(service.command), env=dict(service.environment)) for service in services]
    while not told and all(process.poll() is None for process in running):
        # A signal does not cut the wait short (PEP 475): look often enough that nobody waits.
        time.sleep(0.1)
    ended = [(service, process.returncode) for service, process in zip(services, running, strict=True) if process.returncode is not None]
    for service, status in ended:
        console.say(f"{service.command[0]} ended with {status}: the container ends")
    _end(running)
    codes = [status for _, status in ended]
    code = codes[0] if codes else -told[0]
    return code if code >= 0 else 128 - code


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _PATIENCE_S
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def replace(service: Service) -> None:
    """Become a service: it gets the signals and its exit status is the container's. Raises OSError where it cannot be executed."""
    os.execvpe(service.command[0], list(service.command), dict(service.environment))

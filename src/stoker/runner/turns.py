"""One run of somebody's program for a comparison: its output kept out of sight, stopped when enough was seen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from stoker.errors import ProgramMissing
from stoker.runner.records import Record

_GLANCE_S = 0.05
_STOP_S = 15.0
_TAIL_BYTES = 4000


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A run that is over."""

    variant: str
    """`plain`, or the tier."""
    records: tuple[Record, ...]
    status: int
    """Exit status as a shell gives it; of a run that was stopped, 0."""
    stopped: bool
    """Whether it was ended since enough was seen."""
    wall_s: float
    """From the start of the program to its end."""
    output: str
    """The end of what it printed."""

    @property
    def failed(self) -> bool:
        """Whether the program ended by itself and badly."""
        return self.status != 0 and not self.stopped


def run(
    program: Sequence[str], *, variant: str, changes: Mapping[str, str], enough: Callable[[], bool], read: Callable[[], tuple[Record, ...]]
) -> Turn:
    """Run `program` with `changes` to the environment until it ends or `enough()`; then `read()` what it recorded.

    Its standard input is empty and its output goes to a file. It has a process group of its own, of which nothing is left behind, also when we
    are interrupted. Raises ProgramMissing.
    """
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("STOKER_BOOST")}, **changes}
    with tempfile.TemporaryFile() as output, _interruptible():
        begin_s = time.monotonic()
        child = _start(program, environment, output.fileno())
        try:
            stopped = False
            while child.poll() is None:
                if enough():
                    stopped = True
                    _stop(child)
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_GLANCE_S)
        finally:
            _sweep(child)
        wall_s = time.monotonic() - begin_s
        status = child.returncode if child.returncode >= 0 else 128 - child.returncode
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = output.read().decode(errors="replace")
    return Turn(variant=variant, records=read(), status=0 if stopped else status, stopped=stopped, wall_s=wall_s, output=text)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for one run's records."""
    return tempfile.TemporaryDirectory(prefix="stoker-boost-", ignore_cleanup_errors=True)


def _start(program: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            program, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, close_fds=False, start_new_session=True
        )
    except OSError as error:
        raise ProgramMissing(
            f"{program[0]} cannot be run: {error.strerror}",
            hint="give the program as you would type it, after two dashes: stoker boost --measure -- python train.py",
        ) from error


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the program as a scheduler would: its first process alone is asked, which ends the others in order."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_S)


def _sweep(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the program's processes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that the program does not outlive us."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, leave) for number in numbers}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Runs somebody's program with the observer in it: same terminal, folder, arguments, signals and exit status."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from stoker.diagnosis.gpus import GpuWatch
from stoker.diagnosis.observation import Observation
from stoker.diagnosis.processes import Watch
from stoker.diagnosis.recording import Recording, progress, read_recordings
from stoker.diagnosis.split import split_of
from stoker.errors import ProgramMissing
from stoker.host import find_limits

_INJECTED = Path(__file__).with_name("injected")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE_S = 60.0
"""So much longer than the window may a rank that has begun to train be silent before the verdict is given without it."""
_STOP_S = 30.0
# PyTorch can take seconds to leave a busy machine.
_LEAVING_S = 20.0


@dataclass(kw_only=True)
class Program:
    """A program that is observed."""

    arguments: Sequence[str]
    seconds: float
    """Length of the window."""
    skip: int
    """Steps of warm-up before it."""
    folder: Path
    """Where its processes write; it exists and is empty."""
    boost: bool
    out: int | None = None
    """A descriptor for its standard output; None: ours."""
    _child: subprocess.Popen[bytes] | None = None
    _gpus: GpuWatch = field(default_factory=GpuWatch)

    def run(self, verdict: Callable[[Observation], None], *, then_stop: bool) -> int:
        """Run the program; call `verdict` when the window is over, or at the program's end; return its exit status as a shell gives it.

        Raises ProgramMissing. What `verdict` raises ends the observation, not the program.
        """
        with self._signals():
            self._child = child = self._start()
            self._gpus.open()
            processes = Watch(pid=child.pid)
            try:
                self._watch(child, processes)
                verdict(self._observation(child, processes))
                if then_stop and child.poll() is None:
                    return self._stopped(child)
            finally:
                self._gpus.close()
                status = child.wait()
        return status if status >= 0 else 128 - status

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            # Descriptors that we were given are the program's, as they would be without us.
            return subprocess.Popen(
                self.arguments, env=environment(os.environ, self.folder, self.seconds, self.skip), stdout=self.out, close_fds=False
            )
        except OSError as error:
            raise ProgramMissing(
                f"{self.arguments[0]} cannot be run: {error.strerror}",
                hint="give the program as you would type it, after two dashes: stoker diagnose -- python train.py",
            ) from error

    def _watch(self, child: subprocess.Popen[bytes], processes: Watch) -> None:
        """Sample until the window of every rank is over, or the program."""
        tick_s = 0.05 if self._gpus.there else 0.25
        trains_s: float | None = None
        last_s = 0.0
        while child.poll() is None:
            self._gpus.look()
            now = time.monotonic()
            if now - last_s >= 0.5:
                last_s = now
                processes.look()
                training, ended = progress(self.folder)
                trains_s = trains_s if trains_s is not None or not training else now
                over = trains_s is not None and now - trains_s > 2 * self.seconds + _PATIENCE_S
                if over or (0 < training <= ended and ended >= self._ranks()):
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(tick_s)

    def _ranks(self) -> int:
        """Return how many ranks on this machine the processes say there are, so that the first to end is not taken for all."""
        sizes = [str(recording.facts.get("local_world_size")) for recording in read_recordings(self.folder) if recording.trained]
        return max((int(size) for size in sizes if size.isdecimal()), default=1)

    def _observation(self, child: subprocess.Popen[bytes], processes: Watch) -> Observation:
        recordings = read_recordings(self.folder)
        if any((recording.end or {}).get("why") == "exit" for recording in recordings):
            with contextlib.suppress(subprocess.TimeoutExpired):  # a Python that is leaving: how it ends is worth a moment
                child.wait(_LEAVING_S)
        splits = [split for recording in recordings if (split := split_of(recording)) is not None]
        since_s, until_s = _span(recordings)
        uuids = [str(recording.facts.get("gpu_uuid") or "") for recording in recordings]
        status = child.poll()
        return Observation(
            command=shlex.join(self.arguments),
            mode="program",
            cores=find_limits().cores,
            seconds=max((split.observed_s for split in splits), default=0.0),
            splits=tuple(splits),
            processes=processes.uses([split.pid for split in splits], since_s, until_s),
            gpus=self._gpus.uses([uuid for uuid in uuids if uuid], since_s, until_s),
            blind=tuple(_blind(recordings, bool(splits))),
            ended=None if status is None else how_ended(status),
            boost=self.boost,
        )

    def _stopped(self, child: subprocess.Popen[bytes]) -> int:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
        return 0

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand signals on to the program. Ctrl-C of a terminal reaches it by itself: then we only wait for what it does."""

        def hand_on(number: int, frame: FrameType | None) -> None:
            if self._child is not None and not (number == signal.SIGINT and _in_foreground()):
                with contextlib.suppress(ProcessLookupError):
                    self._child.send_signal(number)

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_FORWARDED)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup: the program inherits it
                signal.signal(number, hand_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def environment(outer: Mapping[str, str], folder: Path, seconds: float, skip: int) -> dict[str, str]:
    """Return the environment that brings the observer into every Python of a program."""
    path = outer.get("PYTHONPATH")
    return {
        **outer,
        "PYTHONPATH": f"{_INJECTED}{os.pathsep}{path}" if path else str(_INJECTED),
        "STOKER_DIAGNOSE_FOLDER": str(folder.absolute()),
        "STOKER_DIAGNOSE_SECONDS": str(seconds),
        "STOKER_DIAGNOSE_SKIP": str(skip),
    }


def how_ended(status: int) -> str:
    """Return `exit status 3` or `signal SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _span(recordings: Sequence[Recording]) -> tuple[float, float]:
    """Return from when to when all windows together lasted, in seconds since 1970."""
    trained = [recording for recording in recordings if recording.trained]
    begins = [recording.clock_s + (recording.window_s or recording.segments[0].start_s) for recording in trained]
    ends = [recording.clock_s + recording.segments[-1].start_s + recording.segments[-1].duration_s for recording in trained]
    return min(begins, default=0.0), max(ends, default=float("inf"))


def _blind(recordings: Sequence[Recording], split: bool) -> Iterator[str]:
    if not recordings:
        yield "no Python of the program imported torch with the observer in it (it was started with -S, -I or -E, or is no Python, or ended before)"
    elif not split:
        yield "torch was imported, but fewer than two optimizer steps were seen: the training does not use torch.optim, or ended before"
    for recording in recordings:
        kept = (recording.end or {}).get("left")
        if kept:
            names = ", ".join(map(str, kept))
            yield f"in process {recording.start.get('pid')} these stay wrapped, and do nothing, since somebody else wrapped them too: {names}"
        if recording.trained and recording.end is None:
            yield f"process {recording.start.get('pid')} did not say that it had finished: killed, or still in the same step"


def _in_foreground() -> bool:
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

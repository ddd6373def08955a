"""Being asked to stop: Ctrl-C and SIGTERM wait for the end of the step, a second one does not wait."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from stoker.console import say
from stoker.errors import Interrupted, StokerError, Terminated


class StopSignals:
    """While entered, `requested` is the signal that asked this process to stop, or None."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number)
        say(f"\n{signal.Signals(number).name}: saving after this step (Ctrl-C again: stop at once)")


def stopped(number: signal.Signals, message: str, hint: str) -> StokerError:
    """Return the error that ends a run which was asked to stop: exit code 130 for Ctrl-C, 143 for SIGTERM."""
    return (Interrupted if number == signal.SIGINT else Terminated)(message, hint=hint)

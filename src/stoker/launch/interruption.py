"""Signals while something is made that must be whole or not at all."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals by which a person or the machine ends a program."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def interruptible() -> contextlib.AbstractContextManager[None]:
    """Let SIGTERM and SIGHUP end a start as Ctrl-C does, so that it cleans up after itself."""
    return _handling((signal.SIGTERM, signal.SIGHUP), _interrupt)


def uninterrupted() -> contextlib.AbstractContextManager[None]:
    """Let nobody end the cleaning up, for that a second Ctrl-C is too early."""
    return _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)


def forget_python() -> None:
    """Let signals end this forked process, which is about to become another program: Python would be told of them, and not hear it any more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], None]]:
    """Let such signals wait until what is yielded is called, at the latest until the block ends: between two steps that belong together.

    By handlers: a signal that is blocked here would reach another thread of this process.
    """
    came: list[int] = []
    handlers = contextlib.ExitStack()

    def let_in() -> None:
        handlers.close()
        if came:
            signal.raise_signal(came.pop(0))

    with handlers:
        handlers.enter_context(_handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda number, frame: came.append(number)))
        try:
            yield let_in
        finally:
            let_in()


@contextlib.contextmanager
def _handling(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle signals so until the block ends; elsewhere than in the main thread Python does not allow it, and they stay as they are."""
    before: dict[signal.Signals, Any] = {}
    try:
        for one in signals:
            with contextlib.suppress(ValueError):
                before[one] = signal.signal(one, handler)
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, old)

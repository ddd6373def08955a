"""Switches the parts of boost on and off in this process."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stoker.boost import ending
from stoker.boost.guard import complain, say
from stoker.boost.notes import NOTES
from stoker.boost.parts import PARTS, active
from stoker.boost.patches import Patches
from stoker.boost.request import Request

_IN_EXACT = ("loader", "allocator", "copies")


@dataclass(frozen=True, kw_only=True)
class Door:
    """A module whose `apply(session)` switches parts on: imported only when one of them is asked for."""

    module: str
    parts: tuple[str, ...]
    """Empty: when a record is asked for."""


DOORS = (
    Door(module="stoker.boost.allocation", parts=("allocator",)),
    Door(module="stoker.boost.copies", parts=("copies",)),
    Door(module="stoker.boost.replay.door", parts=("loader",)),
    Door(module="stoker.boost.models.door", parts=tuple(name for name in PARTS if name not in _IN_EXACT)),
    Door(module="stoker.boost.recording", parts=()),
)


@dataclass(eq=False)
class Session:
    """Boost while it is switched on. A part changes things through `patches`, and what else it has to put back through `at_off`."""

    request: Request
    parts: frozenset[str] = frozenset()
    """The parts that are asked for."""
    patches: Patches = field(default_factory=Patches)
    live: bool = True
    """False after `off()`: a wrapper of ours that somebody else has wrapped cannot be taken out, and must then only hand on."""

    def __post_init__(self) -> None:
        self.parts = active(self.request)

    def at_off(self, call: Callable[[], object]) -> None:
        """Have `off()` call `call`: last registered, first called, in one order with `patches`."""
        self.patches.at_undo(call)

    def begin(self) -> None:
        """Switch the parts on. One that fails is undone and complained about; the others go on."""
        for door in DOORS:
            if self.request.record is None if not door.parts else self.parts.isdisjoint(door.parts):
                continue
            before = len(self.patches)
            try:
                importlib.import_module(door.module).apply(self)
            except Exception as error:
                complain(door.module.removeprefix("stoker.boost."), error)
                self.patches.undo(since=before)

    def end(self) -> None:
        """Switch everything off: every attribute is again the object that it was."""
        self.live = False
        left = self.patches.undo()
        if left:
            say("off", f"somebody else has wrapped {', '.join(left)} too: ours stays below it and only hands on")


_lock = threading.RLock()
_current: Session | None = None


def current() -> Session | None:
    """Return the session that is on in this process."""
    return _current


def switch_on(request: Request) -> None:
    """Switch boost on as asked; off first when something else was asked before. Raises nothing."""
    global _current
    try:
        with _lock:
            if _current is not None and _current.request == request:
                return
            switch_off()
            NOTES.clear()
            ending.expect(request)
            _current = Session(request)
            _current.begin()
    except Exception as error:
        complain("session", error)


def switch_off() -> None:
    """Switch boost off. Does nothing when it is off. Raises nothing."""
    global _current
    try:
        with _lock:
            session, _current = _current, None
            if session is not None:
                session.end()
    except Exception as error:
        complain("session", error)


def open_from_environment() -> None:
    """Switch on what the environment asks for: called by the door at the end of `import torch`. Raises nothing."""
    request = Request.from_environment(os.environ)
    if request is not None:
        switch_on(request)


def _renew_lock(_: Any = None) -> None:
    # A child that was forked while another thread held it would wait for that thread for ever.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)

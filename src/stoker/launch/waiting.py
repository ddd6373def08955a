"""Until a service answers, or it is known why it will not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stoker import console
from stoker.errors import NotReady
from stoker.launch.ending import why
from stoker.launch.up import Up

PATIENCE_S = 120.0
"""A first start reads gigabytes from a slow disk."""
_PAUSE_S = 0.05
_TAIL = 12

Found = TypeVar("Found")


def wait_for(up: Up, look: Callable[[], Found | None], *, patience_s: float = PATIENCE_S) -> Found:
    """Ask until there is an answer. Raises NotReady with the reason when the container ends before, or with its last lines when time is up."""
    try:
        return _waited(up, look, patience_s)
    except KeyboardInterrupt:
        name = up.container.name
        console.say(f"\n{name} goes on starting: the same command says how to get in, `stoker rm --force {name}` ends it")
        raise


def _waited(up: Up, look: Callable[[], Found | None], patience_s: float) -> Found:
    begun = time.monotonic()
    until, next_look = begun + patience_s, begun + 1
    while (found := look()) is None:
        now = time.monotonic()
        if now >= next_look:
            need_running(up)
            # To ask an engine takes time from what is starting: less and less often.
            next_look = now + min(5.0, now - begun)
        if now >= until:
            raise not_ready(up, f"runs but did not answer within {patience_s:g} s")
        time.sleep(_PAUSE_S)
    return found


def need_running(up: Up) -> None:
    """Raise NotReady, with the reason, when the container has ended or is gone."""
    now = next((one for one in up.keeper.containers(everything=True) if one.id == up.container.id), None)
    if now is None:
        raise NotReady(f"{up.container.name} was removed while it started", hint="run the same command again")
    if not now.running:
        raise not_ready(up, why(up.keeper.ending(now)) or f"ended at once ({now.state})")


def not_ready(up: Up, what: str) -> NotReady:
    """Return the error, with the last lines of the log."""
    name = up.container.name
    lines = up.keeper.log_text(up.container, lines=_TAIL).strip()
    return NotReady(
        f"{name}: {what}" + (f"\n{lines}" if lines else ""), hint=f"`stoker logs {name}` shows all of it; the same command starts it anew"
    )

"""Nothing of ours may stop the user's program: an error of boost's own is said once, and the original goes on."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback

_said: set[str] = set()
_lock = threading.Lock()


def complain(slug: str, error: BaseException, *, consequence: str = "the program goes on without it") -> None:
    """Say once a slug on stderr that something of ours failed. Raises nothing. STOKER_BOOST_DEBUG=1 adds the traceback."""
    with contextlib.suppress(Exception):
        text = f"{slug} failed ({type(error).__name__}: {error}); {consequence}"
        if os.environ.get("STOKER_BOOST_DEBUG"):
            text += "\n" + "".join(traceback.format_exception(error)).rstrip()
        say(slug, text)


def say(slug: str, text: str) -> None:
    """Say `text` on stderr, once a slug in this process and the children that it forks. Raises nothing."""
    with contextlib.suppress(Exception):
        with _lock:
            if slug in _said:
                return
            _said.add(slug)
        print(f"stoker boost: {text}", file=sys.stderr, flush=True)


def _renew_lock() -> None:
    # A child that was forked while another thread was saying something would wait for that thread for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)

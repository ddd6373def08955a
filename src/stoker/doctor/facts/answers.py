"""Questions to file systems and name servers that may never answer, each asked in a thread of its own with a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

_T = TypeVar("_T")


def ask_all(questions: Mapping[str, Callable[[], _T]], *, limit_s: float) -> dict[str, _T]:
    """Return the answers by name. What did not answer in time, or raised, is left out; its thread is left to itself."""
    answers: dict[str, _T] = {}

    def one(name: str, question: Callable[[], _T]) -> None:
        try:
            answers[name] = question()
        except Exception:
            return

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(answers)  # a copy: a late thread may still write into it

"""Several questions asked at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")


def at_once(questions: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Call all of them, each in a thread of its own, and return their answers in order; the first error in that order is raised.

    Not `concurrent.futures`: its import takes longer than an engine's answer.
    """
    if len(questions) == 1:
        return [questions[0]()]
    answers: dict[int, Answer] = {}
    errors: dict[int, BaseException] = {}

    def ask(number: int) -> None:
        try:
            answers[number] = questions[number]()
        except BaseException as error:
            errors[number] = error

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [answers[number] for number in range(len(questions))]

"""How far a build is: a bar a task on a terminal, elsewhere a line when one ends and every ten seconds; safe for several threads."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from stoker import console
from stoker.errors import Interrupted

_LINE_S = 10.0
_TITLE_COLUMNS = 44


class Task:
    """One thing that is being made or fetched."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._begun = time.monotonic()
        self._progress = progress

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._begun

    def advance(self, count: int) -> None:
        """So many bytes more. Raises Interrupted when the build is being given up: long work ends here."""
        self._progress.advanced(self, count)

    def reach(self, so_far: int) -> None:
        """So many bytes in all. Raises as `advance`."""
        self.advance(so_far - self.done)

    def finish(self, said: str) -> None:
        """It is done: say what it came to; nothing is said for an empty text."""
        self._progress.finished(self, said)


class Progress:
    """All tasks of a build."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Task] = []
        self._said = time.monotonic()
        self._given_up = threading.Event()
        self._bars: Any = None
        self._rows: dict[int, Any] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the tasks meanwhile. When the block ends by an exception, every task that still runs is told to end at its next `advance`."""
        if sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        try:
            yield self
        except BaseException:
            self._given_up.set()
            raise
        finally:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def give_up(self) -> None:
        """Have every task end at its next `advance`."""
        self._given_up.set()

    def task(self, title: str, total: int | None = None) -> Task:
        """Begin a task; `total` in bytes."""
        task = Task(self, title, total)
        with self._lock:
            self._running.append(task)
            if self._bars is not None:
                self._rows[id(task)] = self._bars.add_task(title, total=total)
        return task

    def say(self, line: str) -> None:
        """Say a line, above the bars."""
        with self._lock:
            self._print(line)

    def advanced(self, task: Task, count: int) -> None:
        """See Task.advance."""
        if self._given_up.is_set():
            raise Interrupted("the build was given up", hint="run it again: what is finished is kept")
        with self._lock:
            task.done += count
            if self._bars is not None:
                self._bars.advance(self._rows[id(task)], count)
            elif time.monotonic() - self._said >= _LINE_S:
                self._said = time.monotonic()
                self._print("... " + ", ".join(_far(one) for one in self._running))

    def finished(self, task: Task, said: str) -> None:
        """See Task.finish."""
        with self._lock:
            self._running.remove(task)
            if self._bars is not None:
                self._bars.remove_task(self._rows.pop(id(task)))
            if said:
                self._print(f"{task.title:<{_TITLE_COLUMNS}} {said}")

    def _print(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            console.say(line)


def bytes_text(count: int) -> str:
    """Return a number of bytes for people, as `1,024 MB`."""
    if count < 1e6:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 100e6 else f"{count / 1e6:,.0f} MB"


def _far(task: Task) -> str:
    if task.total:
        return f"{task.title} {100 * task.done / task.total:.0f} %"
    # The base is made by another program, which does not say how far it is.
    return f"{task.title} {bytes_text(task.done) if task.done else f'{task.seconds:.0f} s'}"


def _bars() -> Any:
    # Only where there is a terminal: half of the time that a build takes which finds everything in the store.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)

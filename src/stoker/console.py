"""Talk on stderr, data on stdout; nothing is said by colour alone."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from stoker.errors import StokerError

_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Say nothing but errors from now on (ranks other than 0 of a distributed run)."""
    global _quiet
    _quiet = quiet


def say(text: str = "") -> None:
    """Say a line to the person, on stderr."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Say a line that the person should not miss."""
    say(f"{_bold('warning:')} {text}")


def show_error(error: StokerError) -> None:
    """Print what happened, and after a blank line what to do."""
    print(f"{_bold('error:')} {error.message}  [{error.slug}]\n\n{_bold('hint:')} {error.hint}", file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """Print `value` as JSON on stdout: the data of a command, for programs."""
    print(json.dumps(value, indent=2, default=str), flush=True)


@contextlib.contextmanager
def progress(title: str, total: int | None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show how far a long task is; yields `advance(count)`.

    On a terminal a bar, elsewhere a line every ten seconds, so that logs stay readable. Safe to call from one thread only.
    """
    if _quiet:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _lines(title, total, unit)


@contextlib.contextmanager
def _bar(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total} " + unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(title: str, total: int | None, unit: str) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            say(f"{title}: {done:,}{f' of {total:,}' if total else ''} {unit}".rstrip())

    return advance


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stderr.isatty() else text

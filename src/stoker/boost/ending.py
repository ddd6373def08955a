"""The end of a process under boost: one line on stderr, --explain, the report. It changes neither exit code nor traceback."""

from __future__ import annotations

import atexit
import json
import os
import platform
import sys
from dataclasses import asdict
from multiprocessing.process import parent_process
from multiprocessing.util import Finalize, register_after_fork
from typing import Any

from stoker import __version__
from stoker.boost import process, summary
from stoker.boost.guard import complain
from stoker.boost.notes import NOTES, Note
from stoker.boost.request import Request
from stoker.files import write_text_atomically


class Ending:
    """What is told at the end of this process, once."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self.told_pid = 0

    def tell(self) -> None:
        """Say the line and write the report. Raises nothing; the second call in a process does nothing."""
        request = self.request
        if request is None or self.told_pid == os.getpid():
            return
        self.told_pid = os.getpid()
        try:
            notes = list(NOTES.kept)
            if not process.is_worker():
                _speak(request, notes)
                _report(request, notes)
        except Exception as error:
            complain("ending", error, consequence="the program itself has ended as it would have")

    def in_child(self) -> None:
        """In a child of multiprocessing, which leaves without running atexit."""
        Finalize(None, self.tell, exitpriority=-100)


_ENDING = Ending()
# A child that multiprocessing forks or spawns forgets the finalizers that were there before it began.
register_after_fork(_ENDING, Ending.in_child)


def expect(request: Request) -> None:
    """Have the end of this process told as `request` asks."""
    if _ENDING.request is None:
        # Registered before anything else of boost, so that it is called after all of it.
        atexit.register(_ENDING.tell)
        if parent_process() is not None:
            _ENDING.in_child()
    _ENDING.request = request


def _speak(request: Request, notes: list[Note]) -> None:
    if not process.speaks() or request.tier is None:
        return
    lines: list[str] = []
    if request.explain and (_noted(notes) or process.is_first()):
        name = process.name() if _noted(notes) else process.script()
        lines += summary.explanation(notes, request, _versions_line(), name)
    said = None if request.quiet else summary.line(notes, request.tier, process.name())
    if said is not None:
        lines.append(said)
    if lines:
        # One call: lines of several processes do not run into each other.
        print("\n".join(lines), file=sys.stderr, flush=True)


def _report(request: Request, notes: list[Note]) -> None:
    path = request.report and process.report_path(request.report, _noted(notes))
    if not path:
        return
    try:
        write_text_atomically(path, json.dumps(_contents(request, notes), indent=1, default=str), durable=False)
    except Exception as error:
        complain("report", error, consequence=f"{path} was not written, and the program itself has ended as it would have")


def _contents(request: Request, notes: list[Note]) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "request": _plain(asdict(request)),
        "process": {"pid": os.getpid(), "rank": process.rank(), "argv": list(getattr(sys, "argv", []))},
        "notes": [asdict(note) for note in notes],
        "totals": summary.totals(notes),
    }


def _noted(notes: list[Note]) -> bool:
    """Whether this process did anything that boost looks at: what stands for the process as a whole does not count."""
    return any(note.kind != "process" for note in notes)


def _plain(request: dict[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in request.items()}


def _versions() -> dict[str, str]:
    torch = sys.modules.get("torch")
    return {"stoker": __version__, "torch": str(getattr(torch, "__version__", "")), "python": platform.python_version()}


def _versions_line() -> str:
    return ", ".join(f"{name} {version}" for name, version in _versions().items() if version)

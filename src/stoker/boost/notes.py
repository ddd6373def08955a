"""What boost recognised, applied, declined and kept, and why: told at the exit, by `--explain` and in the report."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["loader", "model", "process"]
Outcome = Literal["applied", "declined", "kept", "dropped", "failed"]

_OURS = str(Path(__file__).resolve().parents[1])
_LIBRARIES = ("site-packages", "dist-packages", "/lib/python", "<frozen")


@dataclass(kw_only=True)
class Note:
    """One thing that was looked at: a data loader, a model, or the process as a whole."""

    kind: Kind
    part: str
    """The part of boost by which it can be switched off: one of `parts.PARTS`."""
    what: str
    """`DataLoader(CIFAR10, batch_size=64, num_workers=2)`, `Net`, ..."""
    where: str
    """`train.py:31`: the line of the user's code, or an empty text."""
    outcome: Outcome
    why: str
    """One sentence: what was recognised and done, or what stood in the way."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Measured while it ran, units in the names: `waited_s`, `images`, `check_plain_s`, `check_replay_s`, `ratio`, ..."""

    def count(self, **amounts: float) -> None:
        """Add to numbers; one that is not there yet begins at 0."""
        for name, amount in amounts.items():
            self.numbers[name] = self.numbers.get(name, 0) + amount


class Notes:
    """All notes of this process, in the order in which they came; for any thread."""

    def __init__(self) -> None:
        self.kept: list[Note] = []
        self._lock = threading.Lock()

    def add(self, note: Note) -> Note:
        """Keep `note`; one that says the same again (same kind, part, what, where, outcome and why) is the earlier one."""
        with self._lock:
            for known in self.kept:
                if (known.kind, known.part, known.what, known.where, known.outcome, known.why) == (
                    *(note.kind, note.part, note.what, note.where),
                    *(note.outcome, note.why),
                ):
                    return known
            self.kept.append(note)
        return note

    def clear(self) -> None:
        """Forget everything: in a forked child, and when boost is switched on anew."""
        with self._lock:
            self.kept.clear()

    def renew(self) -> None:
        """In a forked child: what the parent noted and counted is the parent's. A note that is used again here has to be added again."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        for note in self.kept:
            note.numbers = {}
        self.kept = [note for note in self.kept if note.kind == "process"]


NOTES = Notes()
os.register_at_fork(after_in_child=NOTES.renew)


def user_line(skip: int = 1) -> str:
    """Return `train.py:31`, in a notebook `In[3]:31`: the innermost line of the stack that is neither ours nor a library's; else an empty text."""
    frame = sys._getframe(skip)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) and not any(part in name for part in _LIBRARIES):
            return f"{_title(name)}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def _title(filename: str) -> str:
    """Return the name of a file; of a notebook's cell its number, as IPython's tracebacks call it: its file has a hash for a name."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    numbers = getattr(getattr(ask(), "compile", None), "_filename_map", {})
    return f"In[{numbers[filename]}]" if filename in numbers else Path(filename).name

"""What the iterations of replayed loaders cost: batches, images and waiting, in the loader's note and for the whole process."""

from __future__ import annotations

import time

from stoker.boost.notes import Note

_waited_s = 0.0


def waited_s() -> float:
    """Return for how long, in seconds, this process has waited for batches of replayed loaders."""
    return _waited_s


class Account:
    """What one iteration of a loader cost, added to the loader's note."""

    def __init__(self, note: Note) -> None:
        self._numbers = note.numbers
        self._numbers["epochs"] = self._numbers.get("epochs", 0) + 1

    def add(self, images: int, began: float, *, plain: bool) -> float:
        """Count a batch that was asked for at `began` (time.perf_counter) and is there now; return what the clock says."""
        global _waited_s
        now = time.perf_counter()
        _waited_s += now - began
        numbers = self._numbers
        numbers.setdefault("first_s", began)
        numbers["last_s"] = now
        numbers["batches"] = numbers.get("batches", 0) + 1
        numbers["images"] = numbers.get("images", 0) + images
        numbers["waited_s"] = numbers.get("waited_s", 0.0) + now - began
        if plain:
            numbers["plain_batches"] = numbers.get("plain_batches", 0) + 1
        return now

"""Attributes of other people's modules and classes that boost replaces, and puts back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.boost.guard import complain

_ABSENT = object()


class Patches:
    """Replaced attributes and other changes, in order. `undo` puts back the very objects that were there."""

    def __init__(self) -> None:
        self._undoings: list[Callable[[], str | None]] = []

    def __len__(self) -> int:
        """Return how many changes stand: what `undo` takes as `since`."""
        return len(self._undoings)

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """Replace `owner.name` and return what was there (found through bases as Python finds it; put back only where it stood itself)."""
        before = vars(owner).get(name, _ABSENT)
        found = getattr(owner, name)
        setattr(owner, name, value)
        ours = vars(owner).get(name)
        self._undoings.append(lambda: _put_back(owner, name, before, ours))
        return found

    def at_undo(self, call: Callable[[], object]) -> None:
        """Have `undo` call `call`, in its turn."""

        def undoing() -> None:
            call()

        self._undoings.append(undoing)

    def undo(self, since: int = 0) -> list[str]:
        """Put everything back that was changed after the first `since` changes, last first.

        Returns the names of what somebody else has replaced since and which therefore stays. One that fails is complained about, and the rest
        is put back all the same.
        """
        left = []
        while len(self._undoings) > since:
            undoing = self._undoings.pop()
            try:
                name = undoing()
            except Exception as error:
                complain("undo", error, consequence="everything else was put back")
                continue
            if name is not None:
                left.append(name)
        return left


def _put_back(owner: Any, name: str, before: Any, ours: Any) -> str | None:
    if vars(owner).get(name, _ABSENT) is not ours:
        return f"{getattr(owner, '__name__', owner)}.{name}"
    if before is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
    return None

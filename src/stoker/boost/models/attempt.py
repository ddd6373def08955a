"""What is tried next."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.boost.models.ways import Way


@dataclass(frozen=True)
class Attempt:
    """Ways that are tried together, on top of what is kept already."""

    ways: tuple[Way, ...]
    after_s: float = 0.0
    """Seconds of training before it is worth while."""

    def involves(self, part: str) -> bool:
        """Whether a part is among them."""
        return any(way.name == part for way in self.ways)

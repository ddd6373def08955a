"""The parts of boost, each of which can be switched off by its name, and the tier that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, get_args

from stoker.errors import nearest

Tier = Literal["exact", "close", "fast"]

TIERS: tuple[Tier, ...] = get_args(Tier)
"""Each one includes those before it."""

PARTS: dict[str, Tier] = {
    "loader": "exact",
    "allocator": "exact",
    "copies": "exact",
    "layout": "close",
    "operations": "close",
    "fused": "close",
    "tf32": "close",
    "cudnn": "close",
    "threads": "close",
    "autocast": "fast",
    "compile": "fast",
}


class Asked(Protocol):
    """What of a request decides about parts."""

    @property
    def tier(self) -> Tier | None:
        """None: no part at all."""

    @property
    def off(self) -> frozenset[str]:
        """Parts that stay off."""


def active(request: Asked) -> frozenset[str]:
    """Return the parts that a request switches on: those of its tier and the tiers below, without the ones that it switches off."""
    if request.tier is None:
        return frozenset()
    allowed = TIERS[: TIERS.index(request.tier) + 1]
    return frozenset(name for name, tier in PARTS.items() if tier in allowed and name not in request.off)


def unknown_tier(name: str) -> str:
    """Return the sentence that says that there is no such tier, with the nearest one."""
    return f"there is no tier {name!r}: {_suggestion(name, TIERS)}"


def unknown_part(names: Iterable[str]) -> str | None:
    """Return the sentence about the first name that is no part's, with the nearest one; None when all are known."""
    for name in names:
        if name not in PARTS:
            return f"there is no part {name!r}: {_suggestion(name, tuple(PARTS))}"
    return None


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    like = nearest(name, known)
    return (f"did you mean {like!r}? " if like else "") + f"There are: {', '.join(known)}"

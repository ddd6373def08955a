"""Broken images, counted and named: the text of every refusal of them."""

from __future__ import annotations

from stoker.data.archives import printable

Broken = tuple[tuple[str, str], ...]
"""Name and reason of each image that cannot be decoded."""


def broken_text(broken: Broken, good: int, where: str) -> str:
    """Return how many of the images in `where` cannot be decoded, and name the first three."""
    shown = "".join(f"\n  {printable(name)}: {printable(reason)}" for name, reason in broken[:3])
    more = "\n  ..." if len(broken) > 3 else ""
    return f"{len(broken):,} of {len(broken) + good:,} images in {where} cannot be decoded:{shown}{more}"

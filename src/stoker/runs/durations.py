"""Lengths of time as people say them."""

from __future__ import annotations


def spoken(seconds: float | None) -> str:
    """Return a duration with two units at most: 0.42 s, 8.3 s, 3 min 12 s, 2 h 5 min, 3 d 4 h; a dash when it is not known."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def ago(seconds: float | None) -> str:
    """Return an age with one unit: 5 s, 12 min, 3 h, 9 d."""
    if seconds is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"

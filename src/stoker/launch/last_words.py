"""What a program wrote last: the line that tells something, fit to be shown."""

from __future__ import annotations

import re

# Kept as a text: compiling takes longer than what it is for, and most endings need none.
_STEERING = r"\x1b\[[0-9;?]*[A-Za-z]"
_MOST = 200


def line_with(pattern: str, text: str) -> str | None:
    """Return the last line in which a pattern is found, fit to be shown; None: there is none."""
    return next((shown(line) for line in reversed(plain(text).splitlines()) if re.search(pattern, line)), None)


def last_line(text: str) -> str:
    """Return the last line that is not empty, fit to be shown."""
    lines = [line for line in plain(text).splitlines() if line.strip()]
    return shown(lines[-1]) if lines else ""


def plain(text: str) -> str:
    """Return a text without what colours it."""
    return re.sub(_STEERING, "", text)


def shown(text: str) -> str:
    """Return what a stranger's program wrote without what would steer the terminal, and not longer than a line or two."""
    clean = "".join(sign if sign.isprintable() else " " for sign in plain(text)).strip()
    return clean if len(clean) <= _MOST else f"{clean[:_MOST]}…"

"""Columns of text for a terminal of any width, plain where there is no terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NARROWEST = 16


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), folded: int | None, drop: int | None = None) -> list[str]:
    """Return the lines of a table, a head and rows, no wider than the terminal if that can be.

    Columns `right` are aligned at their right. When there is too little room, column `drop` goes first, then column `folded` (None: all
    but the first) is folded.
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    kept = list(range(len(head)))
    if drop is not None and sum(_widths(cells)) + 2 * (len(head) - 1) > terminal_width():
        kept.remove(drop)
    cells = [[row[index] for index in kept] for row in cells]
    foldable = range(1, len(kept)) if folded is None else (kept.index(folded),)
    gap = 2 if sum(_widths(cells)) + 2 * (len(kept) - 1) <= terminal_width() else 1
    widths = _narrowed(_widths(cells), foldable, terminal_width() - gap * (len(kept) - 1))
    aligned = [index in right for index in kept]
    lines = [_row(row, widths, aligned, " " * gap) for row in cells]
    return [bold(line) for line in lines[0]] + [line for row in lines[1:] for line in row]


def fold(text: str, most: int) -> list[str]:
    """Return a text in lines of at most `most` columns."""
    return textwrap.wrap(text, most, break_on_hyphens=False) if width(text) > most else [text]


def padded(text: str, to: int, right: bool = False) -> str:
    """Return a text with spaces up to `to` columns."""
    space = " " * max(0, to - width(text))
    return space + text if right else text + space


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 0 if unicodedata.combining(letter) else 1 for letter in text)


def terminal_width() -> int:
    """Return the width of the terminal; without one nothing is folded, so that grep finds whole lines."""
    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000


def printable(text: str) -> str:
    """Return text without what would steer the terminal: names of classes and files come from strangers."""
    return _UNPRINTABLE.sub("?", text)


def bold(text: str) -> str:
    """Return text in bold on a terminal, as it is elsewhere."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _row(row: Sequence[str], widths: Sequence[int], aligned: Sequence[bool], gap: str) -> list[str]:
    columns = [fold(cell, most) for cell, most in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, columns))):
        shown = (column[number] if number < len(column) else "" for column in columns)
        lines.append(gap.join(padded(text, to, right) for text, to, right in zip(shown, widths, aligned, strict=True)).rstrip())
    return lines


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(width(cell) for cell in column) for column in zip(*cells, strict=True)]


def _narrowed(widths: list[int], foldable: Sequence[int], room: int) -> list[int]:
    """Take what is too much from the widest of the columns that may be folded, down to _NARROWEST."""
    while sum(widths) > room:
        widest = max(foldable, key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths

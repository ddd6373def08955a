"""Bars of time by phase as SVG that stretches with the page: colours from the page's style, a letter in each bar that has room for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stoker.diagnosis.fixes import duration
from stoker.runs.markup import Html, tag

LETTERS = {"data": "D", "copy": "C", "forward": "F", "backward": "B", "optimizer": "O", "sync": "S", "other": "P"}
NAMES = {
    "data": "waiting for data",
    "copy": "copy to the device",
    "forward": "forward and loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "sync": "waiting for the GPU",
    "other": "Python between",
}
_HEIGHT = 26
_LEAST = 0.0004
"""Narrower pieces are not drawn: less than half a pixel."""
_ROOM = 0.045
"""Of the width; from here on a letter fits."""


class Piece(NamedTuple):
    """A part of a bar."""

    phase: str
    start: float
    """Of the bar's full width."""
    width: float
    hint: str


def share_bar(name: str, shares: dict[str, float]) -> Html:
    """Return a bar of the whole width, cut by share."""
    pieces, at = [], 0.0
    for phase in LETTERS:
        pieces.append(Piece(phase, at, shares.get(phase, 0.0), f"{NAMES[phase]}: {100 * shares.get(phase, 0.0):.1f} %"))
        at += shares.get(phase, 0.0)
    return _bar(name, pieces)


def step_bars(steps: Sequence[Sequence[tuple[str, float, float]]]) -> list[Html]:
    """Return a bar for each step (phase, start and duration in seconds), all to the scale of the longest."""
    spans = [(step[0][1], step[-1][1] + step[-1][2]) for step in steps if step]
    longest_s = max((end - begin for begin, end in spans), default=0.0) or 1e-9
    bars = []
    for (begin, end), step in zip(spans, (step for step in steps if step), strict=True):
        pieces = [
            Piece(phase, (at - begin) / longest_s, width / longest_s, f"{NAMES.get(phase, phase)}: {duration(width)}") for phase, at, width in step
        ]
        bars.append(_bar(f"A step of {duration(end - begin)}", _merged(pieces)))
    return bars


def _merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces with neighbours of one phase as one, as when a hundred copies follow each other."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last is not None and last.phase == piece.phase and piece.start - (last.start + last.width) < _LEAST:
            merged[-1] = last._replace(width=piece.start + piece.width - last.start)
        else:
            merged.append(piece)
    return merged


def _bar(name: str, pieces: Iterable[Piece]) -> Html:
    drawn = [piece for piece in pieces if piece.width >= _LEAST]
    return tag("svg", tag("title", name), *(_piece(piece) for piece in drawn), width="100%", height=_HEIGHT, role="img", class_="bar")


def _piece(piece: Piece) -> Html:
    letter = None
    if piece.width >= _ROOM:
        middle = f"{100 * (piece.start + piece.width / 2):.3f}%"
        letter = tag("text", LETTERS.get(piece.phase, "?"), x=middle, y=_HEIGHT / 2 + 4.5, text_anchor="middle")
    box = tag("rect", x=f"{100 * piece.start:.3f}%", width=f"{100 * piece.width:.3f}%", y=0, height=_HEIGHT)
    return tag("g", tag("title", piece.hint), box, letter, class_=f"phase {piece.phase}")


def key(phases: Iterable[str]) -> Html:
    """Return the legend of the phases that occur."""
    chosen = set(phases)
    entries = [tag("li", _sample(phase), f" {letter}  {NAMES[phase]}") for phase, letter in LETTERS.items() if phase in chosen]
    return tag("ul", *entries, class_="legend")


def _sample(phase: str) -> Html:
    return tag("svg", tag("rect", width=14, height=14), width=14, height=14, class_=f"phase {phase}", aria_hidden="true")

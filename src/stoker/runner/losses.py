"""Losses of two runs, step by step: to the bit, or by how much they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stoker.runner.records import Record


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first place at which two runs part."""

    process: int
    """Which of the processes that train, by rank."""
    loss: int
    """Which backward, from 1; 0: not a loss, but the weights at the end or the number of processes."""
    one: str
    other: str

    def __str__(self) -> str:
        where = f"loss {self.loss}" if self.loss else "the end"
        return f"{where}{f' of process {self.process}' if self.process else ''}: {shown(self.one)} and {shown(self.other)}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two runs were compared, and where they part."""

    losses: int
    """So many were the same to the bit, over all processes."""
    weights: bool | None
    """Whether the weights at the end are the same; None: not compared, since the runs ended at different steps or left none."""
    difference: Difference | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"losses": self.losses, "weights": self.weights, "difference": None if self.difference is None else str(self.difference)}


def agreement(one: Sequence[Record], other: Sequence[Record]) -> Agreement:
    """Compare two runs to the bit, as far as both go: runs that were stopped after a time have done different numbers of steps."""
    if len(one) != len(other):
        found = Difference(process=0, loss=0, one=f"{len(one)} processes that train", other=f"{len(other)}")
        return Agreement(losses=0, weights=None, difference=found)
    same, weights = 0, None
    for process, (left, right) in enumerate(zip(one, other, strict=True)):
        for number, (a, b) in enumerate(zip(left.losses, right.losses, strict=False), 1):
            if a != b:
                return Agreement(losses=same, weights=None, difference=Difference(process=process, loss=number, one=a, other=b))
            same += 1
        if len(left.steps) == len(right.steps) and len(left.losses) == len(right.losses) and left.weights and right.weights:
            weights = (weights is not False) and left.weights == right.weights
            if not weights:
                found = Difference(process=process, loss=0, one=left.weights, other=right.weights)
                return Agreement(losses=same, weights=False, difference=found)
    return Agreement(losses=same, weights=weights, difference=None)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One loss of two runs."""

    loss: int
    """Which one, from 1."""
    one: float
    other: float

    @property
    def relative(self) -> float:
        """Difference over the larger of the two; 0 when both are 0 or the same infinity."""
        most = max(abs(self.one), abs(self.other))
        if self.one == self.other or most == 0:
            return 0.0
        return abs(self.one - self.other) / most if math.isfinite(most) else math.inf


def table(one: Record, other: Record) -> list[Row]:
    """Return the losses 1, 2, 5, 10, 20, 50, ... and the last one that both runs have, of those that are single numbers."""
    rows = []
    for number, (a, b) in enumerate(zip(one.losses, other.losses, strict=False), 1):
        left, right = value(a), value(b)
        if left is not None and right is not None:
            rows.append(Row(loss=number, one=left, other=right))
    return [row for at, row in enumerate(rows) if str(row.loss).rstrip("0") in ("1", "2", "5") or at == len(rows) - 1]


def value(text: str) -> float | None:
    """Return the number that a loss is; None when it is the hash of several."""
    try:
        return float.fromhex(text)
    except ValueError:
        return None


def shown(text: str) -> str:
    """Return a recorded value as a person reads it, its bits beside it."""
    number = value(text)
    return text if number is None else f"{number!r} ({text})"

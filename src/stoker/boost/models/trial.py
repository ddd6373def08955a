"""Two ways of doing a training step, in turn, and whether the second is faster by more than chance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST_GAIN = 0.03
"""A part that saves less of a step is not worth other rounding."""

_SIGMAS = 2.33
"""How far from chance the order of the steps must be: once in a hundred times it is by chance."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a trial has shown."""

    keep: bool
    why: str
    plain_step_s: float | None
    """Median; None when too few steps could be timed."""
    step_s: float | None
    steps: int
    """Steps timed, of both kinds together."""

    @property
    def ratio(self) -> float | None:
        """Plain step by tried step: 2.0 is twice as fast."""
        return self.plain_step_s / self.step_s if self.plain_step_s and self.step_s else None

    def numbers(self) -> dict[str, float | int]:
        """Return what is noted: measured values only."""
        found: dict[str, float | int] = {"steps": self.steps}
        if self.plain_step_s and self.step_s:
            found.update(plain_step_s=round(self.plain_step_s, 6), step_s=round(self.step_s, 6), ratio=round(self.plain_step_s / self.step_s, 3))
        return found


@dataclass(kw_only=True)
class Trial:
    """Blocks of laps, plain and tried in turn. A lap is one training step, or a few where the device must be waited for."""

    pairs: int = 3
    """Pairs of a plain and a tried block."""
    count: int = 4
    """Laps of a block that are timed."""
    warm: int = 1
    """Laps at the beginning of a block that are not: the first step of a kind makes its kernels."""
    early: bool = True
    """Whether a clear difference ends the trial before all pairs are done: not where several ranks must switch in the same step."""
    """Without it, a difference that is not sure yet does not prolong the trial either."""
    steps_a_lap: int = 1
    _laps_s: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    _done: int = 0
    """Laps of this block."""
    _blocks: int = 0

    @property
    def tried(self) -> bool:
        """Whether the current block is one of the tried kind: the first is plain."""
        return self._blocks % 2 == 1

    def lap(self, step_s: float | None) -> Verdict | None:
        """Take a lap (seconds a step; None: something else was done in between); return the verdict when there is one."""
        self._done += 1
        if self._done > self.warm and step_s is not None:
            self._laps_s[self.tried].append(step_s)
        if self._done < self.warm + self.count:
            return None
        self._done = 0
        self._blocks += 1
        if self._blocks >= 4 and self._blocks % 2 == 0 and self._over():
            return self.verdict()
        return None

    def _over(self) -> bool:
        if not self.early:
            return self._blocks == 2 * self.pairs
        if self._blocks < 2 * self.pairs:
            return self._clear()
        verdict = self.verdict()
        gained = verdict.ratio is not None and verdict.ratio > 1 + LEAST_GAIN
        return self._blocks >= 4 * self.pairs or verdict.keep or not gained

    def _clear(self) -> bool:
        plain, tried = self._laps_s[False], self._laps_s[True]
        return min(len(plain), len(tried)) >= 2 * self.count - 2 and (max(tried) < 0.85 * min(plain) or min(tried) > max(plain))

    def verdict(self) -> Verdict:
        """Judge what was timed so far."""
        return judge(self._laps_s[False], self._laps_s[True], steps_a_lap=self.steps_a_lap)


def judge(plain: Sequence[float], tried: Sequence[float], *, steps_a_lap: int = 1) -> Verdict:
    """Compare seconds a step: kept when the median is lower by 3 %, and the order of the steps is not chance."""
    steps = (len(plain) + len(tried)) * steps_a_lap
    if min(len(plain), len(tried)) < 3:
        return Verdict(keep=False, why="too few steps could be timed", plain_step_s=None, step_s=None, steps=steps)
    before, after = statistics.median(plain), statistics.median(tried)
    measured = f"{_milliseconds(before)} a step before, {_milliseconds(after)} with it"
    if before - after < LEAST_GAIN * before:
        keep, why = False, f"not faster: {measured}"
    elif _sigmas(plain, tried) < _SIGMAS:
        keep, why = False, f"faster by less than the steps differ among themselves: {measured}"
    else:
        keep, why = True, f"faster: {measured}"
    return Verdict(keep=keep, why=why, plain_step_s=before, step_s=after, steps=steps)


def _sigmas(plain: Sequence[float], tried: Sequence[float]) -> float:
    """Return how many standard deviations the ranks of two samples are from chance (Mann and Whitney 1947, normal approximation).

    Ranks, because the steps of a machine that others use too have no spread to speak of: a few take many times as long.
    """
    first, second = len(plain), len(tried)
    wins = sum((before > after) + 0.5 * (before == after) for before in plain for after in tried)
    return float((wins - first * second / 2) / (first * second * (first + second + 1) / 12) ** 0.5)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"

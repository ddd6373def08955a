"""The one way to time: candidates in turn (A B A B), warm-up apart, median and spread, CPU seconds beside wall seconds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stoker.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one call of a candidate took."""

    median_s: float
    """Wall seconds."""
    low_s: float
    """First quartile of the samples (the least, of fewer than four)."""
    high_s: float
    """Third quartile of the samples (the largest, of fewer than four)."""
    cpu_s: float
    """CPU seconds of this process, all threads: median."""
    samples_s: tuple[float, ...]
    """Wall seconds a call, one entry a round, in the order of the rounds."""

    @property
    def n(self) -> int:
        """How many rounds were timed."""
        return len(self.samples_s)

    @property
    def spread_s(self) -> float:
        """From the first to the third quartile."""
        return self.high_s - self.low_s

    def __str__(self) -> str:
        return f"{_pretty(self.median_s)} ({_pretty(self.low_s)} to {_pretty(self.high_s)}, n={self.n}, CPU {_pretty(self.cpu_s)})"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times longer one candidate took than another, from rounds that ran next to each other."""

    median: float
    low: float
    """First quartile of the rounds' ratios (the least, of fewer than four)."""
    high: float
    """Third quartile of the rounds' ratios (the largest, of fewer than four)."""
    n: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f}, n={self.n})"


def in_turn(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    inner: int = 1,
    warmup: int = 1,
    budget_s: float | None = None,
    synchronise: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time every candidate `rounds` times, in turn, `inner` calls at a time, after `warmup` turns that do not count.

    Every other round runs in reverse order (A B B A), so that none always follows the same neighbour. Past `budget_s` wall seconds, warm-up
    included, it stops early, but not before two whole rounds. `synchronise` is called before and after each sample; None: on a GPU that PyTorch
    already uses it is torch.cuda.synchronize, else nothing. What a candidate raises goes through.
    """
    if not candidates or rounds < 2 or inner < 1 or warmup < 0:
        raise BadValue(f"nothing to time: {len(candidates)} candidates, {rounds} rounds of {inner}", hint="give a candidate and two rounds")
    wait = synchronise or _device_wait()
    begin = time.perf_counter()
    for _ in range(warmup):
        for call in candidates.values():
            _sample(call, inner, wait)
    walls: dict[str, list[float]] = {name: [] for name in candidates}
    cpus: dict[str, list[float]] = {name: [] for name in candidates}
    for done in range(rounds):
        if done >= 2 and budget_s is not None and time.perf_counter() - begin > budget_s:
            break
        for name in list(candidates) if done % 2 == 0 else reversed(list(candidates)):
            wall_s, cpu_s = _sample(candidates[name], inner, wait)
            walls[name].append(wall_s)
            cpus[name].append(cpu_s)
    return {name: timing(walls[name], cpus[name]) for name in candidates}


def timing(samples_s: list[float], cpu_samples_s: list[float]) -> Timing:
    """Return the Timing of samples that were taken elsewhere, such as whole epochs or child processes."""
    low, high = _quartiles(samples_s)
    return Timing(median_s=statistics.median(samples_s), low_s=low, high_s=high, cpu_s=statistics.median(cpu_samples_s), samples_s=tuple(samples_s))


def ratio(a: Timing, b: Timing) -> Ratio:
    """Return how many times longer `a` took than `b`: the ratio of each round, then their median. Both must be of one `in_turn`."""
    if a.n != b.n:
        raise BadValue(f"{a.n} rounds cannot be paired with {b.n}", hint="time both in one call of in_turn")
    ratios = [x / max(y, 1e-9) for x, y in zip(a.samples_s, b.samples_s, strict=True)]
    low, high = _quartiles(ratios)
    return Ratio(median=statistics.median(ratios), low=low, high=high, n=a.n)


def _sample(call: Callable[[], object], inner: int, wait: Callable[[], object]) -> tuple[float, float]:
    wait()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(inner):
        call()
    wait()
    return (time.perf_counter() - wall) / inner, (time.process_time() - cpu) / inner


def _device_wait() -> Callable[[], object]:
    torch = sys.modules.get("torch")  # this file is on the ground: it serves rooms that never import torch
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        wait: Callable[[], object] = torch.cuda.synchronize
        return wait
    return lambda: None


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _pretty(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"

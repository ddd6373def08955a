"""From timings to readings: rounds in turn within a budget, the best quarter as the rate, and smaller batches where memory ends."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from stoker.bench.readings import Reading
from stoker.measure import Timing, in_turn

_T = TypeVar("_T")
_SAMPLE_S = 0.02
"""A sample of a GPU lasts at least so long, so that starting kernels does not count."""
_MOST_INNER = 50


def waiter(device: torch.device) -> Callable[[], object]:
    """Return what waits until `device` has done all that it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def timed(candidates: Mapping[str, Callable[[], object]], device: torch.device, *, rounds: int, budget_s: float) -> dict[str, Timing]:
    """Time candidates in turn; short ones several calls at a time, so that a sample is no shorter than 20 ms."""
    wait = waiter(device)
    begin = time.perf_counter()
    for call in candidates.values():  # the first call loads kernels and tries algorithms
        call()
    least_s = min(_once(call, wait) for call in candidates.values())
    inner = min(_MOST_INNER, max(1, math.ceil(_SAMPLE_S / max(least_s, 1e-6))))
    left_s = budget_s - (time.perf_counter() - begin)
    return in_turn(candidates, rounds=rounds, inner=inner, warmup=0, budget_s=left_s, synchronise=wait)


def rated(reading: Reading, timing: Timing, amount: float) -> Reading:
    """Return the reading with `amount` (in its unit times seconds) over the times: the best quarter, the spread, the rounds."""
    return replace(reading, value=amount / timing.low_s, low=amount / timing.high_s, high=amount / min(timing.samples_s), n=timing.n)


def fitting(batch: int, least: int, attempt: Callable[[int], _T], device: torch.device) -> tuple[int, _T]:
    """Call `attempt(batch)`, with half the batch as often as memory runs out; return the batch that fitted and the result.

    Raises MemoryError when not even `least` fits.
    """
    while True:
        try:
            return batch, attempt(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if batch // 2 < least:
                raise MemoryError(f"not even a batch of {batch} fits into the memory of {device}") from error
        free_memory(device)
        batch //= 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised for want of memory, on the GPU or the host."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _once(call: Callable[[], object], wait: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start

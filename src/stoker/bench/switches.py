"""torch's global switches: set for one measurement, and afterwards as they were."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

_PLACES: tuple[tuple[Any, str], ...] = (
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
)


@contextlib.contextmanager
def kept_switches() -> Iterator[None]:
    """Put TF32, cudnn.benchmark, the number of threads and the random streams back at the end, whatever happens in between."""
    found = [(place, name, _read(place, name)) for place, name in _PLACES]
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    gpu_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for place, name, value in found:
            if value is not None:
                _write(place, name, value)
        torch.set_num_threads(threads)
        torch.set_rng_state(random)
        if gpu_random:
            torch.cuda.set_rng_state_all(gpu_random)


def set_tf32(on: bool) -> None:
    """Allow or forbid that products of float32 are rounded to 10 bits of mantissa first. Matters on a GPU only."""
    _write(torch.backends.cuda.matmul, "allow_tf32", on)
    _write(torch.backends.cudnn, "allow_tf32", on)


def _read(place: Any, name: str) -> bool | None:
    """Return a switch; None when torch refuses to say (2.9 and later do when the new and the old names were mixed)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(getattr(place, name))
        except RuntimeError:
            return None


def _write(place: Any, name: str, value: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(place, name, value)

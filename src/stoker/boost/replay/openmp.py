"""OpenMP threads of one thread of ours: how many PyTorch's operations use there, without a change for anybody else."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_NAMES = ("libgomp", "libiomp", "libomp")
_PROBE = 3


def quiet_thread() -> None:
    """Let PyTorch's operations in the calling thread use this one thread only; every thread that feeds calls it first.

    `torch.set_num_threads` would not do: it also sets what threads begun later start with, and MKL's number for the whole process. OpenMP's own
    number belongs to the calling thread. PyTorch sets it from the process's number at a thread's first operation (`lazy_init_num_threads` in
    aten/src/ATen/ParallelOpenMP.cpp), so it is asked once before. Does nothing where the library is not found.
    """
    set_threads(1)


def prepare() -> None:
    """Find the library now, for which a thread may have to be tried: where that thread would be seen it must not be later."""
    _setter()


def set_threads(count: int) -> int:
    """Set how many threads PyTorch's operations use in the calling thread; return how many it was before."""
    before = torch.get_num_threads()
    setter = _setter()
    if setter is not None and before != count:
        setter(count)
    return before


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch's operations in the calling thread use `count` threads inside: sums are split among them, and their bits hang on it."""
    before = set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def _setter() -> Callable[[int], None] | None:
    found = library()
    return None if found is None else found.omp_set_num_threads


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the OpenMP library that PyTorch uses; there may be several in a process. None: not found."""
    for path in _libraries():
        try:
            found = ctypes.CDLL(path)
            setter = found.omp_set_num_threads
        except (OSError, AttributeError):
            continue
        setter.argtypes, setter.restype = (ctypes.c_int,), None
        if _works(setter):
            return found
    return None


def _libraries() -> list[str]:
    """Return the OpenMP libraries that are loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if "/" in line)
    return [path for path in paths if Path(path).name.startswith(_NAMES)]


def _works(setter: Callable[[int], None]) -> bool:
    """Return whether `setter` changes what PyTorch sees: tried in a thread that ends then, so that nobody else is touched."""
    seen: list[int] = []

    def attempt() -> None:
        torch.get_num_threads()
        setter(_PROBE)
        seen.append(torch.get_num_threads())
        setter(_PROBE + 1)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return seen == [_PROBE, _PROBE + 1]

"""The part `allocator`: big tensors on the CPU come from the heap again and again, and not each one from fresh pages of the system.

glibc maps every block above its threshold (32 MB at most) anew and unmaps it when it is freed: a batch of 38 MB then costs 9,400 page faults.
Measured (glibc 2.36, 1 thread, 2-core machine shared with others, so for orientation): plain DataLoader with num_workers=0 and batches of 38 MB,
19.6 ms a batch before, 1.0 after; a small CNN's training step on the CPU 34 ms before (2,400 faults), 29 after (0); blocks of 400 bytes and of
400 kB the same before and after; peak memory of 3,000 blocks of 1 to 60 MB (300 MB of them alive) within 3 % of what it was.
"""

from __future__ import annotations

import ctypes
import os

from stoker.boost.notes import NOTES, Note, Outcome
from stoker.boost.session import Session
from stoker.host import find_limits

# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BYTES = (1 << 31) - 1
"""mallopt takes an int. Older glibcs refuse everything above 32 MB (half of HEAP_MAX_SIZE, malloc.c): there is nothing to gain there."""
_SHARE = 8
"""At most an eighth of the memory is kept at the top of the heap when it is free: it goes to the next batch, but no other process gets it."""
_GLIBC_MMAP_BYTES, _GLIBC_TRIM_BYTES = 32 << 20, 64 << 20
"""What glibc's own thresholds grow to once blocks of this size have been freed (mallopt(3)); they cannot be made to grow again by themselves."""

_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def apply(session: Session) -> None:
    """Raise the thresholds of glibc's malloc in this process, unless somebody has set them or brought another malloc."""
    reason = _unfit()
    if reason is not None:
        _note("declined", reason)
        return
    libc = ctypes.CDLL(None)
    limits = find_limits()
    memory_bytes = limits.memory_limit_bytes or limits.memory_total_bytes or 0
    keep_bytes = min(_LARGEST_BYTES, max(_GLIBC_TRIM_BYTES, memory_bytes // _SHARE))
    if not libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES):
        _note("declined", "this glibc does not take blocks of more than 32 MB from the heap")
        return
    session.at_off(lambda: _undo(libc))
    libc.mallopt(_M_TRIM_THRESHOLD, keep_bytes)
    _note("applied", f"big blocks come from the heap; up to {keep_bytes / 1e6:,.0f} MB that are free at its top stay with the process")


def _unfit() -> str | None:
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        version = None
    if not version:
        return "the C library is not glibc"
    if any(name in os.environ for name in _VARIABLES) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return "the environment sets malloc's thresholds already"
    if "malloc" in os.environ.get("LD_PRELOAD", ""):
        return f"another malloc is loaded: LD_PRELOAD={os.environ['LD_PRELOAD']}"
    return None


def _undo(libc: ctypes.CDLL) -> None:
    libc.mallopt(_M_MMAP_THRESHOLD, _GLIBC_MMAP_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _GLIBC_TRIM_BYTES)
    libc.malloc_trim(0)


def _note(outcome: Outcome, why: str) -> None:
    NOTES.add(Note(kind="process", part="allocator", what="malloc", where="", outcome=outcome, why=why))

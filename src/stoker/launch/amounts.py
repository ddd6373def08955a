"""Amounts as people write them (`8g`, `90%`, `none`), and how much shared memory a training wants."""

from __future__ import annotations

import math
import re

from stoker.doctor.sizes import loader_shm_bytes, size
from stoker.errors import BadValue, LimitRefused

MEMORY_SHARE = 0.9
"""Of the memory that there is: the machine itself needs the rest."""
SMALLEST_MEMORY_BYTES = 64 * 2**20
"""Below this not even Python with a package or two starts."""

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_AMOUNT = r"(?ia)(\d{1,18}(?:\.\d{1,6})?)\s*([bkmgt]?)(?:i?b)?"
_PERCENT = r"(?a)(\d{1,3}(?:\.\d{1,3})?)\s*%"
_MEBIBYTE, _GIBIBYTE = 2**20, 2**30
_BATCH = 64
"""Images for which the doctor's formula stands."""
_WORKERS_A_GPU = 8
_SHM_STEP_BYTES = _GIBIBYTE // 4
_SHM_FLOOR_BYTES = _GIBIBYTE
"""Also for one worker: it is a bound, taken from the memory only as far as it is used, and NCCL and other programs use some as well."""


def read_bytes(text: str, *, of: str) -> int:
    """Read `512m`, `8g`, `8GiB`, `1.5g` or a plain number of bytes; k, m, g and t are powers of 1024, as the engines take them.

    `of` names the option in the error. Raises BadValue.
    """
    match = re.fullmatch(_AMOUNT, text.strip())
    if match is None:
        raise BadValue(f"{of} {text}: not an amount of memory", hint="write a number with k, m, g or t, as 512m or 8g")
    return int(float(match[1]) * _UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * _UNITS[match[2].lower()]


def read_memory(text: str, total_bytes: int) -> int | None:
    """Read `--memory`: an amount, a share (`90%`) of what there is, or `none` (None: no limit). Raises BadValue, LimitRefused."""
    word = text.strip().lower()
    if word == "none":
        return None
    if percent := re.fullmatch(_PERCENT, word):
        share = float(percent[1]) / 100
        if not 0 < share <= 1:
            raise BadValue(f"--memory {text}: a share is above 0 and at most 100 %", hint="as 90%")
        found = int(total_bytes * share) // _MEBIBYTE * _MEBIBYTE
    else:
        found = read_bytes(word, of="--memory")
    if found > total_bytes:
        raise LimitRefused(
            f"--memory {text}: this machine has {size(total_bytes)}",
            hint="a limit above that would limit nothing: give less, a share (`--memory 90%`), or say `--memory none`",
        )
    if found < SMALLEST_MEMORY_BYTES:
        raise LimitRefused(
            f"--memory {text}: no Python starts in {size(found)}", hint="did you mean megabytes or gigabytes? write them as 512m or 8g"
        )
    return found


def default_memory(total_bytes: int) -> int:
    """Return the limit where none was asked for: most of the memory, so that the machine itself goes on when a training takes too much."""
    return int(total_bytes * MEMORY_SHARE) // _MEBIBYTE * _MEBIBYTE


def read_cpus(text: str, total: int) -> float | None:
    """Read `--cpus`: a number of cores up to `total`, or `all` (None: no limit). Raises BadValue, LimitRefused."""
    word = text.strip().lower()
    if word == "all":
        return None
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not found > 0 or math.isinf(found):
        raise BadValue(f"--cpus {text}: not a number of cores", hint="write a number, as 4 or 1.5, or `all`")
    if found > total:
        raise LimitRefused(f"--cpus {text}: there are {total} here", hint=f"give {total} or less, or `all`")
    if found < 0.01:
        raise LimitRefused(f"--cpus {text}: engines take no less than 0.01", hint="give at least 0.01")
    return found


def read_shm(text: str, memory_bytes: int) -> int:
    """Read `--shm SIZE`. What is written there is memory in use, so it cannot be larger than that. Raises BadValue, LimitRefused."""
    found = read_bytes(text, of="--shm")
    if not _MEBIBYTE <= found <= memory_bytes:
        raise LimitRefused(
            f"--shm {text}: it can be from 1 MiB to the memory that the container has, {size(memory_bytes)}",
            hint="give less, or `auto`, which computes it from --batch and --workers",
        )
    return found


def shm_bytes(memory_bytes: int, *, batch: int | None = None, workers: int | None = None, cores: int = 4, gpus: int = 0) -> int:
    """Return the size of /dev/shm that the DataLoader's workers want, at most half of the memory.

    The doctor's formula: batch x (prefetch factor x workers + 1), in float32 images of 3x224x224. Where they are not given: 64 images; and the
    workers of a training on the whole machine, one a core and at most 8 a GPU. Given, they are those of one process, of which there is one a GPU.
    """
    processes = max(1, gpus)
    most = workers * processes if workers is not None else min(cores, _WORKERS_A_GPU * processes)
    need = math.ceil(loader_shm_bytes(max(1, most)) * (batch or _BATCH) / _BATCH)
    wanted = max(_SHM_FLOOR_BYTES, math.ceil(need / _SHM_STEP_BYTES) * _SHM_STEP_BYTES)
    return min(wanted, memory_bytes // 2 // _MEBIBYTE * _MEBIBYTE)


def written(count_bytes: int) -> str:
    """Return an amount as both engines take it, exact: `8g`, `1536m`, `100k`, `999b`."""
    for unit in ("g", "m", "k"):
        if count_bytes and count_bytes % _UNITS[unit] == 0:
            return f"{count_bytes // _UNITS[unit]}{unit}"
    return f"{count_bytes}b"

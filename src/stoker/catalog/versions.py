"""Version numbers as people, wheels and drivers write them."""

from __future__ import annotations

import functools
import re

from stoker.errors import BadValue

_LEADING = re.compile(r"\s*v?(\d+(?:\.\d+)*)")
_TORCH = re.compile(r"v?(\d{1,3}(?:\.\d{1,3}){1,2})(?:\+(\w+))?")
_CUDA = re.compile(r"(?:cuda)?[ -]?(\d{1,2}\.\d{1,2})(?:\.\d{1,3})?|cu(\d{2})(\d{1,2})|cpu")
_PYTHON = re.compile(r"(?:python|cp)?(\d)\.?(\d{1,2})(?:\.\d{1,3})?(t?)")
_DRIVER = re.compile(r"[Rr]?(\d{3,4}(?:\.\d{1,4}){0,2})")


@functools.lru_cache(maxsize=1024)
def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version, as (2, 8, 0) of `2.8.0+cu128`; they compare by size. Raises BadValue when there are none."""
    found = _LEADING.match(text)
    if not found:
        raise BadValue(f"{text!r} is no version", hint="a version begins with a number, as 2.8.0 or 580.95.05")
    return tuple(int(part) for part in found[1].split("."))


def torch_version(text: str) -> tuple[str, str | None]:
    """Return `2.8.0+cu128` as ("2.8.0", "cu128"), `2.8` as ("2.8", None). Raises BadValue."""
    found = _TORCH.fullmatch(text.strip())
    if not found:
        raise BadValue(f"{text!r} is no PyTorch version", hint="write it as 2.8 or 2.8.0")
    return found[1], found[2]


def cuda_version(text: str) -> str:
    """Return `12.1`, `12.1.105`, `cu121` and `CUDA 12.1` as "12.1", `cpu` as "cpu". Raises BadValue."""
    lowered = text.strip().lower()
    found = _CUDA.fullmatch(lowered)
    if not found:
        raise BadValue(f"{text!r} is no CUDA version", hint="write it as 12.8 or cu128; cpu for a build without CUDA")
    if found[1]:
        major, minor = found[1].split(".")
        return f"{int(major)}.{int(minor)}"
    return f"{int(found[2])}.{int(found[3])}" if found[2] else "cpu"


def python_version(text: str) -> str:
    """Return `3.12`, `3.12.1`, `python3.12` and `cp312` as "3.12", `3.13t` as "3.13t". Raises BadValue."""
    found = _PYTHON.fullmatch(text.strip().lower())
    if not found:
        raise BadValue(f"{text!r} is no Python version", hint="write it as 3.12; 3.13t for the free-threaded build")
    return f"{int(found[1])}.{int(found[2])}{found[3]}"


def driver_version(text: str) -> str:
    """Return a driver's version as it is: `550.54.14`, `550.54` or the branch `550`. Raises BadValue."""
    found = _DRIVER.fullmatch(text.strip())
    if not found:
        raise BadValue(f"{text!r} is no NVIDIA driver version", hint="write it as `nvidia-smi` shows it: 550.54.14")
    return found[1]


@functools.lru_cache(maxsize=4096)
def older(version: str, floor: str) -> bool:
    """Whether a driver is older than a floor. What a short version leaves open speaks for it: 570 is not older than 570.26."""
    have, want = version_numbers(version), version_numbers(floor)
    return have < want[: len(have)]


def dotted(pair: tuple[int, int]) -> str:
    """Return (8, 6) as "8.6"."""
    return f"{pair[0]}.{pair[1]}"

"""GPU architectures: which machine code runs on which compute capability, and which CUDA and driver know it."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from stoker.catalog.tables import Row, rows
from stoker.catalog.versions import dotted
from stoker.errors import BadValue

_CODE = re.compile(r"(?:sm_|compute_)?(\d{1,2})(\d)([af]?)")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What NVIDIA says about one compute capability."""

    capability: tuple[int, int]
    name: str
    """As `Hopper`."""
    tegra: bool
    """A Jetson of the line with its own binaries: no code for another compute capability runs on it."""
    cuda_first: str | None
    """The first CUDA that can build for it: an older driver does not know the GPU."""
    cuda_last: str | None
    """The last CUDA that can build for it; None: still built for."""
    driver_last: int | None
    """The last driver branch that runs it; None: newer ones do."""
    evidence: str
    source: str
    checked: datetime.date


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a wheel's code runs on a GPU."""

    runs: bool
    by: str | None
    """`binary`; `ptx`: the driver must translate it, which takes minutes at the first start and a driver as new as the wheel's CUDA."""
    code: str | None
    """The code that runs, as `sm_86` or `compute_90`."""
    why: str


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """Return all known compute capabilities, oldest first. Raises BadValue when the table is broken."""
    return tuple(sorted((_architecture(row) for row in rows("gpus.toml", "architecture")), key=lambda one: one.capability))


@functools.lru_cache(maxsize=256)
def find_architecture(capability: tuple[int, int]) -> Architecture | None:
    """Return what is known about a compute capability, or None."""
    return next((one for one in architectures() if one.capability == capability), None)


def code_runs(codes: Iterable[str], ptx: bool | None, capability: tuple[int, int]) -> Verdict:
    """Say whether a wheel with machine code for `codes` (as "86", "90a") runs on a GPU of `capability`.

    Code for X.y runs on X.z with z >= y. `90a` runs on 9.0 only, `100f` on the family from 10.0. `ptx` says whether the wheel also
    holds PTX of its newest plain code; None (not known) counts as no. Jetson GPUs of the Tegra line run only their own code.
    Source: CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility". Raises BadValue for a code that is none.
    """
    known = [_parsed(code) for code in codes]
    architecture = find_architecture(capability)
    exact = architecture is not None and architecture.tegra
    shown = dotted(capability)
    fitting = [one for one in known if _binary_fits(one, capability, exact)]
    if fitting:
        best = max(fitting)
        return Verdict(runs=True, by="binary", code=_name(best), why=f"its code {_name(best)} runs on {shown}")
    plain = [one for one in known if not one[2]]
    if ptx and plain and max(plain)[:2] <= capability:
        code = "compute_" + _name(max(plain))[3:]
        return Verdict(runs=True, by="ptx", code=code, why=f"no machine code for {shown}; the driver must translate its {code}")
    listed = ", ".join(dotted((major, minor)) + suffix for major, minor, suffix in sorted(known)) or "no GPU at all"
    translated = "no PTX that a driver could translate" if not ptx else "its PTX is newer than the GPU"
    return Verdict(runs=False, by=None, code=None, why=f"it holds code for {listed}, none for {shown}, and {translated}")


def _architecture(row: Row) -> Architecture:
    one = Architecture(
        capability=row.pair("capability"),
        name=row.text("name"),
        tegra=row.flag("tegra"),
        cuda_first=row.maybe_version("cuda_first"),
        cuda_last=row.maybe_version("cuda_last"),
        driver_last=row.maybe_whole("driver_last"),
        evidence=row.evidence(),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return one


@functools.lru_cache(maxsize=256)
def _parsed(code: str) -> tuple[int, int, str]:
    found = _CODE.fullmatch(code)
    if not found:
        raise BadValue(f"{code!r} is no GPU architecture", hint="write it as 86, sm_86 or 90a")
    return int(found[1]), int(found[2]), found[3]


def _binary_fits(code: tuple[int, int, str], capability: tuple[int, int], exact: bool) -> bool:
    major, minor, suffix = code
    if exact or suffix == "a":
        return (major, minor) == capability
    return major == capability[0] and minor <= capability[1]


def _name(code: tuple[int, int, str]) -> str:
    return f"sm_{code[0]}{code[1]}{code[2]}"

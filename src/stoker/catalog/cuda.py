"""CUDA versions and the NVIDIA drivers they need: the oldest that runs them, and the one that shipped with each update."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass

from stoker.catalog.tables import Row, rows
from stoker.catalog.versions import cuda_version, version_numbers
from stoker.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class CudaVersion:
    """One CUDA, as 12.8."""

    version: str
    driver_min: str
    """The oldest Linux driver that runs it (minor-version compatibility): no translation of its PTX, newest driver functions missing."""
    driver_full: str
    """The Linux driver that shipped with its first release: from here on nothing is missing."""
    updates: tuple[str, ...]
    """The driver that shipped with each release of it: index 0 with 12.8.0, index 1 with update 1 (12.8.1), ..."""
    capability_min: tuple[int, int] | None
    """The oldest compute capability it can build for; None: not known."""
    capability_max: tuple[int, int] | None
    """The newest one."""
    evidence: str
    source: str
    checked: datetime.date

    @property
    def major(self) -> int:
        """12 of 12.8."""
        return version_numbers(self.version)[0]


@dataclass(frozen=True, kw_only=True)
class DriverBranch:
    """A series of drivers, as 580."""

    branch: int
    cuda: str
    """What nvidia-smi shows as "CUDA Version": the newest that it runs fully, not an installed toolkit."""
    end_of_life: datetime.date | None
    """The first day of the month in which NVIDIA stops maintaining it; None: not known."""
    long_term: bool
    """A long-term support branch."""
    evidence: str
    source: str
    checked: datetime.date


@functools.cache
def cuda_versions() -> tuple[CudaVersion, ...]:
    """Return all known CUDA versions, newest first. Raises BadValue when the table is broken."""
    return tuple(sorted((_cuda(row) for row in rows("cuda.toml", "cuda")), key=lambda one: version_numbers(one.version), reverse=True))


@functools.lru_cache(maxsize=256)
def find_cuda(version: str) -> CudaVersion | None:
    """Return the facts about `12.8`, `12.8.1`, `cu128`; None when there is no such CUDA. Raises BadValue when it is no version."""
    wanted = cuda_version(version)
    return next((one for one in cuda_versions() if one.version == wanted), None)


@functools.cache
def driver_branches() -> tuple[DriverBranch, ...]:
    """Return all known driver branches, newest first. Raises BadValue when the table is broken."""
    return tuple(sorted((_branch(row) for row in rows("cuda.toml", "branch")), key=lambda one: one.branch, reverse=True))


@functools.lru_cache(maxsize=256)
def find_branch(driver: str) -> DriverBranch | None:
    """Return the branch of a driver as 580.95.05, or None when it is not in the table."""
    number = version_numbers(driver)[0]
    return next((one for one in driver_branches() if one.branch == number), None)


def _cuda(row: Row) -> CudaVersion:
    updates = row.texts("updates")
    if not updates:
        raise BadValue("cuda.toml: a row of [[cuda]] lists no driver in 'updates'", hint="the first is the driver of the first release")
    one = CudaVersion(
        version=row.version("version"),
        driver_min=row.version("driver_min"),
        driver_full=updates[0],
        updates=updates,
        capability_min=row.maybe_pair("capability_min"),
        capability_max=row.maybe_pair("capability_max"),
        evidence=row.evidence(),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return one


def _branch(row: Row) -> DriverBranch:
    number = row.maybe_whole("branch")
    if number is None:
        raise BadValue("cuda.toml: a row of [[branch]] lacks the field 'branch'", hint="it is the first number of the driver's version")
    one = DriverBranch(
        branch=number,
        cuda=row.version("cuda"),
        end_of_life=row.maybe_date("end_of_life"),
        long_term=row.flag("long_term"),
        evidence=row.evidence(),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return one

"""What each variant needs of Debian and of the Python index, and why: the table `packages.toml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from stoker.catalog.tables import Row, rows


@dataclass(frozen=True, kw_only=True)
class Need:
    """A package that a variant needs."""

    archive: str
    """`debian` or `pypi`."""
    variant: str
    name: str
    """A Debian package, or a requirement as PEP 508 says; `{python}` was filled in."""
    why: str
    """What would not work without it."""
    suites: tuple[str, ...]
    """The Debian suites that have it under this name; empty: all."""


def debian_packages(suite: str, variant: str) -> tuple[str, ...]:
    """Return the Debian packages that a variant needs beside those of `cli`, sorted; for `cli` without what Debian calls essential."""
    return tuple(sorted(need.name for need in needs() if need.archive == "debian" and need.variant == variant and suite in (need.suites or (suite,))))


def python_packages(variant: str) -> tuple[str, ...]:
    """Return the requirements of a variant as PEP 508 says, sorted."""
    return tuple(sorted(need.name for need in needs() if need.archive == "pypi" and need.variant == variant))


@functools.lru_cache(maxsize=1)
def needs() -> tuple[Need, ...]:
    """Return the whole table. Raises BadValue when it is broken."""
    folder = Path(__file__).parent
    return tuple(_need(row, archive) for archive in ("debian", "pypi") for row in rows("packages.toml", archive, folder))


def _need(row: Row, archive: str) -> Need:
    need = Need(archive=archive, variant=row.text("variant"), name=row.text("name"), why=row.text("why"), suites=row.texts("suites"))
    row.end()
    return need

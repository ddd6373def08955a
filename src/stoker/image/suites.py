"""How long each Debian suite gets security fixes: the table `suites.toml`."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass
from pathlib import Path

from stoker.catalog.tables import rows


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One release of Debian."""

    name: str
    """As `trixie`."""
    released: datetime.date
    security_end: datetime.date
    """Until then Debian's security team mends it."""
    long_term_end: datetime.date
    """Until then the LTS team mends most of it."""
    source: str
    checked: datetime.date


@functools.lru_cache(maxsize=1)
def suites() -> tuple[Suite, ...]:
    """Return the suites that Stoker knows. Raises BadValue when the table is broken."""
    found = []
    for row in rows("suites.toml", "suite", Path(__file__).parent):
        found.append(
            Suite(
                name=row.text("name"),
                released=row.date("released"),
                security_end=row.date("security_end"),
                long_term_end=row.date("long_term_end"),
                source=row.text("source"),
                checked=row.date("checked"),
            )
        )
        row.end()
    return tuple(found)


def find_suite(name: str | None) -> Suite | None:
    """Return the suite of that name; None when Stoker knows none."""
    return next((suite for suite in suites() if suite.name == name), None)

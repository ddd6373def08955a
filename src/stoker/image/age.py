"""`stoker image age`: how old an image's packages are, and whether a rebuild is due."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stoker.catalog import torch_releases, version_numbers
from stoker.image.lock import Lock, LockedStack
from stoker.image.suites import find_suite
from stoker.image.vulnerability import Vulnerability

MOST_DAYS = 30
"""After so many days a new lock is due whatever is known: Debian's point releases come every two months, its security fixes every week."""
_WARN_DAYS = 90
"""How long before the end of a suite's fixes one should begin to move."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a rebuild is due, or soon will be."""

    due: bool
    """Whether it is due now; else it is only worth knowing."""
    what: str
    fix: str
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class Age:
    """How old an image is, and what follows."""

    lock: str
    """Digest of the lock."""
    locked: datetime.date
    days: int
    reasons: tuple[Reason, ...]

    @property
    def due(self) -> bool:
        """Whether a rebuild is due."""
        return any(reason.due for reason in self.reasons)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "due": self.due}


def age(lock: Lock, *, today: datetime.date, most_days: int = MOST_DAYS, pending: Sequence[Vulnerability] = ()) -> Age:
    """Return how old a lock is and why a rebuild is due, if it is; `pending` are the fixes that a scan found."""
    locked = datetime.datetime.fromtimestamp(lock.created, datetime.timezone.utc).date()
    days = (today - locked).days
    reasons = [
        *_of_days(days, most_days),
        *_of_fixes(pending),
        *_of_suite(lock, today),
        *(reason for stack in lock.stacks for reason in _of_torch(stack)),
    ]
    return Age(lock=lock.digest, locked=locked, days=days, reasons=tuple(sorted(reasons, key=lambda reason: not reason.due)))


def _of_days(days: int, most: int) -> list[Reason]:
    if days < 0:
        return [Reason(due=False, what="the clock of this machine, or that of the one that made the lock, is wrong", fix="set it; then ask again")]
    if days <= most:
        return []
    return [
        Reason(due=True, what=f"its packages were chosen {days} days ago, more than {most}", fix="stoker image lock --upgrade && stoker image build")
    ]


def _of_fixes(pending: Sequence[Vulnerability]) -> list[Reason]:
    mended = [one for one in pending if one.fixed]
    if not mended:
        return []
    names = sorted({one.package for one in mended})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    upgrades = " ".join(f"--upgrade {name}" for name in names) if len(names) <= 5 else "--upgrade"
    return [
        Reason(due=True, what=f"fixes are out for {len(names)} of its packages: {shown}", fix=f"stoker image lock {upgrades} && stoker image build")
    ]


def _of_suite(lock: Lock, today: datetime.date) -> list[Reason]:
    suite = find_suite(lock.base.suite)
    if suite is None:
        return []
    newer = "take a newer Python in stoker.toml: it brings a newer Debian"
    if today > suite.long_term_end:
        return [Reason(due=True, what=f"Debian {suite.name} gets no security fixes since {suite.long_term_end} ({suite.source})", fix=newer)]
    if today > suite.security_end:
        what = f"Debian {suite.name} is in long-term support since {suite.security_end}: fixes come later, and not for every package ({suite.source})"
        return [Reason(due=False, what=what, fix=newer)]
    if (suite.security_end - today).days <= _WARN_DAYS:
        return [Reason(due=False, what=f"Debian {suite.name} gets full security support until {suite.security_end} ({suite.source})", fix=newer)]
    return []


def _of_torch(stack: LockedStack) -> list[Reason]:
    """A newer patch release mends errors and changes nothing else; a newer PyTorch is another thing, and no reason to rebuild."""
    if stack.torch is None:
        return []
    here = version_numbers(stack.torch)
    newest = max((release for release in torch_releases() if version_numbers(release.version)[:2] == here[:2]), key=_numbers, default=None)
    if newest is None or version_numbers(newest.version) <= here:
        return []
    what = f"PyTorch {newest.version} mends errors of {stack.torch} (stack {stack.name}; released {newest.date})"
    return [Reason(due=True, what=what, fix=f'torch = "{newest.version}" in stoker.toml, then stoker image lock && stoker image build')]


def _numbers(release: Any) -> tuple[int, ...]:
    return version_numbers(release.version)

"""What can fail a start, looked at before it: every finding with what was seen, what it would lead to and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stoker.doctor.finding import Finding, Severity
from stoker.launch.checks import engine, gpus, image, mounts, room
from stoker.launch.checks.gathering import Before, gather
from stoker.launch.request import Request
from stoker.launch.site import Site

CHECKS: tuple[Callable[[Before], Iterable[Finding]], ...] = (*engine.CHECKS, *image.CHECKS, *gpus.CHECKS, *mounts.CHECKS, *room.CHECKS)
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


def before(request: Request, site: Site) -> tuple[Finding, ...]:
    """Look at everything that the start needs and return what is wrong, errors first. Takes well under a second; raises nothing."""
    return judge(gather(request, site))


def judge(facts: Before) -> tuple[Finding, ...]:
    """Return what is wrong with these facts, errors first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))

"""Fixes that the doctor may run itself: what they are, what came of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from stoker import shell
from stoker.doctor.examination import Examination

_LIMIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Mending:
    """One command that repairs one finding."""

    id: str
    """Of the finding."""
    what: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """Return the command as one would type it."""
        return shlex.join(self.arguments)


def plan(examination: Examination) -> tuple[Mending, ...]:
    """Return the safe fixes of what was found, each command once."""
    planned: dict[tuple[str, ...], Mending] = {}
    for entry, finding in examination.findings:
        if finding.safe_fix:
            planned.setdefault(finding.safe_fix, Mending(id=entry.id, what=finding.what, arguments=finding.safe_fix))
    return tuple(planned.values())


def mend(mending: Mending) -> shell.Outcome:
    """Run one fix."""
    return shell.run(list(mending.arguments), timeout_s=_LIMIT_S)

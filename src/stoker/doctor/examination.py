"""The verdict of every check on the facts of a machine."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from typing import Any

from stoker.doctor.checks import CHECKS
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity, Skipped, check_id

_FAILED = "the check itself failed"
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one check said."""

    id: str
    title: str
    """The first line of the check's docstring."""
    outcome: Outcome

    @property
    def link(self) -> str:
        """Return where the finding is explained."""
        return f"docs/findings.md#{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: `outcome` is found, passed or skipped; a finding has all its fields beside its id and link."""
        kind = {Finding: "found", Passed: "passed", Skipped: "skipped"}[type(self.outcome)]
        own = {"outcome": kind, "id": self.id} | asdict(self.outcome)
        return own | ({"title": self.title, "link": self.link} if kind == "found" else {})


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What all checks said about one machine."""

    facts: Facts
    judged: tuple[Judged, ...]

    @property
    def findings(self) -> tuple[tuple[Judged, Finding], ...]:
        """Return what was found, the worst first; among equals the cause before its consequence."""
        found = [(entry, entry.outcome) for entry in self.judged if isinstance(entry.outcome, Finding)]
        return tuple(sorted(found, key=lambda pair: _ORDER[pair[1].severity]))

    @property
    def failed(self) -> tuple[Judged, ...]:
        """Return the checks that failed themselves, which is a bug of Stoker's."""
        return tuple(entry for entry in self.judged if isinstance(entry.outcome, Skipped) and entry.outcome.reason.startswith(_FAILED))

    @property
    def status(self) -> int:
        """Return the exit status: 0 nothing but notes, 1 a warning, 2 an error."""
        severities = {finding.severity for _, finding in self.findings}
        return 2 if Severity.ERROR in severities else 1 if Severity.WARNING in severities else 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the findings, then what passed and what was skipped, then the facts."""
        others = [entry.as_dict() for entry in self.judged if not isinstance(entry.outcome, Finding)]
        return {"status": self.status, "findings": [entry.as_dict() for entry, _ in self.findings], "others": others, "facts": asdict(self.facts)}


def examine(facts: Facts, checks: tuple[Check, ...] = CHECKS) -> Examination:
    """Let every check judge the facts. A check that fails itself says so as skipped: the others are still worth having."""
    return Examination(facts=facts, judged=tuple(_judged(check, facts) for check in checks))


def title_of(check: Check) -> str:
    """Return the first line of a check's docstring."""
    return (inspect.getdoc(check) or "").partition("\n")[0]


def _judged(check: Check, facts: Facts) -> Judged:
    try:
        outcome = check(facts)
    except Exception as error:  # odd facts of a machine nobody foresaw
        outcome = Skipped(reason=f"{_FAILED}: {type(error).__name__}: {error}")
    return Judged(id=check_id(check), title=title_of(check), outcome=outcome)

"""Whether the doctor could look at all."""

from __future__ import annotations

from stoker.doctor.facts import Facts
from stoker.doctor.finding import Check, Finding, Outcome, Passed, Severity


def facts_unread(facts: Facts) -> Outcome:
    """A part of the machine could not be looked at.

    Reading it failed or took longer than its time limit: a network disk whose server is gone, a driver that hangs in the kernel, a `/proc` that is
    hidden. The checks that need it were skipped, so the rest of the report says nothing about it.
    """
    if not facts.unread:
        return Passed(what="everything that is looked at could be read")
    return Finding(
        severity=Severity.WARNING,
        what=f"could not be looked at: {', '.join(sorted(facts.unread))}",
        evidence=tuple(f"{name}: {text}" for name, text in sorted(facts.unread.items())),
        consequence="what is wrong there is not in this report",
        fix="ps -eo pid,stat,wchan:32,args | awk '$2 ~ /D/'   # what hangs in the kernel; then run stoker doctor again",
    )


CHECKS: tuple[Check, ...] = (facts_unread,)

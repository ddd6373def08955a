"""Why a machine does not train, or not at full speed: facts gathered, checks that judge them, findings with their fix."""

from __future__ import annotations

from stoker.doctor.chain import why_cuda
from stoker.doctor.examination import Examination, Judged, examine
from stoker.doctor.facts import Facts
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped
from stoker.doctor.gathering import Scope, gather
from stoker.doctor.written import read_facts, write_facts

__all__ = [
    "Examination",
    "Facts",
    "Finding",
    "Judged",
    "Outcome",
    "Passed",
    "Scope",
    "Severity",
    "Skipped",
    "examine",
    "gather",
    "read_facts",
    "why_cuda",
    "write_facts",
]

"""Why a machine does not train, or not at full speed: facts gathered, checks that judge them, findings with their fix."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

if TYPE_CHECKING:
    from stoker.doctor.chain import why_cuda
    from stoker.doctor.examination import Examination, Judged, examine
    from stoker.doctor.facts import Facts
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
# All checks and facts take 0.15 s to import, and `stoker run` needs no more of them than the type of a finding.
_LATE = {
    "why_cuda": "chain",
    "Examination": "examination",
    "Judged": "examination",
    "examine": "examination",
    "Facts": "facts",
    "Scope": "gathering",
    "gather": "gathering",
    "read_facts": "written",
    "write_facts": "written",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)

"""What a check says: a finding with its evidence and its fix, that all is well, or that it could not look."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.doctor.facts import Facts


class Severity(str, enum.Enum):
    """How much a finding matters."""

    ERROR = "error"
    """Something does not work, or will not."""
    WARNING = "warning"
    """It works, but slower or less safely than this machine could."""
    NOTE = "note"
    """Worth knowing; does not change the exit status."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong here."""

    severity: Severity
    what: str
    """What is wrong, in one sentence that names the thing: "driver 535.129.03 is too old for torch 2.13.0 (CUDA 13.0)"."""
    evidence: tuple[str, ...]
    """The very text that was seen, with where: "/proc/driver/nvidia/version: NVRM version: ... 535.129.03 ..."."""
    consequence: str
    """What it does to a training."""
    fix: str
    """The exact command, one a line, ready to paste; where no command can do it, what to do."""
    safe_fix: tuple[str, ...] | None = None
    """The fix as program and arguments when `--fix` may run it: it touches nothing but what it repairs, and can be undone. None: by hand."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """The check looked, and all is well."""

    what: str
    """What was seen: "driver 580.95.05 runs CUDA 13.0"."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """The check does not apply here, or could not look."""

    reason: str
    """Why: "no NVIDIA GPU in this machine"."""


Outcome = Finding | Passed | Skipped
Check = Callable[["Facts"], Outcome]
"""One function a check: its name with dashes is the finding's id, its docstring the paragraph in docs/findings.md."""


def check_id(check: Check) -> str:
    """Return the id of a check: the function's name, with dashes."""
    return check.__name__.replace("_", "-")

"""The one door to other programs: shows the command, has a time limit, drains both pipes."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a program did."""

    command: str
    """As one would type it."""
    code: int | None
    """Exit status; negative: the signal that ended it; None: it did not start or ran past its time limit."""
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and said success."""
        return self.code == 0


def run(arguments: list[str], *, timeout_s: float, folder: Path | None = None) -> Outcome:
    """Run a program to its end and return what it did. A program that is missing or too slow is an Outcome, not an exception."""
    command = shlex.join(arguments)
    try:
        done = subprocess.run(arguments, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, text=True, errors="replace")
    except FileNotFoundError as error:
        return Outcome(command=command, code=None, out="", err=str(error))
    except PermissionError as error:
        return Outcome(command=command, code=None, out="", err=str(error))
    except subprocess.TimeoutExpired:
        return Outcome(command=command, code=None, out="", err=f"no answer within {timeout_s:g} s")
    return Outcome(command=command, code=done.returncode, out=done.stdout, err=done.stderr)

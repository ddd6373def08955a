"""The one door to other programs: shows the command, has a time limit, drains both pipes."""

from __future__ import annotations

import contextlib
import os
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


def find(program: str) -> str | None:
    """Return the path of a program on PATH, None where there is none. As `shutil.which`, whose module takes 4 ms of a start that asks for little."""
    for folder in os.get_exec_path():
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def run(arguments: list[str], *, timeout_s: float, folder: Path | None = None) -> Outcome:
    """Run a program to its end and return what it did. A program that is missing or too slow is an Outcome, not an exception."""
    command = shlex.join(arguments)
    try:
        process = subprocess.Popen(
            arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
    except OSError as error:  # missing, not allowed, or no program at all
        return Outcome(command=command, code=None, out="", err=str(error))
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as slow:
        return Outcome(command=command, code=None, out=_abandon(process, slow), err=f"no answer within {timeout_s:g} s")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Outcome(command=command, code=process.returncode, out=out, err=err)


def _abandon(process: subprocess.Popen[str], slow: subprocess.TimeoutExpired) -> str:
    """Kill a program and return what it had said. One that hangs in the kernel (dead driver, network disk) does not die: it is not waited for."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return slow.stdout.decode(errors="replace") if isinstance(slow.stdout, bytes) else slow.stdout or ""

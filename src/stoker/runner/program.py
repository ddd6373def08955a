"""Becomes somebody's program, with boost switched on in its environment: same process, terminal, folder, arguments, signals and exit status."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from stoker import console
from stoker.errors import ProgramMissing
from stoker.runner.interpreter import find_python, warnings

_HINT = "give the program as you would type it, after two dashes: stoker boost -- python train.py"
_NOT_GIVEN = ("STOKER_BOOST_EXPLAIN", "STOKER_BOOST_REPORT", "STOKER_BOOST_QUIET")
"""Of an outer `stoker boost`: what the inner one says holds."""


def environment(
    outer: Mapping[str, str],
    *,
    tier: str,
    off: Iterable[str] = (),
    explain: bool = False,
    report: Path | None = None,
    quiet: bool = False,
) -> dict[str, str]:
    """Return the environment that switches boost on in every Python below, as `boost.request.Request.from_environment` reads it.

    Parts that `outer` switches off stay off.
    """
    parts = {*off, *filter(None, outer.get("STOKER_BOOST_OFF", "").split(","))}
    asked = {
        "STOKER_BOOST": tier,
        "STOKER_BOOST_OFF": ",".join(sorted(parts)),
        "STOKER_BOOST_EXPLAIN": "1" if explain else "",
        "STOKER_BOOST_REPORT": str(report.absolute()) if report else "",
        "STOKER_BOOST_QUIET": "1" if quiet else "",
    }
    kept = {name: value for name, value in outer.items() if name not in _NOT_GIVEN}
    return {**kept, **{name: value for name, value in asked.items() if value}}


def become(program: Sequence[str], variables: dict[str, str]) -> NoReturn:
    """Replace this process by `program` with this environment. Raises ProgramMissing, with what is wrong with it."""
    check(program, variables)
    for text in warnings(program, variables):
        console.warn(text)
    # Whose report is whose: exec keeps the process's number.
    is_python = find_python(program[0], variables.get("PATH")) is not None
    variables = {**variables, "STOKER_BOOST_PID": str(os.getpid()) if is_python else "0"}
    try:
        os.execvpe(program[0], list(program), variables)
    except OSError as error:
        raise ProgramMissing(f"{program[0]} cannot be run: {error.strerror}", hint=_hint(program)) from error


def check(program: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raise ProgramMissing when there is no such program."""
    if shutil.which(program[0], path=variables.get("PATH")) is None:
        there = Path(program[0]).exists()
        what = f"{program[0]} is there, but it cannot be executed" if there else f"there is no program {program[0]}"
        raise ProgramMissing(what, hint=_hint(program))


def _hint(program: Sequence[str]) -> str:
    if program[0].endswith(".py"):
        return f"a Python file is run by Python: stoker boost -- {shlex.join(['python', *program])}"
    return _HINT

"""Starting a container: in the background, or in the foreground with its terminal, signals and exit status; whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker import shell
from stoker.doctor.finding import Finding, Severity
from stoker.errors import CacheUnwritable, EngineFailed, NameTaken, StartRefused
from stoker.launch import attached
from stoker.launch.command import Command
from stoker.launch.engine import Engine, last_line
from stoker.launch.engines import render
from stoker.launch.home import prepare
from stoker.launch.interruption import interruptible, uninterrupted
from stoker.launch.locks import held
from stoker.launch.monitor import calling_folder, forget_folder
from stoker.launch.request import Request

if TYPE_CHECKING:
    from stoker.launch.containers import Container

_START_S = 300.0
"""An engine that copies a large image for another uid (`keep-id`) takes minutes, once."""
_ASK_S = 20.0
_TRIES = 100
_IDENTITY = "id"
"""File in which the engine writes the container's id as soon as there is one: by it alone we know which container is ours."""


def command_of(request: Request, engine: Engine) -> Command:
    """Return the engine's command for a request: what `--dry-run` prints and what `start` runs. Raises LaunchUnfit."""
    return render(request, engine)


def refuse(findings: Sequence[Finding], *, on_line: Callable[[str], None]) -> None:
    """Say the warnings through `on_line`, and raise StartRefused with the errors, where there are any."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    for finding in findings:
        if finding not in errors:
            on_line("\n".join(_told(finding)))
    if errors:
        first, *more = errors
        message = [first.what, *_seen(first), *(line for finding in more for line in _told(finding))]
        raise StartRefused("\n".join(message), hint=f"{first.fix}\n(--no-check starts without looking)")


def _told(finding: Finding) -> list[str]:
    """Return a finding in lines, as under an error: what, what was seen, what it leads to, and the commands that mend it."""
    fix = finding.fix.splitlines()
    return [
        f"{finding.severity.value}: {finding.what}",
        *_seen(finding),
        *(f"  {'fix:' if not number else '':6}{line}" for number, line in enumerate(fix)),
    ]


def _seen(finding: Finding) -> list[str]:
    return [*(f"  seen: {line}" for line in finding.evidence), f"  then: {finding.consequence}"]


def start(request: Request, engine: Engine, *, on_line: Callable[[str], None], rename: bool = False) -> Container:
    """Start in the background and return the container. `on_line` is told what a person should know.

    With `rename` another name is taken where this one is in use: nobody chose it. A start that fails or is interrupted (also by SIGTERM) leaves no
    container behind.
    Raises EngineFailed with the engine's own last lines, NameTaken, PortTaken, ImageMissing, DiskFull, EngineSilent, ProgramMissing, CacheUnwritable.
    """
    for one in _named(replace(request, detach=True), rename):
        with contextlib.suppress(*([NameTaken] if rename else [])):
            return _start(one, engine, on_line)
    raise _no_name(request)


def run(request: Request, engine: Engine, *, on_line: Callable[[str], None], rename: bool = False) -> int:
    """Run in the foreground to the end and return the program's exit status (128+N for signals). When it is not 0, `on_line` is told why in one line.

    Standard streams, terminal and signals pass through. The container is removed at its end. Raises as `start`.
    """
    for one in _named(replace(request, detach=False), rename):
        with contextlib.suppress(*([NameTaken] if rename else [])):
            return _run(one, engine, on_line)
    raise _no_name(request)


def _named(request: Request, rename: bool) -> Iterator[Request]:
    """Yield the request, with `rename` under one name after the other that no start of ours has at this moment, each held while it is used."""
    for _ in range(_TRIES if rename else 1):
        with held("names", request.container, wait=False) as ours:
            if ours:
                yield request
            elif not rename:
                raise NameTaken(f"{request.name} is being started at this moment by somebody else", hint="stoker ps; or take another --name")
        request = replace(request, name=_next_name(request.name))


def _next_name(name: str) -> str:
    """Return `night-2` for `night`, `night-3` for `night-2`."""
    found = re.fullmatch(r"(.*)-(\d{1,4})", name)
    return f"{found[1]}-{int(found[2]) + 1}" if found else f"{name}-2"


def _no_name(request: Request) -> NameTaken:
    return NameTaken(f"{request.name} and {_TRIES} names after it are in use", hint="stoker rm removes what has ended; or choose one with --name")


def _start(request: Request, engine: Engine, on_line: Callable[[str], None]) -> Container:
    words, folder = _prepared(request, engine)
    begun = int(time.time())  # podman tells whole seconds
    try:
        with interruptible():
            done = shell.run(words, timeout_s=_START_S, folder=folder)
    except BaseException:
        with uninterrupted():
            _aftermath().clean(request, engine, _identity(folder) or _aftermath().made_since(begun, request, engine))
        raise
    if not done.ok:
        with uninterrupted():
            _aftermath().clean(request, engine, _identity(folder))
        raise _aftermath().refusal(request, engine, done.err)
    for line in done.err.splitlines():
        on_line(last_line(line))
    container: Container = _aftermath().found(engine, _identity(folder))
    return container


def _run(request: Request, engine: Engine, on_line: Callable[[str], None]) -> int:
    words, folder = _prepared(request, engine)
    # docker passes no signals on where there is a terminal.
    give = (lambda number: _signal(engine, folder, number)) if request.terminal and engine.name == "docker" else None
    signals: list[int] = []
    begun = int(time.time())
    code = attached.run(words, on_signal=give, folder=folder, meanwhile=_aftermath, came=signals.append)
    identity = _identity(folder)
    if not identity:
        _aftermath().leave_interrupted(request, engine, begun, signals)
        raise _aftermath().not_started(request, engine, code)
    if code == 0 and _removed(engine, identity):
        forget_folder(request.container)
        return code
    status: int = _aftermath().ended(request, engine, identity, code, on_line, signals)
    return status


def _aftermath() -> Any:
    # Imported while the engine is busy: no start waits for it, and a run of hours ends with the Stoker that it began with.
    return importlib.import_module("stoker.launch.aftermath")


def _signal(engine: Engine, folder: Path, number: int) -> bool:
    """Send a signal to the container; False: it does not run, or not yet."""
    identity = _identity(folder)
    return bool(identity) and shell.run([engine.program, "kill", "--signal", str(int(number)), identity], timeout_s=_ASK_S).ok


def _prepared(request: Request, engine: Engine) -> tuple[list[str], Path]:
    """Make what must be there before: the home, the file with the account. Return the command and the folder to call it in."""
    command = command_of(request, engine)
    if request.home is not None:
        prepare(request.home, request.account)
    for step in command.before:
        done = shell.run(list(step.words), timeout_s=_ASK_S)
        if not done.ok:
            raise EngineFailed(f"`{done.command}` failed: {last_line(done.err)}", hint="it comes before the start; run it by hand to see more")
    folder = calling_folder(request.container)
    if folder is None:
        raise CacheUnwritable("a folder for this start cannot be made in the cache folder", hint="is its disk full? Another one: STOKER_CACHE=DIR")
    count = len(command.program)
    return [*command.argv[:count], "--cidfile", str(folder / _IDENTITY), *command.argv[count:]], folder


def _identity(folder: Path) -> str:
    """Return the container's id; empty: none was made."""
    try:
        return (folder / _IDENTITY).read_text().strip()
    except OSError:
        return ""


def _removed(engine: Engine, identity: str) -> bool:
    """Remove a container that has ended; False: it runs, or the engine refuses."""
    return shell.run([engine.program, "rm", "--volumes", identity], timeout_s=_START_S).ok

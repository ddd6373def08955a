"""Starting on this machine itself: in the background, or in the foreground with its terminal, signals and exit status; whole or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from stoker.errors import LaunchUnfit, NameTaken, NotReady, ProgramMissing
from stoker.launch import account, attached, home
from stoker.launch.containers import Container
from stoker.launch.ending import why
from stoker.launch.interruption import interruptible, postponed, uninterrupted
from stoker.launch.local import environment, marks, notebook
from stoker.launch.local.environment import Environment
from stoker.launch.local.folder import About, Folder, folders, here, make
from stoker.launch.local.job import Job, free
from stoker.launch.local.keeper import LocalKeeper
from stoker.launch.local.locked import Locked
from stoker.launch.local.means import means
from stoker.launch.local.processes import kill_all, marked
from stoker.launch.local.supervisor import ATTACHED, FETCHED, NOT_STARTED
from stoker.launch.local.variables import foreign, read_env_file, variables

_BEGIN_S = 20.0
"""A supervisor that has said nothing for so long never will: it takes 0.1 s."""
_LOOK_S = 0.01


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Everything but the folder, which is made last."""

    job: Job
    about: About
    words: tuple[str, ...]
    """What stands before the supervisor's command."""
    given: Mapping[str, str]
    """The variables that the person has."""


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """Everything that a supervisor is started with."""

    folder: Folder
    words: tuple[str, ...]
    environment: Mapping[str, str]


def start(job: Job, locked: Locked | None, *, on_line: Callable[[str], None]) -> Container:
    """Start in the background and return what was started. `on_line` is told what a person should know: the environment, limits that do not hold.

    A start that fails or is interrupted leaves nothing behind.
    Raises NameTaken, ProgramMissing, StackUnfit, and what making the environment raises.
    """
    with _placed(_prepared(job, locked, on_line, detach=True)) as ready:
        supervisor = _supervisor(ready)
        try:
            _wait_for_begin(ready.folder, supervisor)
        except BaseException:
            _end(ready, supervisor)
            raise
        return _seen(ready.folder)


def run(job: Job, locked: Locked | None, *, on_line: Callable[[str], None]) -> int:
    """Run in the foreground to the end and return the program's exit status (128+N for signals). When it is not 0, `on_line` is told why in one line.

    Standard streams, terminal and signals pass through. Raises as `start`.
    """
    with _placed(_prepared(job, locked, on_line, detach=False)) as ready:
        code = attached.run((*ready.words, ATTACHED), environment=ready.environment, deaf=True)
        _refuse_missing(ready.folder)
        if code:
            reason = why(LocalKeeper().ending(_seen(ready.folder)))
            on_line(f"{ready.folder.name}: {reason}" if reason else f"{ready.folder.name}: exit status {code}")
    ready.folder.remove()
    return code


def _supervisor(ready: _Ready) -> subprocess.Popen[bytes]:
    """Start the supervisor in the background."""
    # It fetches signals itself: one that came before it does would end it without a record.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FETCHED)
    try:
        with open(ready.folder.log, "ab") as log:
            return subprocess.Popen(
                ready.words,
                cwd=ready.folder.path,
                env=dict(ready.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(ready: _Ready, supervisor: subprocess.Popen[bytes]) -> None:
    """Kill a supervisor and all that it started."""
    with uninterrupted():
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait()
        kill_all(lambda: [process for process in marked() if process.id == ready.environment[marks.ID]])


def _prepared(job: Job, locked: Locked | None, on_line: Callable[[str], None], *, detach: bool) -> _Prepared:
    """Have the environment and the limits ready; what can be refused is refused before anything is made."""
    given = marks.without(os.environ)
    if job.env_file:
        given |= read_env_file(job.env_file, given)
    # One of somebody else's would keep files in it that are not theirs.
    home.prepare(job.home, account.itself())
    if job.stem is None:
        _make_room(job)
    used = _environment(job, locked, on_line)
    kept = means(name=job.name, memory_bytes=job.memory_bytes, cpus=job.cpus, detach=detach, taken=_taken())
    for note in (*job.notes, *kept.notes):
        on_line(note)
    told = variables(job, used, kept, given)
    command, own, gone = _command(job, used, {**given, **told})
    about = About(
        id=os.urandom(16).hex(),
        labels=job.labels,
        environment=f"stoker.lock ({used.stack})" if used.stack else "own environment",
        command=command,
        folder=str(job.project),
        created=time.time(),
        machine=here(),
        set={**told, **own},
        unset=(*foreign(used), *gone),
        cores=kept.cores,
        memory_bytes=job.memory_bytes,
        data_bytes=kept.data_bytes,
    )
    return _Prepared(job=job, about=about, words=kept.words, given=given)


@contextlib.contextmanager
def _placed(prepared: _Prepared) -> Iterator[_Ready]:
    """Yield what a supervisor is started with; its folder is removed when the block fails, or is interrupted. Raises NameTaken, NotReady."""
    with interruptible(), postponed() as let_in:
        job, about, folder = _named(prepared.job, prepared.about)
        own = {**prepared.given, **marks.of_labels(job.labels), marks.ID: about.id, marks.FOLDER: str(folder.path)}
        supervisor = (sys.executable, "-m", "stoker.launch.local.supervisor", str(folder.path))
        with _whole(folder):
            let_in()
            yield _Ready(folder=folder, words=(*prepared.words, *supervisor), environment=own)


def _named(job: Job, about: About) -> tuple[Job, About, Folder]:
    """Make the job's folder; under another name where somebody was faster and nobody chose the name. Raises NameTaken."""
    while True:
        try:
            return job, about, make(job.name, about)
        except NameTaken:
            if job.stem is None:
                raise
            job = replace(job, name=free(job.stem))
            about = replace(about, labels=job.labels)


def _environment(job: Job, locked: Locked | None, on_line: Callable[[str], None]) -> Environment:
    planned = environment.plan(locked)
    if job.kind == "notebook":
        notebook.check(planned)
    on_line(f"local: {planned.says}")
    for warning in (*planned.warnings, *(locked.notes if locked else ())):
        on_line(warning)
    return environment.prepare(locked)


def _command(job: Job, used: Environment, given: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Return the program's words, the variables that it has beside those of every job, and those that it must not have."""
    if job.kind != "notebook":
        if not job.command:
            raise LaunchUnfit("nothing to run: without a container there is no image that says what", hint="`stoker run -- python train.py`")
        return job.command, {}, ()
    service = notebook.service(job, used, given)
    more = {name: value for name, value in service.environment.items() if given.get(name) != value}
    return tuple(service.command), more, tuple(name for name in given if name not in service.environment)


def _make_room(job: Job) -> None:
    """Remove what has ended under this name, where the name stands for one thing (a notebook). Raises NameTaken."""
    there = next((one for one in LocalKeeper().containers(everything=True) if one.name == job.name), None)
    if there is None:
        return
    if there.running or job.kind == "run":
        state = "runs" if there.running else "has ended, and its log is kept" if there.ended else f"is there ({there.state})"
        raise NameTaken(f"{job.name} {state}", hint=f"`stoker rm {job.name}` removes it; or take another name (--name)")
    LocalKeeper().remove(there)


def _taken() -> list[list[int]]:
    """Return the cores on which others are held."""
    return [list(about.cores) for folder in folders() if folder.ended is None and (about := folder.about) and about.cores]


def _wait_for_begin(folder: Folder, supervisor: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _BEGIN_S
    while folder.started is None and folder.ended is None:
        if supervisor.poll() is not None and folder.started is None and folder.ended is None:
            raise NotReady(f"it could not be started:\n{folder.log_tail(2000).strip()}", hint="the message above says why")
        if time.monotonic() > until:
            raise NotReady(f"it has not started within {_BEGIN_S:g} s", hint="is the machine out of memory, or its disk?")
        time.sleep(_LOOK_S)
    _refuse_missing(folder)


def _refuse_missing(folder: Folder) -> None:
    ended = folder.ended
    if ended and folder.started is None and ended.code == NOT_STARTED:
        raise ProgramMissing(f"it cannot be started: {ended.told}", hint="is it installed in this environment, and is the project's folder there?")


def _seen(folder: Folder) -> Container:
    found = next((one for one in LocalKeeper().containers(everything=True) if one.name == folder.name), None)
    if found is None:
        raise _removed(folder)
    return found


@contextlib.contextmanager
def _whole(folder: Folder) -> Iterator[None]:
    """Remove the folder when the block fails. Raises NotReady where somebody else has removed it."""
    try:
        yield
    except BaseException as error:
        if not folder.remove() and isinstance(error, FileNotFoundError):
            raise _removed(folder) from error
        raise


def _removed(folder: Folder) -> NotReady:
    return NotReady(f"{folder.name} was removed while it started", hint="start it again")

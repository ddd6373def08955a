"""This machine itself as a keeper of what was started: the verbs of ps, logs, stop, rm, exec and shell without an engine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from stoker.errors import EngineFailed, LaunchUnfit
from stoker.host import filesystem_root
from stoker.host.kernel_log import kernel_text
from stoker.launch.containers import Container
from stoker.launch.ending import Ending
from stoker.launch.evidence import kernel_lines
from stoker.launch.local import following, marks
from stoker.launch.local.folder import Ended, Folder, Started, folders, jobs_folder
from stoker.launch.local.processes import Process, kill_all, lives, marked, send, wait_until
from stoker.launch.local.seen import by_hand, of_folder
from stoker.launch.session import Session
from stoker.launch.stops import stopped_by

_TAIL_BYTES = 65536
_RECORD_S = 10.0
"""After its program has ended, a supervisor has so long to say how."""


class LocalKeeper:
    """The Keeper (launch/keepers.py) of this machine: its state is what /proc tells, and the folders of what ended."""

    name = "local"

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        """Return every job of this user; without `everything` only those that run."""
        alive = defaultdict[str, list[Process]](list)
        for process in marked():
            alive[process.id].append(process)
        found = [of_folder(folder, about, alive.pop(about.id, [])) for folder in folders() if (about := folder.about)]
        found += [by_hand(processes) for job, processes in alive.items() for processes in _apart(job, processes)]
        return tuple(one for one in found if everything or one.running)

    def stop(self, container: Container, *, grace_s: int) -> None:
        """Send SIGTERM to the program, wait, kill everything that is left of the job; return when its end is recorded. Raises EngineFailed."""
        _need_here(container)
        folder = _folder(container)
        started = folder.processes if folder else None
        self._tell(container, started, signal.SIGTERM)
        killed = not wait_until(lambda: not self._runs(container, started), timeout_s=grace_s)
        if killed:
            kill_all(lambda: self._members(container, started))
        if started and lives(started.supervisor, started.supervisor_start):
            wait_until(lambda: not lives(started.supervisor, started.supervisor_start), timeout_s=_RECORD_S)
        kill_all(lambda: self._processes(container))
        if left := self._processes(container):
            raise EngineFailed(
                f"{container.name}: process {left[0].pid} does not die: it hangs in the kernel (a dead driver or network disk)",
                hint=f"`cat /proc/{left[0].pid}/stack` (as root) says where; a reboot ends it",
            )
        if folder and folder.ended is None:
            code = 128 + (signal.SIGKILL if killed else signal.SIGTERM)
            with contextlib.suppress(OSError):
                folder.write(Ended(code=code, moment=time.time(), told="its supervisor was killed before"))

    def returns(self, container: Container) -> bool:
        """Nothing here comes back after a reboot."""
        return False

    def kill(self, container: Container, number: int) -> None:
        """Send a signal to the program itself; where it is gone or was started by hand, to everything that is left of the job."""
        folder = _folder(container)
        self._tell(container, folder.processes if folder else None, number)

    def remove(self, container: Container, *, force: bool = False) -> bool:
        """Remove the job's folder, killing what still runs. Raises EngineFailed when that does not die."""
        _need_here(container)
        folder = _folder(container)
        if container.running:
            self.stop(container, grace_s=0)
        return folder.remove() if folder else False

    def log_text(self, container: Container, *, lines: int | None) -> str:
        """Return what it wrote, the last `lines` of it (None: all)."""
        folder = _folder(container)
        if folder is None:
            return ""
        try:
            whole = folder.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return whole if lines is None else "".join(whole.splitlines(keepends=True)[-lines:] if lines else [])

    def log_session(self, container: Container, *, follow: bool, lines: int | None, timestamps: bool, since: str | None) -> Session:
        """Return the program that shows its log, with `follow` until the job ends. Raises LaunchUnfit: the log has no times."""
        if timestamps or since:
            raise LaunchUnfit("the log of a local job has no times in it", hint="leave out --timestamps and --since; `--tail N` shows the end")
        folder = _folder(container)
        if folder is None:
            raise LaunchUnfit(
                f"{container.name} was not started by `stoker run`: nobody keeps what it writes",
                hint=f"`ls -l /proc/{container.id.removeprefix('pid-')}/fd/1` says where it goes",
            )
        started = folder.processes
        process = None
        if follow and container.running and started:
            alive = lives(started.supervisor, started.supervisor_start)
            process = (started.supervisor, started.supervisor_start) if alive else (started.pid, started.start)
        return Session(words=following.words(folder.log, lines, process))

    def exec_session(
        self,
        container: Container,
        words: Sequence[str],
        *,
        interactive: bool,
        terminal: bool,
        environment: Sequence[str],
        folder: str | None,
        user: str | None,
    ) -> Session:
        """Return `words` with the job's environment, in its folder. Raises LaunchUnfit."""
        if user:
            raise LaunchUnfit("without a container everything runs as you", hint="leave out --user")
        process = next(iter(self._programs(container)), None)
        if process is None:
            raise LaunchUnfit(f"{container.name} does not run", hint=f"`stoker ps -a` shows what does; `stoker logs {container.name}` how it ended")
        mark = os.urandom(8).hex()
        own = {name: os.environ[name] for name in ("TERM", *environment) if name in os.environ}
        place = Path(container.project or "/") / (folder or "")
        given = {**marks.without(process.environment), **own, marks.EXEC: mark}
        return Session(words=("env", f"--chdir={place}", "--", *words), environment=given, mark=mark)

    def signal(self, container: Container, session: Session, number: int) -> bool:
        """Send a signal to what an `exec_session` started; False: it is not there, or not yet."""
        found = [process for process in marked(marks.EXEC) if process.environment[marks.EXEC] == session.mark]
        for process in found:
            send(process.pid, process.start, number)
        return bool(found)

    def ending(self, container: Container) -> Ending:
        """Return the facts of how it ended."""
        folder = _folder(container)
        ended, about = (folder.ended, folder.about) if folder else (None, None)
        code = ended.code if ended else container.exit_code
        return Ending(
            code=None if container.running else code,
            oom_killed=bool(ended and ended.oom_killed),
            memory_bytes=about.memory_bytes if about else None,
            shm_bytes=_shm_bytes(),
            log_tail=folder.log_tail(_TAIL_BYTES) if folder else "",
            kernel=() if code == 0 or container.running else (*_killed(folder.processes if folder else None), *kernel_lines(container)),
            stopped_by=None if container.running else stopped_by(container.id, container.started),
            told=ended.told if ended else "",
        )

    def _tell(self, container: Container, started: Started | None, number: int) -> None:
        if started and lives(started.pid, started.start):
            send(started.pid, started.start, number)
            return
        for process in self._programs(container):
            send(process.pid, process.start, number)

    def _runs(self, container: Container, started: Started | None) -> bool:
        if started:
            return lives(started.pid, started.start)
        return bool(self._processes(container))

    def _members(self, container: Container, started: Started | None) -> Iterable[Process]:
        """Return the job's processes without its supervisor, which is to record the end; the program also where it hides its environment."""
        yield from self._programs(container)
        if started and lives(started.pid, started.start):
            yield Process(pid=started.pid, start=started.start, environment={})

    def _programs(self, container: Container) -> tuple[Process, ...]:
        folder = _folder(container)
        started = folder.processes if folder else None
        return tuple(process for process in self._processes(container) if not (started and process.pid == started.supervisor))

    def _processes(self, container: Container) -> tuple[Process, ...]:
        return tuple(process for process in marked() if _is_of(process, container))


def _need_here(container: Container) -> None:
    """Raise EngineFailed for a job of another machine that shares this home."""
    if container.state.startswith("on "):
        raise EngineFailed(
            f"{container.name} was started {container.state}, which shares this home: from here nobody can tell whether it runs",
            hint=f"stop and remove it there; where that machine is gone for good, `rm -r {jobs_folder() / container.name}`",
        )


def _is_of(process: Process, container: Container) -> bool:
    if container.id.startswith("pid-"):
        return not process.id and process.environment.get(marks.NAME) == container.name
    return process.id == container.id


def _apart(job: str, processes: list[Process]) -> list[list[Process]]:
    """Return what was started by hand, which has no id, by its name."""
    names = sorted({process.environment[marks.NAME] for process in processes})
    return [[one for one in processes if one.environment[marks.NAME] == name] for name in names]


def _folder(container: Container) -> Folder | None:
    """Return the folder of this very job: another one may have taken the name since."""
    return next((folder for folder in folders() if folder.name == container.name and (about := folder.about) and about.id == container.id), None)


def _killed(started: Started | None) -> tuple[str, ...]:
    text, _ = kernel_text(filesystem_root()) if started else (None, None)
    return tuple(line for line in (text or "").splitlines() if started and "oom-kill:" in line and f"pid={started.pid}," in line)[-5:]


def _shm_bytes() -> int | None:
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return None
    return status.f_frsize * status.f_blocks

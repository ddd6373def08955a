"""`python -m stoker.launch.local.supervisor FOLDER`: runs one job to its end, in the background or with a terminal, and records how it ended.

It has the job's marks in its environment, and so has all that the job starts. Whatever the program leaves behind ends with it, as in a container.
In the background the program writes into its log itself: it goes on, and loses nothing, when the supervisor is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stoker.errors import StokerError
from stoker.host.place import filesystem_root, read
from stoker.launch.interruption import ENDING, forget_python
from stoker.launch.local.folder import About, Ended, Folder, Started, boot
from stoker.launch.local.processes import Process, descendants, kill_all, marked, start_of
from stoker.launch.local.relay import Relay

ATTACHED = "--attached"
"""With the streams that it was given; without it in the background."""
NOT_STARTED = 127
"""Of a program that does not exist."""
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER of linux/prctl.h
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
FETCHED = (*_PASSED_ON, signal.SIGCHLD, signal.SIGWINCH)
"""What it waits for; blocked by who starts it."""
# si_code of a signal that the terminal sent (siginfo.h): the whole foreground gets it, the program too.
_SI_KERNEL = 0x80
# Only in case that the word of the program's end got lost.
_LOOK_S = 1.0
_TAIL_BYTES = 65536


def main(arguments: Sequence[str]) -> int:
    """Run the job and return its exit status."""
    folder, attached = Folder(Path(arguments[0])), ATTACHED in arguments
    about = folder.about
    if about is None:
        print(f"{folder.path} is no job: its record is not there", file=sys.stderr)
        return NOT_STARTED
    kills = _kernel_kills()
    # Blocked and fetched: only so one sees where they come from, and none is lost before there is a program. Who starts us blocks them already.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FETCHED) - set(FETCHED)
    if early := signal.sigpending() & {*ENDING}:
        code = 128 + min(early)
        _record(folder, Ended(code=code, moment=time.time(), told="it was ended before its program began"))
        return code
    # What the program leaves behind becomes a child of ours, also where it has taken our marks out of its environment.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    relay = _relay(folder) if attached else None
    try:
        process = _begin(folder, about, relay, attached, mask)
    except (OSError, subprocess.SubprocessError) as error:
        what = f"{error.filename or about.command[0]}: {error.strerror}" if isinstance(error, OSError) else f"{about.command[0]}: {error}"
        _record(folder, Ended(code=NOT_STARTED, moment=time.time(), told=what))
        return NOT_STARTED
    code = _wait(process, relay)
    kill_all(lambda: _others(about.id))
    if relay:
        relay.finish()
    # The count is the whole machine's: somebody else's process may have been meant, so there must be a sign that it was ours.
    killed = _kernel_kills() > kills and (code == 128 + signal.SIGKILL or (code != 0 and "Killed" in folder.log_tail(_TAIL_BYTES)))
    _record(folder, Ended(code=code, moment=time.time(), oom_killed=killed))
    return code


def _relay(folder: Folder) -> Relay | None:
    """Return what keeps a log of what is shown; None where nothing is shown (closed streams), or the disk is full."""
    try:
        return Relay(folder.log)
    except OSError:
        return None


def _begin(folder: Folder, about: About, relay: Relay | None, attached: bool, mask: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start the program and record that. Raises OSError."""
    kept = {name: value for name, value in os.environ.items() if name not in about.unset}
    stdin = None if attached else subprocess.DEVNULL
    out, err = relay.ends if relay else (None, None)
    environment = {**kept, **about.set}
    process = subprocess.Popen(
        list(about.command), cwd=about.folder, env=environment, stdin=stdin, stdout=out, stderr=err, preexec_fn=_inside(about, attached, mask)
    )
    while came := signal.sigtimedwait(FETCHED, 0):
        # The terminal's, too: what came before there was a program did not reach it.
        if came.si_signo in _PASSED_ON:
            process.send_signal(came.si_signo)
    if relay:
        relay.begin()
    # The number is not another one's yet: nobody has collected it.
    start, own = start_of(process.pid) or 0, start_of(os.getpid()) or 0
    _record(folder, Started(pid=process.pid, start=start, supervisor=os.getpid(), supervisor_start=own, moment=time.time(), boot=boot()))
    return process


def _inside(about: About, attached: bool, mask: Iterable[int]) -> Callable[[], None]:
    """Return what is to be done in the new process before it becomes the program."""
    library = ctypes.CDLL(None)

    def prepare() -> None:
        if attached:
            # Without us nobody would read what it writes: it is asked to end, and may save.
            library.prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
        forget_python()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if about.cores:
            os.sched_setaffinity(0, about.cores)
        if about.data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (about.data_bytes, about.data_bytes))

    return prepare


def _wait(process: subprocess.Popen[bytes], relay: Relay | None) -> int:
    """Wait for the program, pass signals on to it, and return its exit status. What the terminal sends reaches it by itself."""
    while (code := process.poll()) is None:
        came = signal.sigtimedwait(FETCHED, _LOOK_S)
        if came is None or came.si_signo == signal.SIGCHLD:
            _bury(process.pid)
            continue
        if came.si_signo == signal.SIGWINCH:
            if relay:
                relay.resize()
        elif came.si_code != _SI_KERNEL:
            process.send_signal(came.si_signo)
    return code if code >= 0 else 128 - code


def _bury(but: int) -> None:
    """Collect what ended and was left to us; the program itself is `poll`'s to collect."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != but:
            os.waitpid(ended.si_pid, 0)


def _others(job: str) -> tuple[Process, ...]:
    own = [process for process in marked() if process.id == job and process.pid != os.getpid()]
    return (*own, *descendants(os.getpid()))


def _record(folder: Folder, record: Started | Ended) -> None:
    # Its folder may have been removed, or the disk be full: the program counts, not the record.
    with contextlib.suppress(OSError, StokerError):
        folder.write(record)


def _kernel_kills() -> int:
    """Return how often the kernel has killed for want of memory since the machine started (proc(5), vmstat); 0: it does not say."""
    for line in (read(filesystem_root() / "proc/vmstat") or "").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

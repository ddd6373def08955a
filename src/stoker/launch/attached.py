"""A program that has this terminal: it gets the keys and the signals, and its exit status is ours."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stoker.errors import ProgramMissing
from stoker.launch.interruption import forget_python

_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_PR_SET_PDEATHSIG = 1
# si_code of a signal that the terminal sent (siginfo.h): the whole foreground gets it, the program too.
_SI_KERNEL = 0x80
# Only in case that the word of the program's end got lost.
_LOOK_S = 1.0
_AGAIN_S = 0.1
_LIBC = ctypes.CDLL(None, use_errno=True)


def run(
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    on_signal: Callable[[int], object] | None = None,
    apart: bool = False,
    deaf: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
    came: Callable[[int], object] = lambda number: None,
) -> int:
    """Run a program with our stdin, stdout and stderr to its end; return its exit status, 128 + N when signal N ended it.

    Keys of the terminal reach it by themselves, Ctrl-C too; signals that are sent to this process are passed on, or given to `on_signal`, and again
    as long as that returns False: what they are for may not be there yet. When this
    process is killed, the program gets SIGTERM from the kernel. `folder` is its working directory. `apart` keeps what the terminal sends from the
    program (it must not read from the terminal then): `on_signal` gets that too. A `deaf` program begins with these signals blocked, and
    fetches them itself. `meanwhile` is called once it has been started,
    `came` with every signal that came, also from the terminal. To be called from the main thread. Raises ProgramMissing.
    """
    waited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        with _same_terminal():
            child = _started(words, environment, folder, waited if deaf else before, apart)
            meanwhile()
            code = _watched(child, on_signal or child.send_signal, came, waited, apart)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return code if code >= 0 else 128 - code


def _started(
    words: Sequence[str], environment: Mapping[str, str] | None, folder: Path | None, mask: Iterable[int], apart: bool
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def prepare() -> None:
        if apart:
            os.setpgid(0, 0)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)
        forget_python()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        return subprocess.Popen(list(words), cwd=folder, env=None if environment is None else dict(environment), preexec_fn=prepare)
    except OSError as error:
        raise ProgramMissing(f"{words[0]} cannot be started: {error.strerror}", hint="is it installed, and in PATH?") from error


def _watched(
    child: subprocess.Popen[bytes], give: Callable[[int], object], tell: Callable[[int], object], waited: set[signal.Signals], apart: bool
) -> int:
    """Wait for its end, giving on what comes. The signals are blocked and fetched, because only so one sees who sent them."""
    later: list[int] = []
    while (code := child.poll()) is None:
        came = signal.sigtimedwait(waited, _AGAIN_S if later else _LOOK_S)
        later = [number for number in later if give(number) is False]
        if came is None or came.si_signo == signal.SIGCHLD:
            continue
        tell(came.si_signo)
        if (came.si_code != _SI_KERNEL or apart) and give(came.si_signo) is False:
            later.append(came.si_signo)
    return code


@contextlib.contextmanager
def _same_terminal() -> Iterator[None]:
    """Leave the terminal as it was: a program that is killed does not put it back."""
    try:
        before = termios.tcgetattr(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)

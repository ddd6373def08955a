"""A compilation is tried in another process first: one that hangs or crashes there costs the user's program nothing."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from stoker.boost.models.compiled import compiled_call
from stoker.boost.models.rehearsal import AUTOCAST_LIMIT, LAYOUT_LIMIT, Inputs, backward, bare_copy, first_line, too_far, undisturbed

LIMIT_S = 180
"""After that the other process is ended by the kernel."""

_NO_FORK = "Autograd-and-Fork"
"""PyTorch's word for it. Its first backward starts threads for GPUs, and one counts as there where a fake tensor was made before, as torch.compile
does (2.6 and newer); a forked process is then refused every backward."""
_PR_SET_PDEATHSIG = 1
_OTHER_PROCESS_NICENESS = 10


class Compilation(Protocol):
    """A compilation that is being tried."""

    why: str | None
    """Why it cannot be used, once it is over; None when it can."""

    def over(self) -> bool:
        """Whether it has come to an end."""
        ...

    def end(self) -> None:
        """Stop it."""
        ...


def compilation(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, device: torch.device, autocast: bool, layout: bool
) -> Compilation:
    """Try to compile `module` for such a call, forward and backward, and compare.

    On the CPU that is done in a forked process, which also leaves its kernels in the compiler's cache. A GPU cannot be used in a forked
    process: a copy is compiled at once.
    """
    inputs = Inputs(args, kwargs, device)
    threads = torch.get_num_threads()

    def work() -> str | None:
        try:
            with undisturbed(device), torch.enable_grad():
                if not _has_backward():
                    return "autograd has threads since the first backward (something was compiled before it): no other process can try a compilation"
                return _tried(compiled_call(copied := bare_copy(module), graphs=False, threads=threads), copied, inputs, autocast, layout)
        except Exception as error:
            return f"it cannot be compiled: {type(error).__name__}: {first_line(error)}"

    return _Forked(work) if device.type == "cpu" else _Done(work())


def _has_backward() -> bool:
    try:
        torch.zeros((), requires_grad=True).backward()
    except RuntimeError as error:
        if _NO_FORK in str(error):
            return False
        raise
    return True


def _tried(compiled: Callable[..., Any], copied: nn.Module, inputs: Inputs, autocast: bool, layout: bool) -> str | None:
    inputs.seed(0)
    plain = inputs.into(copied, autocast=autocast, layout=layout)
    inputs.seed(0)
    found = inputs.into(compiled, autocast=autocast, layout=layout)
    backward(found)
    return too_far(plain, found, AUTOCAST_LIMIT if autocast else LAYOUT_LIMIT)


class _Done:
    """Tried at once."""

    def __init__(self, why: str | None) -> None:
        self.why = why

    def over(self) -> bool:
        return True

    def end(self) -> None:
        pass


class _Forked:
    """Tried in a child process, which goes with its parent."""

    def __init__(self, work: Callable[[], str | None]) -> None:
        self.why: str | None = None
        self._began_s = time.monotonic()
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads: what they hold can only make the child hang.
            self._pid = os.fork()
        if self._pid == 0:
            _be_child(work, writing)
        os.close(writing)
        os.set_blocking(self._reading, False)

    def over(self) -> bool:
        try:
            said = os.read(self._reading, 4096)
        except BlockingIOError:
            if time.monotonic() - self._began_s < LIMIT_S + 5:
                return False
            said = b""
        self.end()
        text = said.decode("utf-8", "replace")
        self.why = None if text == "ok" else text or f"the compiler crashed, or took more than {LIMIT_S} s, in a process of its own"
        return True

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        with contextlib.suppress(OSError):
            os.close(self._reading)


def _be_child(work: Callable[[], str | None], writing: int) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.alarm(LIMIT_S)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(_OTHER_PROCESS_NICENESS)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        _without_threads()
        faulthandler.disable()
        os.write(writing, (work() or "ok").encode()[:4096])
    finally:
        os._exit(0)


def _without_threads() -> None:
    # GNU's OpenMP waits for ever in a forked child for threads that only the parent has. One thread is enough for torch's own operations, and
    # compiled code, which asks for as many threads as the parent has, does not get them.
    torch.set_num_threads(1)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "omp" in line.rsplit("/", 1)[-1] and ".so" in line}
    for path in paths:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(path).omp_set_max_active_levels(0)

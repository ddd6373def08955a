"""`stoker` in forks of one process that has imported PyTorch already: tests that run it many times are spared its start of seconds.

From the first line of the command on it is what `python -m stoker` does; only how the interpreter starts and ends is not, so that each file of tests
that comes here has a run of the real program too.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = ["stoker.train.session", "torch._inductor.config"]


class Program:
    """A `stoker` that was started, much as a subprocess.Popen."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self.arguments = list(arguments)
        self._said = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._said.name) / name for name in ("out", "err"))
        _CONTEXT.set_forkserver_preload(_IMPORTED)
        with mock.patch.dict(os.environ, environment):  # how many threads OpenMP has is read when it is loaded
            forkserver.ensure_running()
        self._process = _CONTEXT.Process(target=_become, args=(self.arguments, folder, dict(environment), self._out, self._err))
        self._process.start()

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end and return what it said. Raises subprocess.TimeoutExpired."""
        self._process.join(limit_s)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, limit_s)
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, self._out.read_text(), self._err.read_text())


def run(arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run `stoker ARGUMENTS` in `folder` to its end."""
    return Program(arguments, folder=folder, environment=environment).end(limit_s)


def _become(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    from stoker.cli import main

    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["stoker", *arguments]
    main()

"""What a program in the foreground writes, passed on to the terminal as it comes and kept in the log as well."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import termios
import threading
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 65536
# A process that was left behind in the kernel may keep its end of a channel open.
_DRAIN_S = 2.0


class Relay:
    """Channels for stdout and stderr of a program. On a terminal it gets a terminal, so that it draws its progress, elsewhere a pipe.

    Where both go to the same place it is one channel, so that the order of what comes is kept.
    """

    def __init__(self, log: Path, *, outputs: tuple[int, int] = (1, 2)) -> None:
        self._log: BinaryIO = open(log, "ab", buffering=0)  # noqa: SIM115 (closed in `finish`)
        self._lock = threading.Lock()
        out, err = outputs
        first = _channel(out)
        both = os.path.samestat(os.fstat(out), os.fstat(err))
        second = first if both else _channel(err)
        self.ends = (first[1], second[1])
        """What the program's stdout and stderr are to be."""
        pairs = [(first[0], out)] if both else [(first[0], out), (second[0], err)]
        self._threads = [threading.Thread(target=self._pass_on, args=pair, daemon=True) for pair in pairs]
        self._readers = [reader for reader, _ in pairs]

    def begin(self) -> None:
        """Pass on, now that the program has its ends."""
        for end in set(self.ends):
            os.close(end)
        for thread in self._threads:
            thread.start()

    def resize(self) -> None:
        """Give the program's terminal the size of ours."""
        for reader in self._readers:
            _copy_size(reader)

    def finish(self) -> None:
        """Pass on what is still on its way."""
        for thread in self._threads:
            thread.join(timeout=_DRAIN_S)
        with self._lock:
            self._log.close()

    def _pass_on(self, reader: int, to: int) -> None:
        while chunk := _read(reader):
            # A terminal that is gone, or a full disk, is no reason to stop the program.
            with contextlib.suppress(OSError):
                _write(to, chunk)
            with self._lock, contextlib.suppress(OSError, ValueError):
                self._log.write(chunk)


def _channel(output: int) -> tuple[int, int]:
    """Return the reading and the writing end."""
    if not os.isatty(output):
        return os.pipe()
    reader, writer = pty.openpty()
    _raw(writer)
    _copy_size(reader)
    return reader, writer


def _raw(terminal: int) -> None:
    """Have what is written come out as it is: the real terminal makes line ends of it."""
    settings = termios.tcgetattr(terminal)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


def _copy_size(terminal: int) -> None:
    for ours in (2, 1, 0):
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(ours, termios.TIOCGWINSZ, b"\0" * 8))
            return


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, _CHUNK_BYTES)
    except OSError as error:
        # A terminal says EIO when its other end is closed.
        if error.errno == errno.EIO:
            return b""
        raise


def _write(to: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(to, chunk) :]

"""The end of what a long-running program says, kept for an error while the person sees all of it as it comes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_KEPT_BYTES = 16384
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PACKAGE_LINE = re.compile(rb"^ [+-] \S+$")


def follow(command: Sequence[str], *, folder: Path, variables: Mapping[str, str], keep_open: tuple[int, ...] = ()) -> tuple[int, str]:
    """Run a program, pass on to stderr what it says, and return its exit status and the end of what it said.

    On a terminal the program gets a terminal too, so that it draws its progress; elsewhere it writes plain lines. The program is
    ended when this process is interrupted. Raises nothing for a program that cannot start: status 127.
    """
    reader, writer = _channel()
    try:
        process = subprocess.Popen(
            list(command), cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, pass_fds=keep_open
        )
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return 127, str(error)
    os.close(writer)
    try:
        said = _pass_on(reader)
        return process.wait(), said
    finally:
        _end(process)
        os.close(reader)


def _channel() -> tuple[int, int]:
    if not sys.stderr.isatty():
        return os.pipe()
    # Only on a terminal, and only on systems that have them.
    import fcntl
    import pty
    import termios

    reader, writer = pty.openpty()
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer


def _pass_on(reader: int) -> str:
    terminal = os.isatty(reader)
    kept, rest = b"", b""
    while chunk := _read(reader):
        kept = (kept + chunk)[-_KEPT_BYTES:]
        if not terminal:
            # A line for every package is too much for a log.
            *lines, rest = (rest + chunk).split(b"\n")
            chunk = b"".join(line + b"\n" for line in lines if not _PACKAGE_LINE.match(line))
        _show(chunk)
    if not terminal:
        _show(rest)
    return _ESCAPES.sub("", kept.decode(errors="replace")).replace("\r", "")


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError as error:
        # A terminal says EIO when its other end is closed.
        if error.errno == errno.EIO:
            return b""
        raise


def _show(chunk: bytes) -> None:
    # A stderr that nobody reads any more is no reason to stop a set-up.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

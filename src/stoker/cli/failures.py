"""How a command ends when it fails: a refusal, a wrong command line, Ctrl-C, a reader that went away, or a bug with its report."""

from __future__ import annotations

import errno
import os
import stat
import sys

import click

from stoker.console import show_error
from stoker.errors import Bug, DiskFull, Interrupted, StokerError

# As click ends for the same cause while it writes.
_BROKEN_PIPE = 1


def ended(error: BaseException, command: list[str]) -> int:
    """Say what happened and return the exit status."""
    if isinstance(error, StokerError):
        show_error(error)
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, SystemExit):
        return _system_exit(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        print("\ninterrupted", file=sys.stderr)
        return Interrupted.exit_code
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and _is_full(sys.stdout.fileno()):
        show_error(DiskFull(f"the output cannot be written ({error.strerror})", hint="free space where it goes, or let it go elsewhere"))
        return DiskFull.exit_code
    return _bug(error, command)


def _is_full(descriptor: int) -> bool:
    """Whether nothing more can be written to it: a file on a full disk, or /dev/full. Writes nothing."""
    try:
        os.write(descriptor, b"")
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.fstatvfs(descriptor).f_bavail == 0
    except OSError:
        return True


def _system_exit(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _bug(error: BaseException, command: list[str]) -> int:
    # Only here: they would slow down every start.
    import traceback

    from stoker.cli.report import write_report

    told = "".join(traceback.format_exception(error))
    path = write_report(told, command)
    what = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if path is None:
        print(told, file=sys.stderr)
        show_error(Bug(f"Stoker failed: {what}", hint="please report it with the text above (no report file could be written)"))
    else:
        show_error(Bug(f"Stoker failed: {what}", hint=f"please report it with the text in {os.fspath(path)}; read it first, it names your paths"))
    return Bug.exit_code

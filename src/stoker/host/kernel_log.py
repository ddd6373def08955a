"""The kernel's log since the start of the machine, where this user may read it."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from stoker import shell
from stoker.host.place import filesystem_root

# The first line of every start: what stands before it is of another life of the machine.
_BOOT = "Linux version "
_MOST_BYTES = 4 * 1024**2


def kernel_text(root: Path) -> tuple[str | None, str | None]:
    """Return the log, a line an event as `[seconds since start] text`, and where it was read; at most 3 s, where the journal must be asked."""
    for read in (_from_ring, _from_files, _from_journal):
        text, source = read(root)
        if text is not None:
            return text, source
    return None, None


def _from_ring(root: Path) -> tuple[str | None, str]:
    """Read /dev/kmsg without waiting: one record a read, as `6,1234,5678901234,-;NVRM: ...` (kernel docs, ABI/testing/dev-kmsg)."""
    try:
        file = os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None, ""
    try:
        records = _records(file)
    finally:
        os.close(file)
    return "\n".join(_as_dmesg(line) for line in records.splitlines()), "/dev/kmsg"


def _records(file: int) -> str:
    parts: list[bytes] = []
    size = 0
    record_wise = stat.S_ISCHR(os.fstat(file).st_mode)
    while size < _MOST_BYTES:
        try:
            part = os.read(file, 8192)
        except OSError as error:
            if error.errno == errno.EPIPE:  # overwritten while reading: go on with the oldest that is left
                continue
            break
        if not part:
            break
        parts.append(part if not record_wise or part.endswith(b"\n") else part + b"\n")
        size += len(part)
    return b"".join(parts).decode(errors="replace")


def _as_dmesg(line: str) -> str:
    found = re.match(r"\d+,\d+,(\d+),[^;]*;(.*)", line)
    return f"[{int(found[1]) / 1e6:.6f}] {found[2]}" if found else line


def _from_files(root: Path) -> tuple[str | None, str]:
    for name in ("var/log/kern.log", "var/log/messages"):
        try:
            with (root / name).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _MOST_BYTES))
                text = file.read(_MOST_BYTES).decode(errors="replace")
                return text[max(0, text.rfind(_BOOT)) :], f"/{name}"
        except OSError:
            continue
    return None, ""


def _from_journal(root: Path) -> tuple[str | None, str]:
    if root != Path("/") or filesystem_root() != root:
        return None, ""  # a written-down machine has no journal that this machine's journalctl could read
    done = shell.run(["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "short-monotonic", "-n", "5000"], timeout_s=3)
    return (done.out, "journalctl -k -b") if done.ok and done.out.strip() else (None, "")

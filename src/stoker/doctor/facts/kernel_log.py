"""The kernel's log, as far as it speaks of NVIDIA: read where this user may read it."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from stoker import shell
from stoker.host.place import filesystem_root

_OURS = re.compile(r"NVRM|\bXid\b|nvidia|nouveau|rejected by service|\bmodule\b.* is rejected|unsigned module", re.IGNORECASE)
_NOISE = re.compile(r"nvidia_drm|nvidia-modeset: Loading|registered the nvidia|NVRM: loading NVIDIA|input: HDA NVidia|snd_hda|audit:", re.IGNORECASE)
# The first line of every start: what stands before it is of another life of the machine.
_BOOT = "Linux version "
_MOST_LINES = 40
_MOST_BYTES = 4 * 1024**2


def read_kernel_log(root: Path) -> tuple[tuple[str, ...], str | None]:
    """Return the last lines that matter, oldest first, and where they were read. At most 3 s, where the journal must be asked."""
    for read in (_from_ring, _from_files, _from_journal):
        text, source = read(root)
        if text is not None:
            return tuple(_bounded(line) for line in _wanted(text)), source
    return (), None


def _wanted(text: str) -> list[str]:
    """Return the Xids and the last of the other lines: a flood of one kind must not hide the other."""
    lines = [line for line in text.splitlines() if _OURS.search(line) and not _NOISE.search(line)]
    xids = [number for number, line in enumerate(lines) if "Xid" in line][-_MOST_LINES:]
    others = [number for number, line in enumerate(lines) if "Xid" not in line][-_MOST_LINES // 2 :]
    return [lines[number] for number in sorted(xids + others)]


def _bounded(line: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in line)[:300]


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

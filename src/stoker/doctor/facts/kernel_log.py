"""The kernel's log, as far as it speaks of NVIDIA."""

from __future__ import annotations

import re
from pathlib import Path

from stoker.host.kernel_log import kernel_text

_OURS = re.compile(r"NVRM|\bXid\b|nvidia|nouveau|rejected by service|\bmodule\b.* is rejected|unsigned module", re.IGNORECASE)
_NOISE = re.compile(r"nvidia_drm|nvidia-modeset: Loading|registered the nvidia|NVRM: loading NVIDIA|input: HDA NVidia|snd_hda|audit:", re.IGNORECASE)
_MOST_LINES = 40


def read_kernel_log(root: Path) -> tuple[tuple[str, ...], str | None]:
    """Return the last lines that matter, oldest first, and where they were read. At most 3 s, where the journal must be asked."""
    text, source = kernel_text(root)
    return (() if text is None else tuple(_bounded(line) for line in _wanted(text))), source


def _wanted(text: str) -> list[str]:
    """Return the Xids and the last of the other lines: a flood of one kind must not hide the other."""
    lines = [line for line in text.splitlines() if _OURS.search(line) and not _NOISE.search(line)]
    xids = [number for number, line in enumerate(lines) if "Xid" in line][-_MOST_LINES:]
    others = [number for number, line in enumerate(lines) if "Xid" not in line][-_MOST_LINES // 2 :]
    return [lines[number] for number in sorted(xids + others)]


def _bounded(line: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in line)[:300]

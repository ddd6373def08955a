"""What is remembered of an unpacked Debian root: after a power cut its files may be empty, and programs of it make layers."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from stoker.errors import StokerError
from stoker.files import write_text_atomically
from stoker.image.hashes import sha256_of
from stoker.image.store import boot
from stoker.shell import run

TAR, ROOT = "base.tar", "root"
"""The layer, and the same unpacked."""
_RECORD = "made.json"
_SLOW_S = 600.0
# It was unpacked as this user's files; in a cache of another user's some cannot be read, which is no damage.
_NO_DAMAGE = re.compile(r".*: [UG]id differs|.*: Permission denied|.*: Exiting with failure status due to previous errors")


def remember(folder: Path) -> None:
    """Write down the hash of the tar and the boot of the machine, once both are whole."""
    _write(folder, sha256_of(folder / TAR))


def is_sound(folder: Path) -> bool:
    """Whether tar and root are as they were made. Within the boot in which they were looked at last that is believed; later they are compared."""
    try:
        said = json.loads((folder / _RECORD).read_text())
        if said["boot"] == boot():
            return True
        if said["sha256"] != sha256_of(folder / TAR):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    compared = run(["env", "LC_ALL=C", "tar", "--compare", "--file", str(folder / TAR), "--directory", str(folder / ROOT)], timeout_s=_SLOW_S)
    lines = [line for line in f"{compared.out}\n{compared.err}".splitlines() if line.strip()]
    if compared.code not in (0, 1, 2) or not all(map(_NO_DAMAGE.fullmatch, lines)):
        return False
    with contextlib.suppress(StokerError):  # a cache that can only be read is good, too
        _write(folder, said["sha256"])
    return True


def _write(folder: Path, sha256: str) -> None:
    write_text_atomically(folder / _RECORD, json.dumps({"sha256": sha256, "boot": boot()}))

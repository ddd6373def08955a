"""The configuration of a running SSH server, as far as it says whether root gets in by password."""

from __future__ import annotations

import glob
from pathlib import Path

from stoker.host.place import read

_DEEPEST = 4


def root_by_password(root: Path, configuration: str) -> tuple[str, ...]:
    """Return the lines that let root in by password; empty when it does not get in, or when that cannot be told.

    Of a setting that is given twice the first holds; root must also have a password that is not locked. Source: sshd_config(5).
    """
    told: dict[str, tuple[str, str]] = {}
    _read(root, configuration, told, 0)
    allowed, where = told.get("permitrootlogin", ("prohibit-password", ""))
    password, password_where = told.get("passwordauthentication", ("yes", f"{configuration}: PasswordAuthentication is not set, which is yes"))
    if allowed != "yes" or password != "yes" or not _has_password(root):
        return ()
    return where, password_where


def _read(root: Path, configuration: str, told: dict[str, tuple[str, str]], depth: int) -> None:
    """Collect the global settings, which end at the first Match, following Include."""
    for line in (read(root / configuration.lstrip("/")) or "").splitlines():
        words = line.replace("=", " ", 1).split()
        if not words or words[0].startswith("#"):
            continue
        key = words[0].lower()
        if key == "match":
            return
        if key == "include" and depth < _DEEPEST:
            for pattern in words[1:]:
                below = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for file in sorted(glob.glob(str(root / below.lstrip("/")))):
                    _read(root, f"/{Path(file).relative_to(root)}", told, depth + 1)
        elif len(words) > 1:
            told.setdefault(key, (words[1].lower(), f"{configuration}: {line.strip()}"))


def _has_password(root: Path) -> bool:
    """Tell whether root has a password; only root can read that, so for others the answer is no."""
    for line in (read(root / "etc/shadow") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "root":
            return len(rest.partition(":")[0]) > 1 and rest[0] not in "!*"
    return False

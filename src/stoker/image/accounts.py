"""The account of the image, `stoker` (1000), as lines of `/etc/passwd` and its like: no tool of the image has to be run for it."""

from __future__ import annotations

from collections.abc import Mapping

NAME = "stoker"
NUMBER = 1000
HOME = "home/stoker"
WORKSPACE = "workspace"
FILES = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")
"""What `with_account` changes, by path in the image."""
NEEDED = ("etc/passwd", "etc/group")
"""Those of them that every root has."""

_DAY_S = 86400


def with_account(files: Mapping[str, bytes], *, created: int, shell: str) -> dict[str, bytes]:
    """Return FILES (those that are there) with the account in them and the days of the last change of every password set to `created`, in s.

    Whoever else has the name or the number (some images come with a user 1000 of their own) makes room. Where there is no shadow file (Debian
    without its package passwd has none), the account's missing password stands in the passwd file.
    """
    day = str(created // _DAY_S)
    # `*`: no password fits, but the account is not locked, which sshd would refuse even with a key.
    password = "x" if "etc/shadow" in files else "*"
    own = {
        "etc/passwd": f"{NAME}:{password}:{NUMBER}:{NUMBER}:Stoker:/{HOME}:{shell}",
        "etc/group": f"{NAME}:x:{NUMBER}:",
        "etc/shadow": f"{NAME}:*:{day}:0:99999:7:::",
        "etc/gshadow": f"{NAME}:*::",
    }
    evicted = {
        line.split(":", 1)[0] for path in ("etc/passwd", "etc/group") for line in _lines(files.get(path, b"")) if _field(line, 2) == str(NUMBER)
    } | {NAME}
    result = {}
    for path in FILES:
        if path not in files:
            continue
        lines = [line for line in _lines(files[path]) if line.split(":", 1)[0] not in evicted]
        if path == "etc/shadow":
            lines = [_dated(line, day) for line in lines]
        result[path] = "\n".join([*lines, own[path], ""]).encode(errors="surrogateescape")
    return result


def _lines(content: bytes) -> list[str]:
    return [line for line in content.decode(errors="surrogateescape").split("\n") if line.strip()]


def _field(line: str, number: int) -> str:
    fields = line.split(":")
    return fields[number] if number < len(fields) else ""


def _dated(line: str, day: str) -> str:
    fields = line.split(":")
    if len(fields) > 2 and fields[2]:
        fields[2] = day
    return ":".join(fields)

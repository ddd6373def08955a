"""The commit and the origin of a stoker.lock as labels of its image, read from git without the network."""

from __future__ import annotations

import re
from pathlib import Path

from stoker import shell
from stoker.errors import BuildFailed

_GIT_S = 30.0


def commit_labels(lock: Path) -> dict[str, str]:
    """Return `org.opencontainers.image.revision`, and `.source` where the repository has an origin.

    Raises BuildFailed when the lock as it is stands in no commit: the label would name another one.
    """
    said = _git(lock, "status", "--porcelain", "--", lock.name)
    if said is None or _git(lock, "ls-files", "--", lock.name) == "":
        raise BuildFailed(f"git knows nothing of {lock}", hint="commit it, or build without --git")
    if said:
        raise BuildFailed(f"{lock} differs from the last commit", hint="commit it, or build without --git")
    revision = _git(lock, "log", "-1", "--format=%H", "--", lock.name)
    origin = _git(lock, "remote", "get-url", "origin")
    return {
        "org.opencontainers.image.revision": revision or "",
        # An address may hold a password or a token.
        **({"org.opencontainers.image.source": re.sub(r"^([a-z+]+://)[^/@]*@", r"\1", origin)} if origin else {}),
    }


def _git(lock: Path, *arguments: str) -> str | None:
    done = shell.run(["git", "-C", str(lock.resolve().parent), *arguments], timeout_s=_GIT_S)
    return done.out.strip() if done.ok else None

"""What a run stood in: the code, the packages, the lock and the image. Gathered once, at its start.

Environment variables are not recorded, and values of command-line arguments that are named like secrets are masked.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import stoker
from stoker import shell
from stoker.host import find_container

DIFF_LIMIT_BYTES = 400_000
"""A longer diff is cut in the record; its digest is of the whole."""
UNTRACKED_LIMIT = 200
"""More names of untracked files than that are only counted."""
_GIT_LIMIT_S = 20.0
_NOT_RECORDED = (":(exclude,glob)**/.env*", ":(exclude,glob)**/*.pem", ":(exclude,glob)**/*.key")
"""Files that are made to hold secrets: the diff leaves them out."""
_SECRET = re.compile(r"(?:^|[-_.])(?:token|password|passwd|passphrase|secret|credential|(?:(?:api|access|auth)[-_]?)?key)s?$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def gather(folder: Path, command: list[str], *, lock: str | None) -> dict[str, Any]:
    """Return the fields of a record that say where it was made: stoker, command, folder, git, python, packages, lock, image.

    `lock` is the digest of the lock that the environment was made from, if it was. Takes about 0.1 s; nothing in here raises for what it
    cannot find out.
    """
    return {
        "stoker": stoker_code(),
        "command": masked(command),
        "folder": str(folder.absolute()),
        "git": git_state(folder),
        "python": platform.python_version(),
        "packages": packages(),
        "lock": lock,
        "image": _image(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit, dirty, diff (against the commit, of tracked files), diff_digest, diff_cut and untracked names; None outside a work tree.

    When git is there but does not answer (missing program, foreign owner), commit and dirty are None and `why` says so.
    """
    if not any((above / ".git").exists() for above in (folder.absolute(), *folder.absolute().parents)):
        return None
    head = _git(folder, "rev-parse", "--show-toplevel", "HEAD")
    status = _git(folder, "status", "--porcelain", "-z", "--untracked-files=normal")
    if not status.ok:
        return {"commit": None, "dirty": None, "diff": "", "why": (status.err.strip() or "git failed").splitlines()[0]}
    entries = status.out.split("\0")
    untracked = sorted(entry[3:] for entry in entries if entry.startswith("?? "))
    top = Path(head.out.split("\n")[0] or folder)
    diff = _git(top, "diff", *(["HEAD"] if head.ok else []), "--no-color", "--no-ext-diff", "--no-textconv", "--", ".", *_NOT_RECORDED)
    whole = diff.out.encode(errors="replace")
    return {
        "commit": head.out.split("\n")[1] if head.ok else None,
        "dirty": any(entries),
        "diff": whole[:DIFF_LIMIT_BYTES].decode(errors="ignore"),
        "diff_cut": len(whole) > DIFF_LIMIT_BYTES,
        "diff_digest": f"sha256:{hashlib.sha256(whole).hexdigest()}" if whole else None,
        "untracked": untracked[:UNTRACKED_LIMIT],
        "untracked_count": len(untracked),
    } | ({} if diff.ok else {"why": (diff.err.strip() or "git diff failed").splitlines()[0]})


def stoker_code() -> dict[str, Any]:
    """Return which Stoker this is: version, commit (when it runs from its own checkout), digest of its source files."""
    package = Path(stoker.__file__).parent
    total = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in {".py", ".c", ".h", ".html", ".toml"} and path.is_file()):
        total.update(f"{path.relative_to(package).as_posix()}\0{_digest(path)}\n".encode())
    return {"version": stoker.__version__, "commit": _own_commit(package), "digest": f"sha256:{total.hexdigest()}"}


def packages() -> dict[str, str]:
    """Return the installed packages, name (in the normal form of PEP 503) to version, sorted."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.name if distribution.metadata is not None else None
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return dict(sorted(found.items()))


def masked(command: list[str]) -> list[str]:
    """Return a command line with `***` for the values of arguments named like token, password, secret or key, and in addresses."""
    shown: list[str] = []
    hide_next = False
    for word in command:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("--"):
            shown.append("***")
        elif equals and _SECRET.search(name):
            shown.append(f"{name}=***")
        else:
            shown.append(_CREDENTIALS.sub("***", word))
        hide_next = not equals and word.startswith("-") and bool(_SECRET.search(word))
    return shown


def _own_commit(package: Path) -> str | None:
    """Return the commit of Stoker's checkout; an installed copy may lie in the checkout of something else, which does not know its files."""
    if not any((above / ".git").exists() for above in package.parents):
        return None
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py").ok:
        return None
    head = _git(package, "rev-parse", "HEAD")
    return head.out.strip() if head.ok else None


def _image() -> str | None:
    container = find_container()
    return os.environ.get("STOKER_IMAGE_DIGEST") or (container.image_digest if container else None)


def _git(folder: Path, *arguments: str) -> shell.Outcome:
    return shell.run(["git", "--no-optional-locks", "-c", "core.quotepath=off", *arguments], timeout_s=_GIT_LIMIT_S, folder=folder)


def _digest(path: Path | None) -> str | None:
    """Return the sha256 of a small file, or None when it cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path else None
    except OSError:
        return None

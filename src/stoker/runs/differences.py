"""In what two runs differ, and what of it makes a repeat another experiment."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from stoker.runs.fields import listed, part

REPEATED_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "stoker")
"""A change of one of these can change the numbers of a training; of the others it is only mentioned."""
ROOMS = ("recipe", "seed", "configuration", "data", "stoker", "git", "python", "packages", "lock", "image", "host")
"""What is compared, in the order in which it is shown."""
_PASSING = ("free", "used", "available", "load", "utilisation", "utilization", "temperature", "uptime", "time", "power")
"""Parts of names of host facts that change by the minute: no difference between hosts."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same."""

    what: str
    """Where: a dotted name, as `configuration.batch_size` or `packages.torch`."""
    a: Any
    """The first's value; None: it has none."""
    b: Any
    """The second's value."""


def differences(record_a: dict[str, Any], record_b: dict[str, Any]) -> list[Difference]:
    """Return in what two records differ: configuration and seed, code, packages, lock, image, data, host. Results are no part of it."""
    facts_a, facts_b = _facts(record_a), _facts(record_b)
    names = [*facts_a, *(name for name in facts_b if name not in facts_a)]
    found = (Difference(what=name, a=facts_a.get(name), b=facts_b.get(name)) for name in names)
    return sorted((entry for entry in found if entry.a != entry.b), key=lambda entry: ROOMS.index(entry.what.split(".")[0]))


def refusals(record: dict[str, Any], here: dict[str, Any]) -> list[Difference]:
    """Return those differences which make a repeat here not the same: Stoker's code, the user's code, certain packages, the data.

    `here` has the shape of a record: `surroundings.gather()`, and `data` once it is opened. What one of the two does not say cannot differ.
    """
    return [entry for entry in _told_by(record, here) if _refuses(entry.what, record, here)]


def mentions(record: dict[str, Any], here: dict[str, Any]) -> list[Difference]:
    """Return the other differences of the surroundings, which a repeat says and goes on: host, lock, image, Python, further packages."""
    return [entry for entry in _told_by(record, here) if not _refuses(entry.what, record, here)]


def _told_by(record: dict[str, Any], here: dict[str, Any]) -> list[Difference]:
    """Return the differences in what both have a word about; where Stoker's sources have a digest, that alone says whether they differ."""
    rooms = {"stoker", "git", "python", "packages", "lock", "image", "host", "data"} & set(here) & set(record)
    identity = f"stoker.{_identity(record, here)}"
    told = (entry for entry in differences(record, here) if entry.what.split(".")[0] in rooms)
    return [entry for entry in told if not entry.what.startswith("stoker.") or entry.what == identity]


def _refuses(what: str, record: dict[str, Any], here: dict[str, Any]) -> bool:
    room, _, rest = what.partition(".")
    if room == "stoker":
        return True
    if room == "git":
        return bool(part(record, "git")) and rest in ("commit", "diff")
    if room == "packages":
        return bool(record.get("packages")) and rest in REPEATED_PACKAGES
    return what == "data.fingerprint" and _facts(record).get(what) is not None


def _identity(record: dict[str, Any], here: dict[str, Any]) -> str:
    """Return what tells two versions of Stoker apart best: the digest of its sources, else the commit, else the version."""
    for key in ("digest", "commit"):
        if all(part(side, "stoker").get(key) for side in (record, here)):
            return key
    return "version"


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's comparable facts under dotted names."""
    facts = flat({room: record.get(room) for room in ("recipe", "seed", "configuration", "stoker", "python", "packages", "lock", "image")})
    data, git = part(record, "data"), part(record, "git")
    if data:
        facts |= {f"data.{key}": data.get(key) for key in ("source", "fingerprint", "train_images", "test_images")}
        facts["data.classes"] = _classes(data.get("classes"))
    if git:
        untracked = ", ".join(str(name) for name in listed(git, "untracked")) or None
        facts |= {"git.commit": git.get("commit"), "git.diff": _diff(git), "git.untracked": untracked}
    host = flat({"host": record.get("host")})
    return facts | {name: value for name, value in host.items() if not any(part in name.lower() for part in _PASSING)}


def flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted names. Lists are values, except those of dictionaries, which are counted."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        name = f"{above}{key}"
        if isinstance(entry, dict):
            found |= flat(entry, f"{name}.")
        elif isinstance(entry, (list, tuple)) and entry and all(isinstance(part, dict) for part in entry):
            found |= flat({str(index): part for index, part in enumerate(entry)}, f"{name}.")
        else:
            found[name] = json.loads(json.dumps(entry, default=str))  # tuples and lists are the same here, as they are in a file
    return found


def _classes(names: Any) -> str | None:
    """Return class names as a short text that only equal lists share."""
    if not isinstance(names, list):
        return None
    whole = ", ".join(str(name) for name in names)
    if len(whole) > 100:
        whole = f"{whole[:80]}..., sha256:{hashlib.sha256(whole.encode(errors='replace')).hexdigest()[:12]}"
    return f"{len(names)}: {whole}"


def _diff(git: dict[str, Any]) -> str | None:
    """Return a diff as a short name that two equal diffs share."""
    diff = str(git.get("diff") or "")
    if not diff:
        return None
    digest = str(git.get("diff_digest") or f"sha256:{hashlib.sha256(diff.encode(errors='replace')).hexdigest()}")
    added = sum(line.startswith("+") and not line.startswith("+++") for line in diff.splitlines())
    removed = sum(line.startswith("-") and not line.startswith("---") for line in diff.splitlines())
    return f"+{added} -{removed} lines, {digest[:19]}"

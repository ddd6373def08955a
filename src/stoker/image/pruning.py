"""What may be left out of wheels on request: `pruning.toml`, with a reason for each file, and what that removes from a wheel."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stoker.image.wheel import WheelArchive

# The standard library has it from Python 3.11 on; tomli is the same module for 3.10.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_SITE_PACKAGES = "/site-packages/"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of file that can be left out."""

    category: str
    """One of `specification.PRUNES`."""
    path: str
    """Below site-packages; `*` stands for anything, folders too."""
    why: str

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The path as a pattern that must fit in full."""
        return re.compile(".*".join(re.escape(part) for part in self.path.split("*")), re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A file that a wheel brings and the image does not hold."""

    path: str
    """Below site-packages."""
    size: int
    """Bytes."""
    category: str
    why: str


def pruned(path: str, prune: Collection[str]) -> bool:
    """Whether the file is left out. `path`: below site-packages, or the whole path in the image."""
    return rule_of(path, prune) is not None


def rule_of(path: str, prune: Collection[str]) -> Rule | None:
    """Return the rule of these categories by which the file is left out, or None."""
    below = path.partition(_SITE_PACKAGES)[2] or path
    return next((rule for rule in _rules() if rule.category in prune and rule.pattern.fullmatch(below)), None)


def removed(archive: WheelArchive, prune: Collection[str]) -> tuple[Removed, ...]:
    """Return what is left out of a wheel: for bills of materials."""
    found = [(member, rule_of(member.name, prune)) for member in archive.members]
    return tuple(Removed(path=member.name, size=member.size, category=rule.category, why=rule.why) for member, rule in found if rule)


def rules_digest_text() -> str:
    """Return the rules as a text that changes with them: a part of the key of every pruned layer."""
    return "\n".join(f"{rule.category} {rule.path}" for rule in _rules())


@functools.cache
def _rules() -> tuple[Rule, ...]:
    table = _toml.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(Rule(category=row["category"], path=row["path"], why=row["why"]) for row in table["file"])

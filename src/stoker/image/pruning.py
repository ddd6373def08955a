"""What may be left out of wheels on request: `pruning.toml`, with a reason for each file."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

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


def pruned(path: str, prune: Collection[str]) -> bool:
    """Whether the file is left out. `path`: below site-packages, or the whole path in the image."""
    below = path.partition(_SITE_PACKAGES)[2] or path
    return any(rule.category in prune and rule.pattern.fullmatch(below) for rule in _rules())


def shortened(path: str, prune: Collection[str]) -> bool:
    """Whether the library, by its path below site-packages, is kept without its debug information: see `elf`."""
    return any(rule.category in prune and rule.pattern.fullmatch(path) for rule in _rules("library"))


def rules_digest_text() -> str:
    """Return the rules as a text that changes with them: a part of the key of every pruned layer."""
    return "\n".join(f"{rule.category} {rule.path}" for rule in (*_rules(), *_rules("library")))


@functools.cache
def _rules(kind: str = "file") -> tuple[Rule, ...]:
    table = _toml.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(Rule(category=row["category"], path=row["path"], why=row["why"]) for row in table[kind])

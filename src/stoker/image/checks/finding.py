"""What a check of an image found: a rule that is broken, the evidence, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MOST_LINES = 8
REBUILD = "build the image again from its stoker.lock, and change nothing in it by hand: `stoker image build`"
"""The fix where an image is not what its lock gives."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with an image."""

    rule: str
    """As `altered-file`."""
    what: str
    """What is wrong, in one sentence."""
    evidence: tuple[str, ...]
    """Paths and values that were seen, with where. Never the text of a secret."""
    fix: str
    """What to do about it."""


def finding(rule: str, what: str, evidence: Sequence[str], fix: str) -> list[Finding]:
    """Return the finding that this evidence stands for; without evidence there is none. A long list is cut, and says by how much."""
    if not evidence:
        return []
    shown = sorted(set(evidence))
    left = len(shown) - _MOST_LINES
    lines = (*shown[:_MOST_LINES], *([f"and {left} more"] if left > 0 else []))
    return [Finding(rule=rule, what=what, evidence=lines, fix=fix)]

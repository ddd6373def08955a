"""Whether a tool's output names what is wrong: the rule, and the words that decided."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_LONGEST = 300


class Grade(str, enum.Enum):
    """What a tool's output is worth to somebody who does not know yet what is wrong."""

    NAMES = "names"
    """A sentence says what is wrong."""
    SHOWS = "shows"
    """What is wrong can be read off a value in the output, by somebody who knows what to look for."""
    SILENT = "silent"
    """Neither."""
    DIES = "dies"
    """Neither, and the tool itself ended with a traceback or by a signal, or gave no answer in time."""
    ABSENT = "absent"
    """The tool is not in that environment."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What counts as naming a cause and as showing the fact behind it. The same for every tool; case does not matter, nor how lines are broken."""

    cause: str
    """A regular expression: a sentence that says what is wrong."""
    fact: str
    """A regular expression: a value that gives it away."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A grade and its reason."""

    grade: Grade
    line: str
    """The words that decided; for `dies` the last line of output; empty: there were none."""


def judge(output: str, code: int | None, rule: Rule) -> Verdict:
    """Grade what a tool wrote on stdout and stderr together. `code`: its exit status, negative a signal, None no answer in time."""
    for grade, pattern in ((Grade.NAMES, rule.cause), (Grade.SHOWS, rule.fact)):
        if line := deciding(output, pattern):
            return Verdict(grade=grade, line=line)
    lines = output.strip().splitlines()
    last = _short(lines[-1]) if lines else ""
    if code in (126, 127):
        return Verdict(grade=Grade.ABSENT, line="")
    if code is None or code < 0 or "Traceback (most recent call last)" in output:
        return Verdict(grade=Grade.DIES, line=last)
    return Verdict(grade=Grade.SILENT, line="")


def deciding(output: str, pattern: str) -> str | None:
    """Return the whole lines in which `pattern` is found, joined; None: nowhere. Line breaks count as spaces: tools fold their sentences."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    found = re.search(pattern, " ".join(lines), re.IGNORECASE)
    if found is None:
        return None
    at, held = 0, []
    for line in lines:
        if at < found.end() and at + len(line) > found.start():
            held.append(line)
        at += len(line) + 1
    return _short(" ".join(held), found.group())


def _short(text: str, around: str = "") -> str:
    """Cut a long text, between words, to the part around its deciding words."""
    text = " ".join(text.split())
    if len(text) <= _LONGEST:
        return text
    start = max(0, min(text.find(around) - _LONGEST // 4, len(text) - _LONGEST)) if around else 0
    start = text.find(" ", start) + 1 if start else 0
    end = start + _LONGEST
    end = max(text.rfind(" ", start, end), start + 1) if end < len(text) else len(text)
    return ("... " if start else "") + text[start:end] + (" ..." if end < len(text) else "")

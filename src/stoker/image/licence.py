"""The licence of a package, as SPDX says it: an expression of known names, and the text behind every name that SPDX does not have."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stoker.catalog.tables import rows

TABLE = "licences.toml"
# Names of licences, as SPDX 2.3 annex D writes them; `+` may follow one.
_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9.-]+\+?|\Z)")
_MOST_NAME = 60
# Deeper than any licence; a text of a thousand brackets comes from somebody who means harm.
_DEEPEST = 20
MOST_WORDS = 2000
"""Letters of the longest licence by name: what is longer is a text, and reading it as names could take hours."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """What a package says about its licence."""

    expression: str
    """An SPDX expression; a name that SPDX does not have is a `LicenseRef-...`."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The text behind each `LicenseRef-...` of the expression."""
    source: str
    """Where the package says so."""


@functools.lru_cache(maxsize=1)
def identifiers() -> tuple[dict[str, str], dict[str, str]]:
    """Return SPDX's licences and exceptions by their name in small letters: their case does not matter. Raises BadValue when the table is broken."""
    licences: dict[str, str] = {}
    exceptions: dict[str, str] = {}
    for row in rows(TABLE, "spdx", Path(__file__).parent):
        licences.update({name.lower(): name for name in row.texts("licences")})
        exceptions.update({name.lower(): name for name in row.texts("exceptions")})
        row.text("source")
        row.date("checked")
        row.end()
    return licences, exceptions


def spdx_expression(text: str) -> str | None:
    """Return an expression as SPDX spells it; None when the text is none, or names a licence that SPDX does not have."""
    return _Expression(text).read() if len(text) <= MOST_WORDS else None


def reference(name: str, text: str, *, source: str) -> Licence:
    """Return a licence that SPDX has no name for: another text is another one, under whatever name."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", name.removeprefix("LicenseRef-")).strip("-.")[:_MOST_NAME].strip("-.") or "unnamed"
    own = f"LicenseRef-{words}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"
    return Licence(expression=own, texts={own: text}, source=source)


def together(parts: Sequence[Licence], *, source: str) -> Licence:
    """Return the licence of what is under all of these."""
    expressions = list(dict.fromkeys(part.expression for part in parts))
    alternatives = [one for one in expressions if " OR " in one]
    named = dict.fromkeys(name for one in expressions for name in ([f"({one})"] if one in alternatives else one.split(" AND ")))
    return Licence(
        expression=alternatives[0] if expressions == alternatives[:1] else " AND ".join(named),
        texts={name: text for part in parts for name, text in part.texts.items()},
        source=source,
    )


class _Expression:
    """SPDX 2.3, annex D.4: names, `WITH` before an exception, `AND` before `OR`, brackets."""

    def __init__(self, text: str) -> None:
        found = _TOKEN.findall(text)
        # What is no token at all would vanish between two of them.
        self._tokens = [token for token in found if token] if "".join(found) == "".join(text.split()) else []
        self._licences, self._exceptions = identifiers()

    def read(self) -> str | None:
        """Return the whole text in SPDX's spelling, or None."""
        try:
            said = self._joined("OR", 0)
        except ValueError:
            return None
        return None if self._tokens else said

    def _joined(self, word: str, depth: int) -> str:
        inner = self._joined if word == "OR" else self._named
        parts = [inner("AND", depth)]
        while self._next_is(word):
            self._tokens.pop(0)
            parts.append(inner("AND", depth))
        return f" {word} ".join(parts)

    def _named(self, _: str, depth: int) -> str:
        if not self._tokens or depth > _DEEPEST:
            raise ValueError("a name is missing")
        name = self._tokens.pop(0)
        if name == "(":
            said = self._joined("OR", depth + 1)
            if not self._tokens or self._tokens.pop(0) != ")":
                raise ValueError("a bracket is missing")
            return f"({said})"
        return self._with_exception(self._licence(name))

    def _licence(self, name: str) -> str:
        known = self._licences.get(name.removesuffix("+").lower())
        if known is None:
            raise ValueError(f"{name} is no licence of SPDX's list")
        return known + "+" * name.endswith("+")

    def _with_exception(self, name: str) -> str:
        if not self._next_is("WITH"):
            return name
        self._tokens.pop(0)
        exception = self._exceptions.get(self._tokens.pop(0).lower()) if self._tokens else None
        if exception is None:
            raise ValueError("no exception of SPDX's list")
        return f"{name} WITH {exception}"

    def _next_is(self, word: str) -> bool:
        # PEP 639: the operators in any case, as well.
        return bool(self._tokens) and self._tokens[0].upper() == word

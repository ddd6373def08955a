"""The licence of a Debian package: its copyright file, read where it is machine-readable (copyright-format 1.0), else passed on as it stands.

Such a file speaks of the package's source, and so of all binary packages that are built from it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from stoker.catalog.tables import rows
from stoker.image.licence import MOST_WORDS, TABLE, Licence, identifiers, reference, together

_FORMAT = re.compile(r"Format(-Specification)?:\s*\S*(copyright-format|dep5|/dep/)", re.IGNORECASE)
_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*):[ \t]*(.*)")
_SHORT_NAME = re.compile(r"(.+?)(?:-([0-9][0-9.]*c?))?(\+?)")
# SPDX's own names are taken where they bring their version along: `MIT` and `X11` mean many things in Debian.
_PRECISE = re.compile(r".*-\d.*")


@dataclass(frozen=True, kw_only=True)
class _Family:
    """A short name of Debian, with all its versions."""

    versions: tuple[str, ...]
    """As SPDX writes them; empty: it has none."""
    licence: str
    later: str | None
    """What a `+` behind it means; None: nothing that SPDX has a name for."""


def licence_of_copyright(text: str, *, package: str, source: str) -> Licence | None:
    """Return the licence that a copyright file declares: that of its head, else all of those of its files. None: the file is empty.

    `package`: the source package; `source`: where the file lies.
    """
    if not text.strip():
        return None
    paragraphs = _paragraphs(text) if _FORMAT.match(text.lstrip("\ufeff\n ")) else []
    texts = {_synopsis(one): _body(one) for one in paragraphs if "files" not in one and "format" not in one and one.get("license")}
    declaring = [one for one in paragraphs[:1] if "license" in one] or [one for one in paragraphs if "files" in one]
    if not declaring or not all(one.get("license", "").strip() for one in declaring):
        return reference(f"{package}-copyright", text, source=source)
    return together([_declared(one, texts, package, source) for one in declaring], source=source)


def _paragraphs(text: str) -> list[dict[str, str]]:
    """Return the fields of each paragraph by their name in small letters (Debian policy, 5.1)."""
    found = []
    for block in re.split(r"\n[ \t]*\n+", text.strip("\n")):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            started = _FIELD.fullmatch(line)
            if started:
                name = started[1].lower()
                fields[name] = started[2].strip()
            elif name and line[:1] in (" ", "\t"):
                fields[name] += "\n" + line
        found.append(fields)
    return found


def _synopsis(paragraph: dict[str, str]) -> str:
    return paragraph["license"].partition("\n")[0].strip()


def _body(paragraph: dict[str, str]) -> str:
    return "\n".join(line[1:] for line in paragraph["license"].partition("\n")[2].splitlines())


def _declared(paragraph: dict[str, str], texts: dict[str, str], package: str, source: str) -> Licence:
    said, own = _synopsis(paragraph), _body(paragraph)
    if not said or len(said) > MOST_WORDS:
        return reference(package, own or said, source=source)
    return _choice(said, own, texts, source) or _named(said, own, texts, source)


def _choice(said: str, own: str, texts: dict[str, str], source: str) -> Licence | None:
    """Return `A or B and C`, where `and` binds closer; None where a comma says otherwise, which people write in many ways."""
    if "," in said or "/" in said or re.search(r"\bwith\b", said, re.IGNORECASE):
        return None
    choices = [re.split(r"\s+and\s+", choice, flags=re.IGNORECASE) for choice in re.split(r"\s+or\s+", said, flags=re.IGNORECASE)]
    if any(" " in name for choice in choices for name in choice):
        return None
    named = [together([_named(name, own, texts, source) for name in choice], source=source) for choice in choices]
    expression = " OR ".join(dict.fromkeys(one.expression for one in named))
    return Licence(expression=expression, texts={name: text for one in named for name, text in one.texts.items()}, source=source)


def _named(name: str, own: str, texts: dict[str, str], source: str) -> Licence:
    known = _spdx_name(name)
    return Licence(expression=known, source=source) if known else reference(name, texts.get(name) or own or name, source=source)


def _spdx_name(name: str) -> str | None:
    split = _SHORT_NAME.fullmatch(name)
    family = _families().get(split[1].lower()) if split else None
    if split and family:
        known = {_trimmed(one): one for one in family.versions} or {"": ""}
        version, pattern = known.get(_trimmed(split[2] or "")), family.later if split[3] else family.licence
        return None if version is None or pattern is None else pattern.format(version)
    return name if _PRECISE.fullmatch(name) and identifiers()[0].get(name.lower()) == name else None


def _trimmed(version: str) -> str:
    """Return a version without the zeros at its end: the format takes 2, 2.0 and 2.0.0 for one."""
    return re.sub(r"(\.0)+$", "", version)


@functools.lru_cache(maxsize=1)
def _families() -> dict[str, _Family]:
    found = {}
    for row in rows(TABLE, "debian", Path(__file__).parent):
        name = row.text("name").lower()
        found[name] = _Family(versions=row.texts("versions"), licence=row.text("licence"), later=row.maybe_text("later"))
        row.text("source")
        row.date("checked")
        row.end()
    return found

"""The licence that a Python package declares in its METADATA, by the rules of PEP 639: nothing is inferred that the package leaves open."""

from __future__ import annotations

import email.parser
import functools
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

from stoker.catalog.tables import rows
from stoker.image.licence import TABLE, Licence, reference, spdx_expression

_CLASSIFIER = "License :: "
# A parent of all others, and as generic as none.
_GENERIC = ("License :: OSI Approved", "License :: DFSG approved")
# What people write into a field that they must fill.
_NOTHING = ("", "UNKNOWN", "NONE")


def licence_of_metadata(text: str, files: Mapping[str, str]) -> Licence | None:
    """Return what METADATA says; None where it says nothing. `files`: the licence files that lie beside it, by name.

    An SPDX expression is what `License-Expression` or the whole of `License` holds, or what a single classifier means; all else is passed on as
    it stands, with the text of the licence files where the package brings some.
    """
    said = email.parser.Parser().parsestr(text, headersonly=True)
    declared = _field(said, "License-Expression")
    if declared:
        return _by_name(declared, "License-Expression", files)
    free, classifiers = _field(said, "License"), _classifiers(said)
    meant = {known for one in classifiers if (known := _meanings().get(one))} if len(classifiers) == 1 else set()
    written = spdx_expression(free)
    # Two fields that contradict each other declare neither.
    if written and (not meant or meant == {written}):
        return Licence(expression=written, source="METADATA, License")
    if meant and not written:
        return Licence(expression=meant.pop(), source=f"METADATA, {classifiers[0]}")
    if free or classifiers:
        return _as_it_stands(free, classifiers, files)
    return _by_files(files)


def _by_name(declared: str, field: str, files: Mapping[str, str]) -> Licence:
    expression = spdx_expression(declared)
    source = f"METADATA, {field}"
    return Licence(expression=expression, source=source) if expression else reference(declared, _text(declared, files), source=source)


def _as_it_stands(free: str, classifiers: list[str], files: Mapping[str, str]) -> Licence:
    fields = [*(["License"] if free else []), *(["classifiers"] if classifiers else [])]
    # Some put the whole text of the licence into the field: then a classifier is the better name.
    names = [*([free] if free and "\n" not in free else []), *(one.rpartition(" :: ")[2] for one in classifiers), *free.splitlines()[:1]]
    whole = "\n".join([*([free] if free else []), *classifiers])
    return reference(names[0], _text(whole, files), source=f"METADATA, {' and '.join(fields)}")


def _by_files(files: Mapping[str, str]) -> Licence | None:
    if not _text("", files).strip():
        return None
    return reference(" ".join(sorted(files)), _text("", files), source=f"the file {', '.join(sorted(files))}")


def _text(said: str, files: Mapping[str, str]) -> str:
    """Return what the package says, and the files that it refers to."""
    return "\n\n".join([*([said] if said else []), *(content.strip("\n") for _, content in sorted(files.items()))])


def _field(said: Message, name: str) -> str:
    value = str(said.get(name) or "").strip()
    return "" if value.upper() in _NOTHING else value


def _classifiers(said: Message) -> list[str]:
    found = {str(value).strip() for value in said.get_all("Classifier") or ()}
    return sorted(one for one in found if one.startswith(_CLASSIFIER) and one not in _GENERIC)


@functools.lru_cache(maxsize=1)
def _meanings() -> dict[str, str]:
    found = {}
    for row in rows(TABLE, "classifier", Path(__file__).parent):
        found[row.text("name")] = row.text("licence")
        row.text("source")
        row.date("checked")
        row.end()
    return found

"""HTML that is escaped unless it says that it is HTML."""

from __future__ import annotations

import html
import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML forbids, and halves of surrogate pairs, by which Python stands for bytes of file names that are no UTF-8."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return `value` as HTML: as it is when it is Html, else escaped, also for use in attributes."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element. `class_` is the attribute class, `aria_label` is aria-label; attributes of None are left out. Children are escaped."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items() if value is not None)
    if name in ("img", "line", "path", "circle", "rect", "br"):
        return Html(f"<{name}{shown}/>")
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Return parts one after the other; those that are None are left out."""
    return Html("".join(text(part) for part in parts if part is not None))

"""A whole page of HTML in the look that all of Stoker's pages share; it loads nothing from anywhere."""

from __future__ import annotations

import re
from pathlib import Path

from stoker.runs.markup import Html, text


def whole_page(title: str, body: Html, *, style: str = "") -> str:
    """Return the page: `title` is escaped, `style` is CSS that only this kind of page needs."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    parts = {"title": text(title), "body": body}
    return re.sub(r"\{\{(title|body)\}\}", lambda found: parts[found[1]], template.replace("</style>", style + "</style>", 1))

"""A program that is to be run with this terminal, by `attached.run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Session:
    """A command line, and what it needs."""

    words: tuple[str, ...]
    environment: Mapping[str, str] | None = None
    """None: that of this process."""
    terminal: bool = False
    """Whether it gets a terminal of its own inside: keys, Ctrl-C among them, go there."""
    mark: str = ""
    """By which what it started inside is found again; empty: no need."""

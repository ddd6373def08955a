"""Ready-made wishes for `stoker image init`, and what `latest` means: the table `presets.toml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from stoker.catalog.tables import rows
from stoker.errors import UnknownName, nearest


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Wishes with a name."""

    name: str
    says: str
    """What it is for."""
    python: str
    torch: str
    """`2.8.0` or `latest`."""
    cuda: tuple[str, ...]
    """`auto`, or as `12.6`."""


@functools.cache
def presets() -> tuple[Preset, ...]:
    """Return all presets, the most usual first. Raises BadValue when the table is broken."""
    found = []
    for row in rows("presets.toml", "preset", _FOLDER):
        preset = Preset(name=row.text("name"), says=row.text("says"), python=row.version("python"), torch=row.text("torch"), cuda=row.texts("cuda"))
        row.end()
        found.append(preset)
    return tuple(found)


def find_preset(name: str) -> Preset:
    """Return a preset by its name. Raises UnknownName with the nearest."""
    names = [preset.name for preset in presets()]
    if name not in names:
        like = nearest(name, names)
        raise UnknownName(f"there is no preset {name!r}" + (f"; the nearest is {like!r}" if like else ""), hint=f"there are {', '.join(names)}")
    return presets()[names.index(name)]


@functools.cache
def newest_tried() -> str:
    """Return the PyTorch that `latest` means. Raises BadValue when the table is broken."""
    (row,) = rows("presets.toml", "newest", _FOLDER)
    torch = row.version("torch")
    row.text("source")
    row.date("checked")
    row.end()
    return torch


_FOLDER = Path(__file__).parent

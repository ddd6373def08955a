"""The name of what is started: the person's own, else one made of the project's folder and the kind."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from stoker.errors import BadValue, NameTaken
from stoker.launch.wanted import Wanted

if TYPE_CHECKING:
    from stoker.launch.containers import Container

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_LONGEST = 63
"""Of a host name's part: the container's name is its host name, too."""


def checked_name(name: str) -> str:
    """Return a name that somebody chose. Raises BadValue."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise BadValue(
            f"--name {name!r:.100} is no name: lower case letters, digits, and . _ - after the first, {_LONGEST} at most",
            hint=f"--name {fit(name)}",
        )
    return name


def fit(text: str) -> str:
    """Return any text as a name."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-._")[: _LONGEST - 15] or "project"


def name_of(wanted: Wanted) -> str:
    """Return the name that was chosen, else the first choice of the default: `PROJECT-notebook`. Raises BadValue."""
    if wanted.name is not None:
        return checked_name(wanted.name)
    return f"{fit(wanted.prefix or (wanted.project.name if wanted.project else ''))}-{wanted.kind}"


def taken(container: Container) -> NameTaken:
    """Return the error for a name that was chosen and that a container has."""
    name, running = container.name, container.running
    return NameTaken(
        f"there is a {'running ' if running else ''}container {name} already ({container.engine}, {container.state})",
        hint=f"{f'stoker stop {name}; ' if running else ''}stoker rm {name}; or take another --name",
    )


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or the first of `name-2`, `name-3` and so on that nobody has."""
    numbers = range(2, len(taken) + 3)
    return next(one for one in (name, *(f"{name}-{number}" for number in numbers)) if one not in taken)

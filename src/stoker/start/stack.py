"""The stack by hand: STOKER_STACK for one command or container, `stoker stack use` for all that starts from now on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stoker.errors import UnknownName, nearest
from stoker.files import write_text_atomically, writing
from stoker.start.choice import Wanted
from stoker.start.image import Image

VARIABLE = "STOKER_STACK"
"""The person's wish, by environment: the strongest."""
CHOSEN = "STOKER_STACK_CHOSEN"
"""What the start of the container chose: the weakest. It also says that the start went over this environment."""
AUTOMATIC = "auto"
_FILE = ".stoker/stack"
_USE = "`stoker stack use`"


def remembered(home: Path) -> Path:
    """Return the file in which `stoker stack use` keeps its choice; `image/rootfs/dispatch` reads it, too."""
    return home / _FILE


def wanted_stack(image: Image, environment: Mapping[str, str], home: Path) -> Wanted | None:
    """Return the stack that the person named, or None. A name in the file that this image lacks is another image's: a home outlives images."""
    if named := environment.get(VARIABLE, "").strip():
        return Wanted(name=named, by=VARIABLE)
    try:
        kept = remembered(home).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return Wanted(name=kept, by=_USE) if any(stack.name == kept for stack in image.stacks) else None


def in_use(image: Image, environment: Mapping[str, str], home: Path) -> Wanted | None:
    """Return the stack that `python` is now, and by what; None where nothing has decided yet (not started by `stoker-start`)."""
    wanted = wanted_stack(image, environment, home)
    if wanted:
        return wanted
    chosen = environment.get(CHOSEN)
    return Wanted(name=chosen, by="the start of the container") if chosen else None


def use(image: Image, name: str, home: Path) -> None:
    """Remember a stack for shells, notebooks and logins, or forget it (`auto`). Raises UnknownName, DiskFull, RunFolderUnwritable."""
    path = remembered(home)
    names = [stack.name for stack in image.stacks]
    if name == AUTOMATIC:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    if name not in names:
        like = nearest(name, [*names, AUTOMATIC])
        raise UnknownName(
            f"this image has no stack {name!r}" + (f"; the nearest is {like!r}" if like else ""), hint=f"there are: {', '.join([*names, AUTOMATIC])}"
        )
    with writing(path):
        os.makedirs(path.parent, mode=0o700, exist_ok=True)
    write_text_atomically(path, name + "\n")

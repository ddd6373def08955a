"""The environment of everything in a container: the chosen stack, PATH, home, threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stoker.start.home import Person
from stoker.start.stack import CHOSEN
from stoker.start.threads import thread_settings

PROGRAMS = Path("/opt/stoker/bin")
"""The programs of the image, which all go to the stack that is chosen."""
STACKS = Path("/opt/stoker")
KERNELS = "/opt/stoker/share/jupyter"
"""Where the notebook kernels of the stacks are listed; before the stack's own, which would hide them."""
ZSH = Path("/opt/stoker/share/zsh")
"""The image's .zshrc, for homes that have none: zsh would greet the person with its questionnaire."""
_SYSTEM = "/usr/local/bin:/usr/bin:/bin"


def prepared(given: Mapping[str, str], *, stack: str, who: Person, cores: int, machine_cores: int, zsh: Path = ZSH) -> dict[str, str]:
    """Return the environment for what is started, from the one that was given; what the person set is kept."""
    defaults = {"USER": who.name or "stoker", "LOGNAME": who.name or "stoker", "SHELL": who.shell, "LANG": "C.UTF-8"}
    if zsh.is_dir() and not (who.home / ".zshrc").exists():
        defaults["ZDOTDIR"] = str(zsh)
    return {
        **defaults,
        **given,
        **thread_settings(cores, machine_cores, given),
        "HOME": str(who.home),
        "PATH": _path(given.get("PATH") or _SYSTEM, stack),
        "JUPYTER_PATH": _first(KERNELS, given.get("JUPYTER_PATH", "")),
        CHOSEN: stack,
    }


def _path(given: str, stack: str) -> str:
    # Last: for a program of the stack that has no shim in PROGRAMS.
    return _first(str(PROGRAMS), f"{given}:{STACKS / stack / 'bin'}")


def _first(wanted: str, path: str) -> str:
    return ":".join(dict.fromkeys([wanted, *(part for part in path.split(":") if part)]))

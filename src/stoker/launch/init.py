"""Whether an engine has a program for `--init`: it is a package of its own that may be missing, and then the start fails."""

from __future__ import annotations

import shutil
from pathlib import Path

from stoker.launch.engine import Engine

_PROGRAMS = {"podman": "catatonit", "docker": "docker-init"}
_FOLDERS = {
    # containers.conf(5), helper_binaries_dir
    "podman": ("usr/local/libexec/podman", "usr/local/lib/podman", "usr/libexec/podman", "usr/lib/podman"),
    # moby: daemon/config; the packages of Fedora and Docker put it here
    "docker": ("usr/local/libexec/docker", "usr/libexec/docker", "usr/local/lib/docker", "usr/lib/docker"),
}


def has_init(engine: Engine, *, root: Path = Path("/")) -> bool:
    """Tell whether `--init` works. Of a docker daemon on another machine it is not known: no."""
    name = _PROGRAMS[engine.name]
    return shutil.which(name) is not None or any((root / folder / name).exists() for folder in _FOLDERS[engine.name])

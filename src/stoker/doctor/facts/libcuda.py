"""The copies of the driver's libraries (libcuda, libnvidia-ml), in the order in which the loader looks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.host.place import read

_NAMES = ("libnvidia-ml.so.1", "libcuda.so.1")
_VERSION = re.compile(r"\.so\.(\d{3,4}(?:\.\d{1,4}){1,2})$")
_ELF_64 = b"\x7fELF\x02"
# The loader's built-in folders, and those where NVIDIA's containers, WSL and cuda-compat put copies.
_STANDARD = ("lib64", "usr/lib64", "lib", "usr/lib", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "run/opengl-driver/lib")
_OTHERS = ("usr/lib/wsl/lib", "usr/local/nvidia/lib64", "usr/local/nvidia/lib", "usr/local/cuda/compat", "usr/local/cuda/compat/lib.real")


@dataclass(frozen=True, kw_only=True)
class Library:
    """A copy of libcuda or libnvidia-ml."""

    path: str
    """Where the link ends, as /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05."""
    version: str | None = None
    """From the file's name: "580.95.05"; None: the name does not tell."""
    first: bool = False
    """Whether the loader takes this one of its kind."""


def find_libraries(root: Path, search_path: str | None = None) -> tuple[Library, ...]:
    """Return every copy, the loader's choice first. `search_path` stands for LD_LIBRARY_PATH. Reads a few dozen names: milliseconds."""
    text = os.environ.get("LD_LIBRARY_PATH", "") if search_path is None else search_path
    # What LD_LIBRARY_PATH names is of this process, not of the written-down machine below `root`.
    asked = [Path(part) for part in re.split("[:;]", text) if part.startswith("/")]
    loader = [*asked, *_configured(root), *(root / name for name in _STANDARD)]
    found: dict[str, Library] = {}
    for name in _NAMES:
        taken = False
        for position, folder in enumerate([*loader, *(root / other for other in _OTHERS)]):
            target = _target(folder / name)
            if target is None or _shown(target, root) in found:
                continue
            first = not taken and position < len(loader)
            taken = taken or first
            version = _VERSION.search(target.name)
            found[_shown(target, root)] = Library(path=_shown(target, root), version=version[1] if version else None, first=first)
    return tuple(sorted(found.values(), key=lambda library: not library.first))


def as_loaded(found: tuple[Library, ...], paths: Iterable[str]) -> tuple[Library, ...]:
    """Correct the order by what the loader really took: it reads a cache, which may differ from its configuration."""
    known = {library.path: library for library in found}
    for path in paths:
        kind = Path(path).name.partition(".so")[0]
        for other in [library for library in known.values() if library.first and Path(library.path).name.startswith(f"{kind}.so")]:
            known[other.path] = replace(other, first=False)
        version = _VERSION.search(path)
        known[path] = Library(path=path, version=version[1] if version else None, first=True)
    return tuple(sorted(known.values(), key=lambda library: not library.first))


def _configured(root: Path) -> list[Path]:
    """Return the folders of /etc/ld.so.conf and ld.so.conf.d, in the order of their files."""
    try:
        files = sorted((root / "etc/ld.so.conf.d").glob("*.conf"))
    except OSError:
        files = []
    lines = [line.strip() for file in (*files, root / "etc/ld.so.conf") for line in (read(file) or "").splitlines()]
    return [root / line.lstrip("/") for line in lines if line.startswith("/")]


def _target(path: Path) -> Path | None:
    """Return the file that a library's link ends at, when it is a library for 64 bits."""
    try:
        target = path.resolve(strict=True)
        with target.open("rb") as file:
            return target if file.read(5) == _ELF_64 else None
    except (OSError, RuntimeError):
        return None


def _shown(path: Path, root: Path) -> str:
    resolved = root.resolve()
    return f"/{path.relative_to(resolved)}" if root != Path("/") and path.is_relative_to(resolved) else str(path)

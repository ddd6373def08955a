"""What the name of a wheel says (PEP 425, 427, 600): for which Python, glibc and machine it is, and which of several fits best."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FILE = re.compile(
    r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[A-Za-z0-9._+!]+)(?:-(?P<build>\d[A-Za-z0-9_.]*))?"
    r"-(?P<pythons>[A-Za-z0-9_.]+)-(?P<abis>[A-Za-z0-9_.]+)-(?P<platforms>[A-Za-z0-9_.]+)\.whl"
)
# The old names of manylinux tags (PEP 600).
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the wheels must fit."""

    python: str
    """The image's own, in full: `3.13.5`."""
    machine: str
    """`x86_64` or `aarch64`."""
    glibc: tuple[int, int]
    """(2, 36) in bookworm, (2, 41) in trixie."""


@dataclass(frozen=True, kw_only=True)
class WheelName:
    """A wheel's file name, taken apart."""

    name: str
    """Normalised: lower case, `-` between words."""
    version: str
    build: tuple[int, str]
    """Of two builds of one version the higher one is the newer; (0, ""): none named."""
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    def rank(self, target: Target) -> tuple[int, ...] | None:
        """Return how well it fits, more being better; None: not at all.

        As installers choose: the closest Python and ABI first, then the newest glibc that is there, then the build.
        """
        python = max(self._python_ranks(target), default=None)
        platform = max(self._platform_ranks(target), default=None)
        return (*python, *platform, self.build[0]) if python and platform else None

    def _python_ranks(self, target: Target) -> Iterator[tuple[int, int]]:
        major, minor = (int(part) for part in target.python.split(".")[:2])
        for python in self.pythons:
            for abi in self.abis:
                tag = re.fullmatch(r"(cp|py)(\d)(\d*)", python)
                if not tag or int(tag[2]) != major or int(tag[3] or 0) > minor:
                    continue
                older = int(tag[3] or 0)
                if (python, abi) == (f"cp{major}{minor}", f"cp{major}{minor}"):
                    yield 4, 0
                elif tag[1] == "cp" and abi == "abi3":
                    yield 3, older
                elif abi == "none" and (tag[1] == "py" or older == minor):
                    yield (2, older) if tag[1] == "cp" else (1, older)

    def _platform_ranks(self, target: Target) -> Iterator[tuple[int, int, int]]:
        for platform in self.platforms:
            if platform == "any":
                yield 0, 0, 0
            elif platform == f"linux_{target.machine}":
                yield 1, 0, 0
            elif platform.endswith(f"_{target.machine}"):
                tag = platform.removesuffix(f"_{target.machine}")
                named = re.fullmatch(r"manylinux_(\d+)_(\d+)", tag)
                glibc = (int(named[1]), int(named[2])) if named else _LEGACY.get(tag)
                if glibc and glibc <= target.glibc:
                    yield 2, *glibc


def parsed(file: str) -> WheelName | None:
    """Return what a file name says; None when it is no wheel's."""
    found = _FILE.fullmatch(file)
    if not found:
        return None
    build = re.match(r"(\d+)(.*)", found["build"] or "")
    return WheelName(
        name=normalised(found["name"]),
        version=found["version"].lower(),
        build=(int(build[1]), build[2]) if build else (0, ""),
        pythons=tuple(found["pythons"].split(".")),
        abis=tuple(found["abis"].split(".")),
        platforms=tuple(found["platforms"].split(".")),
    )


def normalised(name: str) -> str:
    """Return a project's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

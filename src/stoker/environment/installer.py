"""uv, which installs the packages: found or fetched, told about the mirror that pip is configured for, and watched."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.console import say
from stoker.environment.mirror import mirror_variables
from stoker.environment.tail import follow
from stoker.errors import SetupError

# Below this uv lacks UV_DEFAULT_INDEX or relocatable environments.
_OLDEST_UV = (0, 5, 0)
# Settings of the user's that would send packages elsewhere or change which ones are installed.
_UNWANTED = ("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV")
_NO_SPACE = re.compile(r"no space left on device|os error 28\b|disk quota exceeded|os error 122\b", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"error sending request|failed to fetch|dns error|network connectivity is disabled|network was disabled|timed? ?out|connection "
    r"|failed to download|could not connect|temporary failure in name|no matching distribution|newconnectionerror|retrieve"
    # What uv says of an index that lacks a locked version, or (with UV_OFFLINE) of a cache that does.
    r"|there is no version of|was not found in the",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Installer:
    """uv and the variables it runs with."""

    program: Path
    variables: dict[str, str]
    keep_open: tuple[int, ...] = ()
    """File descriptors that uv inherits: it holds the set-up's lock too, so that nobody starts beside a uv that outlived us."""

    def run(self, arguments: Sequence[str], *, folder: Path) -> str:
        """Run uv, show its progress and return what it said. Raises SetupError with the end of its message."""
        code, said = follow([str(self.program), *arguments], folder=folder, variables=self.variables, keep_open=self.keep_open)
        if code != 0:
            raise explained(f"uv {' '.join(arguments[:2])}", said, folder)
        return said

    def ask(self, arguments: Sequence[str], *, folder: Path) -> str:
        """Run uv quietly and return all that it said, also when it failed."""
        command = [str(self.program), *arguments]
        try:
            done = subprocess.run(
                command, cwd=folder, env=self.variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace")


def find_installer(root: Path, *, keep_open: tuple[int, ...] = ()) -> Installer:
    """Return the uv on PATH, else our own in `.venv.uv`, which is fetched when it is not there. Raises SetupError."""
    own = root / ".venv.uv"
    program = next((path for path in (Path("uv"), own / "bin/uv") if _works(path)), None)
    if program is None:
        _fetch(own, root / "locks/uv.txt", keep_open)
        program = own / "bin/uv"
    variables = {key: value for key, value in os.environ.items() if key not in _UNWANTED}
    return Installer(program=program, variables=variables | mirror_variables(variables), keep_open=keep_open)


def explained(action: str, said: str, folder: Path) -> SetupError:
    """Turn what uv or pip said before it failed into an error with a hint."""
    last = "\n".join(said.strip().splitlines()[-12:])
    if _NO_SPACE.search(said):
        return no_space(folder, None, f"{action} failed:\n{last}")
    if re.search(r"hash mismatch|do not match the hashes", said, re.IGNORECASE):
        hint = "the package index serves other files than those that were locked and tested: use another index or mirror (UV_DEFAULT_INDEX)"
    elif _NO_NETWORK.search(said):
        hint = (
            "is the network up, and does the package index have what is locked? Behind a proxy set HTTPS_PROXY; behind a mirror set "
            "UV_DEFAULT_INDEX (or PIP_INDEX_URL) to its address and SSL_CERT_FILE to its certificate. "
            "Then run the same command again: what was fetched is kept"
        )
    else:
        hint = "run the same command again; what was fetched is kept"
    return SetupError(f"{action} failed:\n{last}", hint=hint)


def no_space(folder: Path, need_bytes: int | None, message: str) -> SetupError:
    """Say how much room there is, and how much is needed."""
    free = f"{free_bytes(folder) / 1e9:.1f} GB are free in {folder}"
    needed = f"{need_bytes / 1e9:.1f} GB are needed, " if need_bytes else ""
    return SetupError(
        f"{message}\n{needed}{free}",
        hint="free space there, or move the tree to a larger disk (UV_CACHE_DIR moves uv's cache). Then run the same command again",
    )


def free_bytes(folder: Path) -> int:
    """Return the free space that an ordinary user has in the file system of `folder`, or of its nearest parent that is there."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            status = os.statvfs(place)
            return status.f_bavail * status.f_frsize
    return 0


def _works(program: Path) -> bool:
    """Whether this uv starts (a shim may not) and is new enough."""
    found = shell.run([str(program), "--version"], timeout_s=20)
    version = re.match(r"uv (\d+)\.(\d+)\.(\d+)", found.out)
    return found.ok and version is not None and tuple(map(int, version.groups())) >= _OLDEST_UV


def _fetch(own: Path, lock: Path, keep_open: tuple[int, ...]) -> None:
    """Install uv into `own` with whatever this Python has: pip, or the pip that venv brings."""
    say(f"  uv      fetching it into {own.name} (24 MB)")
    wanted = ["--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    pip, venv = [sys.executable, "-m", "pip", "install"], [sys.executable, "-m", "venv", "--clear", str(own)]
    pip_there = shell.run([sys.executable, "-m", "pip", "--version"], timeout_s=60).ok
    venv_there = shell.run([sys.executable, "-c", "import ensurepip, venv"], timeout_s=60).ok
    if pip_there:
        steps = [[*pip, "--target", str(own), "--upgrade", *wanted]]
    elif venv_there:
        steps = [venv, [str(own / "bin/python"), "-m", "pip", "install", *wanted]]
    else:
        raise SetupError(
            f"there is no uv here, and {sys.executable} has neither pip nor venv with which to fetch it",
            hint="on Debian and Ubuntu: `apt install python3-venv`; elsewhere install pip for this Python, or uv. Then run the same command again",
        )
    for step in steps:
        code, said = follow(step, folder=own.parent, variables=dict(os.environ), keep_open=keep_open)
        if code != 0:
            raise explained("fetching uv", said, own.parent)
    if not _works(own / "bin/uv"):
        raise SetupError(f"the uv in {own} does not start on this machine", hint="install uv by other means, so that `uv --version` works")

"""uv, which resolves packages: found or fetched, run quietly, and its last words turned into our errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.environment.installer import find_installer
from stoker.environment.mirror import mirror_variables
from stoker.errors import BuildFailed, DiskFull, DownloadFailed, PackageGone, ProgramMissing, SetupError, StokerError
from stoker.image.temporary import temporary_folder
from stoker.image.web import masked

# From here on `uv pip compile` writes pylock.toml.
_OLDEST = (0, 7, 0)
# What would send packages elsewhere, change which ones are taken, or ask for another Python. Whatever a person sets for
# projects of their own is not part of an image, which is described by stoker.toml.
_UNWANTED_PYTHON = ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "VIRTUAL_ENV")
_UNWANTED_PROJECT = ("UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR")
_UNWANTED_CHOICE = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_BUILD_CONSTRAINT", "UV_TORCH_BACKEND", "UV_NO_BINARY", "UV_RESOLUTION")
_UNWANTED = frozenset((*_UNWANTED_PYTHON, *_UNWANTED_PROJECT, *_UNWANTED_CHOICE))
_TIMEOUT_S = 900.0
_NO_SPACE = re.compile(r"no space left on device|os error 28\b|disk quota exceeded|os error 122\b", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"error sending request|dns error|tcp connect|connection (refused|reset)|timed out|network connectivity is disabled|server error"
    r"|error decoding response body|request failed after",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"status code 40[13]\b|401 unauthorized|403 forbidden", re.IGNORECASE)
_PROXY_REFUSED = re.compile(r"status code 407\b|407 proxy authentication", re.IGNORECASE)
_GONE = re.compile(r"no solution found|was not found in the|there is no version of|no versions of", re.IGNORECASE)
# Stoker itself needs it, and every package index has it.
_OWN_GONE = re.compile(r"because (click was not found|there are no versions of click) ", re.IGNORECASE)
_OWN_GONE_HINT = "what answers there is no package index: is its address whole (most end in /simple), and does it want a login?"
_GONE_HINT = "is the name right, and is there a wheel for the image's Python? Another version, or other versions beside it, may fit"
_INSTALL_HINT = "`python -m pip install uv` (or your own way to install it), so that `uv --version` works"
_NETWORK_HINT = (
    "is the network up? Behind a proxy set HTTPS_PROXY; behind a mirror name it in stoker.toml (mirrors) or in UV_DEFAULT_INDEX or PIP_INDEX_URL, "
    "and its certificate in SSL_CERT_FILE. Then run the same command again"
)


@dataclass(frozen=True, kw_only=True)
class Uv:
    """uv and the variables it runs with."""

    program: Path
    variables: Mapping[str, str]

    def ask(self, arguments: Sequence[str], *, stdin: str = "", timeout_s: float = _TIMEOUT_S, more: Mapping[str, str] | None = None) -> str:
        """Run uv in an empty folder, so that no project's settings count, and return its stdout. `more`: further variables.

        Raises BuildFailed, PackageGone (there is no such package, or no versions that fit together), DownloadFailed and DiskFull,
        with uv's last lines. Addresses in them are masked; they never stand in the argument list, where `ps` would show them.
        """
        with temporary_folder("uv") as folder:
            code, out, err = self._run([str(self.program), *arguments], folder, {**self.variables, **(more or {})}, stdin, timeout_s)
        if code != 0:
            raise explained(arguments, err, code)
        return out

    def _run(self, command: list[str], folder: Path, variables: Mapping[str, str], stdin: str, timeout_s: float) -> tuple[int | None, str, str]:
        """Run uv and drain both pipes; ended when we are interrupted."""
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None, "", f"no answer within {timeout_s:g} s"
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process.returncode, out, err


def compiling(*, python: str, platform: str, torch_index: str | None = None) -> list[str]:
    """Return the arguments that have uv resolve what stands on its stdin (add `-`) to wheels, as a pylock.toml.

    `python`: the image's; `platform`: as uv names it. `torch_index`: PyTorch's own index that its packages come from, as `cu126`.
    """
    arguments = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:", "--format", "pylock.toml"]
    # The Python that uv itself needs is ours: looking for one of the image's version would take seconds.
    arguments += ["--python", sys.executable, "--python-version", python, "--python-platform", platform]
    return [*arguments, *(["--torch-backend", torch_index] if torch_index else [])]


def find_uv(environ: Mapping[str, str]) -> Uv:
    """Return the uv on PATH, else the one of the source tree, fetched there when need be. Raises ProgramMissing."""
    program = _program()
    found = shell.run([str(program), "--version"], timeout_s=20)
    version = tuple(map(int, re.findall(r"\d+", found.out)[:3]))
    if version < _OLDEST:
        raise ProgramMissing(
            f"{found.out.strip() or 'uv'} is too old for images: {'.'.join(map(str, _OLDEST))} or newer is needed",
            hint="`python -m pip install -U uv`",
        )
    kept = {key: value for key, value in environ.items() if key not in _UNWANTED}
    fixed = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    return Uv(program=program, variables=kept | mirror_variables(kept) | fixed)


def _program() -> Path:
    """Return uv's path: on PATH, beside our Python, or in the source tree, where it is fetched with its locked hash when need be."""
    beside = Path(sys.prefix) / "bin/uv"
    if (tree := _tree()) is None or beside.is_file():
        for candidate in (Path("uv"), beside):
            if shell.run([str(candidate), "--version"], timeout_s=20).ok:
                return candidate
        if tree is None:
            raise ProgramMissing("uv, which finds the packages of an image, is not there", hint=_INSTALL_HINT)
    try:
        return find_installer(tree).program
    except SetupError as error:
        raise ProgramMissing(
            f"uv, which finds the packages of an image, is not there and could not be fetched: {masked(error.message)}", hint=_INSTALL_HINT
        ) from error


def _tree() -> Path | None:
    """Return the source tree that we run from, or None for an installed package."""
    tree = Path(__file__).resolve().parents[3]
    return tree if (tree / "locks/uv.txt").is_file() and os.access(tree, os.W_OK) else None


def explained(arguments: Sequence[str], said: str, code: int | None) -> StokerError:
    """Turn what uv said before it failed into an error with a hint."""
    last = masked("\n".join([line for line in said.strip().splitlines() if not line.startswith("Resolved ")][-12:]))
    message = f"uv {' '.join(arguments[:2])} failed" + (f" (status {code})" if code not in (None, 1, 2) else "") + f":\n{last}"
    if _NO_SPACE.search(said):
        return DiskFull(message, hint="free space, or move uv's cache to a larger disk with UV_CACHE_DIR. Then run the same command again")
    if _PROXY_REFUSED.search(said):
        return DownloadFailed(message, hint="the proxy wants a login: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT")
    if _REFUSED.search(said):
        return DownloadFailed(
            message,
            hint="the index wants a (or another) login: https://USER:PASSWORD@HOST/... as its address, or a line in ~/.netrc",
        )
    if _NO_NETWORK.search(said):
        return DownloadFailed(message, hint=_NETWORK_HINT)
    if _GONE.search(said):
        return PackageGone(message, hint=_OWN_GONE_HINT if _OWN_GONE.search(said) else _GONE_HINT)
    return BuildFailed(message, hint="what uv says above is the cause; then run the same command again")

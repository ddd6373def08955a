"""Stoker's own files as they stand in an image: its source, its kernels built by the image's compiler, its metadata.

They are those of the Stoker that runs, from a source tree or from an installed wheel, with the same hash from either: no time, no path of this
machine, nothing that a build tool's version decides. The kernels are built by the image's own gcc, so that the base decides about their bytes,
not the machine that builds.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
import io
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker import __version__
from stoker.errors import BuildFailed
from stoker.image.entries import Entry, file
from stoker.image.lock import Own
from stoker.image.root import Root

HOME = "opt/stoker/lib"
"""Where they stand in an image."""
KERNELS = {
    "stoker/data/_augment": "augment.c",
    "stoker/_pool": "pool.c",
    "stoker/boost/models/_adadelta": "adadelta.c",
    "stoker/boost/models/_dropout": "dropout.c",
    "stoker/boost/replay/_replay": "replay.c",
}
"""Module of each kernel -> its source in `native/`, as in setup.py."""

_PACKAGE = Path(__file__).resolve().parents[1]
_TREE = _PACKAGE.parents[1]
_NAME = "stoker"
_DIST_INFO = f"{_NAME}-{__version__}.dist-info"
# Beside Python's own rubbish what editors, git and merges leave in a source tree.
_NOT_OURS = re.compile(r"__pycache__|\..*|.*~|.*\.(pyc|pyo|so|orig|rej|bak|swp)")
# As CPython's own flags, with which setup.py has them built: signed integers wrap. No build id and no debugging symbols, which hold paths.
FLAGS = ("-shared", "-fPIC", "-O3", "-fno-math-errno", "-DNDEBUG", "-fwrapv", "-fno-strict-aliasing", "-s", "-Wl,--build-id=none")
_COMPILE_S = 300.0
_NO_COMPILER = 42
# The standard library has it from Python 3.11 on; tomli is the same module for 3.10.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True, kw_only=True)
class _About:
    """What pyproject.toml says, or the metadata that was made of it."""

    requires_python: str
    requirements: tuple[str, ...]
    entry_points: tuple[tuple[str, str, str], ...]
    """Group, name, value."""


def own() -> Own:
    """Return what the lock remembers of this Stoker: another one makes other images. Raises BuildFailed."""
    told = hashlib.sha256()
    for path, content in sorted(own_files().items()):
        told.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return Own(version=__version__, sha256=told.hexdigest())


def own_files() -> dict[str, bytes]:
    """Return Stoker's files by their path below `site-packages`: the package, the C of its kernels, its metadata without RECORD.

    Raises BuildFailed when the C is not there or a file cannot be read.
    """
    try:
        found = {f"{_NAME}/{path}": content for path, content in _below(_PACKAGE)}
        if not any(path.startswith(f"{_NAME}/native/") for path in found):
            found |= {f"{_NAME}/native/{path}": content for path, content in _below(_TREE / "native")}
    except OSError as error:
        raise BuildFailed(f"Stoker's own file {error.filename} cannot be read ({error.strerror})", hint="install Stoker again") from error
    missing = [source for source in KERNELS.values() if f"{_NAME}/native/{source}" not in found]
    if missing:
        raise BuildFailed(f"this Stoker was installed without the C source of its kernels ({', '.join(missing)})", hint="install Stoker again")
    return found | _metadata()


def own_entries(root: Root, bytecode: Mapping[str, bytes]) -> list[Entry]:
    """Return the entries of `opt/stoker/lib`: `own_files()`, kernels built by the image's gcc, `bytecode` by path, and the RECORD.

    An image without a compiler gets no kernels: torch and numpy do the work then. Raises BuildFailed when gcc refuses.
    """
    files = own_files()
    built = kernels(root, {path.rpartition("/")[2]: content for path, content in files.items() if path.startswith(f"{_NAME}/native/")})
    whole = {**files, **built, f"{_DIST_INFO}/INSTALLER": b"stoker\n"}
    # Bytecode is named without a hash, as installers do: it can be made again.
    whole[f"{_DIST_INFO}/RECORD"] = record(whole, [*bytecode, f"{_DIST_INFO}/RECORD"])
    return [file(f"{HOME}/{path}", content) for path, content in sorted({**whole, **bytecode}.items())]


def kernels(root: Root, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the kernels by path below `site-packages`, built in `root` from the files of `native/`; none where there is no gcc."""
    commands = [f"gcc {' '.join(FLAGS)} -o {number}.so {source}" for number, source in enumerate(KERNELS.values())]
    script = "\n".join(
        [
            f"command -v gcc >/dev/null || exit {_NO_COMPILER}",
            "set -e",
            "folder=$(mktemp -d)",
            'cd "$folder"',
            "tar -xf -",
            *commands,
            "tar -cf - *.so",
        ]
    )
    answer = root.run(["/bin/sh", "-c", script], input=_tar(sources), timeout_s=_COMPILE_S)
    if answer.code == _NO_COMPILER:
        return {}
    if not answer.ok:
        last = "\n".join(answer.err.strip().splitlines()[-5:])
        raise BuildFailed(f"the image's compiler refused Stoker's kernels (exit status {answer.code}):\n{last}", hint="report it with the text above")
    with tarfile.open(fileobj=io.BytesIO(answer.out)) as archive:
        made = {member.name: content.read() for member in archive if (content := archive.extractfile(member)) is not None}
    # Plain `.so`: every Python looks for this suffix too, so that the file does not depend on the version.
    return {f"{module}.so": made[f"{number}.so"] for number, module in enumerate(KERNELS)}


def own_wheel() -> tuple[str, dict[str, bytes]]:
    """Return the file name of this Stoker as a wheel for any machine (no kernels: they are optional), and its files with the RECORD."""
    files = own_files()
    files[f"{_DIST_INFO}/RECORD"] = record(files, [f"{_DIST_INFO}/RECORD"])
    return f"{_NAME}-{__version__}-py3-none-any.whl", files


def record(files: Mapping[str, bytes], unhashed: Iterable[str]) -> bytes:
    """Return the RECORD of a distribution (PEP 376, PEP 427)."""
    rows = [f"{path},sha256={_urlsafe(content)},{len(content)}" for path, content in files.items()]
    return ("\n".join(sorted([*rows, *(f"{path},," for path in unhashed)])) + "\n").encode()


def _urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _below(folder: Path) -> Iterable[tuple[str, bytes]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _NOT_OURS.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from ((f"{path.name}/{below}", content) for below, content in _below(path))
        else:
            yield path.name, path.read_bytes()


def _metadata() -> dict[str, bytes]:
    about = _about()
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {_NAME}",
        f"Version: {__version__}",
        f"Requires-Python: {about.requires_python}",
        *(f"Requires-Dist: {requirement}" for requirement in about.requirements),
    ]
    groups = sorted({group for group, _, _ in about.entry_points})
    points = [
        line for group in groups for line in (f"[{group}]", *(f"{name} = {value}" for one, name, value in about.entry_points if one == group), "")
    ]
    return {
        f"{_DIST_INFO}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{_DIST_INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: stoker\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{_DIST_INFO}/entry_points.txt": "\n".join(points).encode(),
        **_license(),
    }


def _about() -> _About:
    if (_TREE / "pyproject.toml").is_file() and (_TREE / "native").is_dir():
        # The metadata of an editable installation may be older than the tree.
        project = _toml.loads((_TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"console_scripts": project["scripts"], **project["entry-points"]}
        points = [(group, name, value) for group, rows in groups.items() for name, value in rows.items()]
        return _sorted(project["requires-python"], project["dependencies"], points)
    try:
        found = importlib.metadata.distribution(_NAME)
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildFailed("this Stoker has no metadata: it was copied, not installed", hint="install Stoker with pip or uv") from error
    requirements = [requirement for requirement in found.requires or [] if not re.search(r"\bextra\s*==", requirement)]
    return _sorted(found.metadata["Requires-Python"], requirements, [(point.group, point.name, point.value) for point in found.entry_points])


def _sorted(requires_python: str, requirements: Iterable[str], points: Iterable[tuple[str, str, str]]) -> _About:
    # Build tools write the same requirement with other spaces and quotes.
    plain = {re.sub(r"\s*([;,<>=!~]+)\s*", r"\1", requirement.replace("'", '"')).strip() for requirement in requirements}
    return _About(requires_python=requires_python.replace(" ", ""), requirements=tuple(sorted(plain)), entry_points=tuple(sorted(points)))


def _license() -> dict[str, bytes]:
    tree = _TREE / "LICENSE"
    installed = _PACKAGE.parent / _DIST_INFO / "licenses" / "LICENSE"
    for path in (tree if (_TREE / "native").is_dir() else installed, installed):
        if path.is_file():
            return {f"{_DIST_INFO}/licenses/LICENSE": path.read_bytes()}
    return {}


def _tar(files: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return held.getvalue()

"""What `stoker.toml` says about the image: its table `[image]`, read and checked."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from stoker.catalog.versions import cuda_version, torch_version
from stoker.errors import BadValue, SpecificationBroken, nearest
from stoker.image.fields import Fields
from stoker.image.placed import NoToml, PlacedToml, Unreadable, read_toml

SPECIFICATION_FILE = "stoker.toml"
VARIANTS = ("cli", "notebook", "ssh", "dev")
"""Features of one image. `cli` is always in it; each of the others adds packages and settings."""
PRUNES = ("static", "tools", "amd", "headers", "symbols", "tests")
"""What may be left out of the wheels, by the names that `pruning.py` knows."""
LATEST = "latest"
AUTO = "auto"
NO_TORCH = "none"
DEFAULT_PYTHON = "3.13"

# Names as the OCI distribution specification has them.
IMAGE_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_LONGEST_NAME = 255
_LONGEST_PACKAGE = 500
_PYTHON = re.compile(r"3\.[1-9]\d?")
# A name, extras, versions and a marker as PEP 508 writes them, on one line; no `name @ address`.
_PACKAGE = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?: *\[[A-Za-z0-9._, -]*\])?"
    r"(?: *\(? *(?:[<>=!~]=?=?) *[A-Za-z0-9.*+!_-]+(?: *, *(?:[<>=!~]=?=?) *[A-Za-z0-9.*+!_-]+)* *\)?)?(?: *;[^\n\r@#\\]+)?"
)
# Source: Debian policy, 5.6.1.
_DEB = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_BASE = re.compile(r"oci:[^@\s]+@sha256:[0-9a-f]{64}")
_ADDRESS = re.compile(r"(?:https?|file)://[^\s\"'<>`{}\\^|]+")


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """Where to fetch from instead of the usual place; None: as pip, uv and apt are configured. Never written into a lock."""

    pypi: str | None = None
    """A package index (its Simple API), or a folder of wheels, as an address."""
    debian: str | None = None
    """A mirror of the Debian archive."""
    security: str | None = None
    """A mirror of Debian's security archive."""
    torch: str | None = None
    """What stands in for PyTorch's own indexes: the address under which `cu126`, `cpu` and so on lie."""


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What an image shall be."""

    name: str
    """Of the image, as registries allow it: `team/trainer`."""
    python: str = DEFAULT_PYTHON
    """`3.13`; the Debian release that has it is the base."""
    torch: str = LATEST
    """`2.13.0`, `latest`, or `none` for an image without PyTorch."""
    torch_for: tuple[tuple[str, str], ...] = ()
    """Another PyTorch for one CUDA, as (("12.6", "2.7.1"),), where `torch` is a table of `stoker.toml`."""
    cuda: tuple[str, ...] = (AUTO,)
    """("auto",): the one that the default index has this PyTorch for; else `12.6`, `cpu`, or several for a universal image."""
    variants: tuple[str, ...] = ("cli",)
    """Of VARIANTS, in their order, `cli` first."""
    packages: tuple[str, ...] = ()
    """Further packages of the index, as PEP 508 says."""
    requirements: str | None = None
    """A `requirements.txt` or `pylock.toml`, its path relative to `stoker.toml`."""
    requirements_sha256: str | None = None
    """The hash of that file, so that a change of it is noticed."""
    debs: tuple[str, ...] = ()
    """Further packages of Debian."""
    prune: tuple[str, ...] = ()
    """Of PRUNES."""
    base: str | None = None
    """`oci:PATH@sha256:...`, an image by digest to build on instead of Debian."""
    mirrors: Mirrors = Mirrors()
    path: Path | None = None
    """The file that it was read from."""

    @property
    def digest(self) -> str:
        """Return `sha256:...` over everything that decides about the image: not where packages come from, nor where the file lies."""
        said = asdict(self)
        del said["mirrors"], said["path"], said["requirements"]
        said["base"] = self.base and self.base.rpartition("@")[2]
        return "sha256:" + hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def requirements_path(self) -> Path | None:
        """Return the path of the requirements file."""
        return (self.path.parent if self.path else Path()) / self.requirements if self.requirements else None


def read_specification(path: Path) -> Specification:
    """Return what a `stoker.toml` says. Raises SpecificationBroken with file and line; nothing is looked up."""
    file = _open(path)
    if "image" not in file.values:
        like = nearest("image", list(file.values))
        raise SpecificationBroken(
            f"{path} has no table [image]" + (f"; is [{like}] ({file.place(like)}) meant for it?" if like else ""),
            hint="`stoker image init` adds one that fits this machine",
        )
    table = Fields(file, ("image",), error=SpecificationBroken)
    name = table.text("name")
    if not IMAGE_NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise table.wrong("name", f"{name!r} is no name of an image", "lower case letters, digits and single . _ - between them, as team/trainer")
    torch, pinned = _torch(table)
    requirements = _requirements(table, path)
    specification = Specification(
        name=name,
        python=_python(table),
        torch=torch,
        torch_for=pinned,
        cuda=_cuda(table, torch, pinned),
        variants=("cli", *(one for one in VARIANTS[1:] if one in table.chosen("variants", VARIANTS))),
        packages=tuple(_package(table, wanted) for wanted in table.texts("packages")),
        requirements=requirements,
        requirements_sha256=_hash_of(table, path, requirements),
        debs=tuple(_deb(table, wanted) for wanted in table.texts("debs")),
        prune=tuple(one for one in PRUNES if one in table.chosen("prune", PRUNES)),
        base=_base(table),
        mirrors=_mirrors(file, table),
        path=path,
    )
    table.end()
    return specification


def _open(path: Path) -> PlacedToml:
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        raise SpecificationBroken(f"there is no {path}", hint="`stoker image init` writes one that fits this machine") from error
    except Unreadable as error:
        raise SpecificationBroken(f"{path} cannot be read: {error}", hint="a specification is a file that you may read") from error
    except NoToml as error:
        raise SpecificationBroken(f"{path} is no TOML: {error}", hint="text stands in quotes, a list in [ ]; see https://toml.io") from error


def _python(table: Fields) -> str:
    python = table.text("python", DEFAULT_PYTHON)
    if not _PYTHON.fullmatch(python):
        raise table.wrong("python", f"{python!r} is no Python version", "write it as 3.13: which 3.13.x it is, the Debian release decides")
    return python


def _torch(table: Fields) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the PyTorch for every CUDA, and those for one CUDA."""
    if not isinstance(table.peek("torch"), dict):
        return _torch_wish(table, "torch", table.text("torch", LATEST)), ()
    wishes = table.inner("torch")
    pinned = tuple((_cuda_wish(wishes, key, key), _torch_wish(wishes, key, wishes.text(key))) for key in wishes.left())
    if not pinned or len({cuda for cuda, _ in pinned}) != len(pinned) or any(torch == NO_TORCH for _, torch in pinned):
        raise table.wrong("torch", "a table names the PyTorch of each CUDA once", 'write it as torch = { "12.6" = "2.7.1", "13.0" = "2.13.0" }')
    return LATEST, tuple(sorted(pinned))


def _torch_wish(table: Fields, key: str, torch: str) -> str:
    if torch in (LATEST, NO_TORCH):
        return torch
    try:
        number, local = torch_version(torch)
    except BadValue as error:
        raise table.wrong(key, error.message, f"write it as 2.13.0, {LATEST!r} or {NO_TORCH!r}") from error
    if local:
        raise table.wrong(key, f"{torch!r} names its CUDA, too", f'write torch = "{number}" and cuda = "{local}"')
    return number


def _cuda(table: Fields, torch: str, pinned: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    wishes = table.texts("cuda")
    cuda = tuple(AUTO if wish == AUTO else _cuda_wish(table, "cuda", wish) for wish in wishes)
    if not wishes and table.peek("cuda") is not None:
        raise table.wrong("cuda", "the list is empty", 'write "auto" for the one that the default index has this PyTorch for, or "cpu" for none')
    if len(set(cuda)) != len(cuda):
        raise table.wrong("cuda", "a CUDA stands twice in the list", "name each once")
    if AUTO in cuda and len(cuda) > 1:
        raise table.wrong("cuda", f"{AUTO!r} cannot stand beside another CUDA", "name all of them, or leave cuda out")
    if torch == NO_TORCH and cuda not in ((), (AUTO,)):
        raise table.wrong("cuda", "without PyTorch there is no CUDA in the image", "leave cuda out, or name a PyTorch")
    if pinned:
        named = tuple(one for one, _ in pinned)
        if cuda not in ((), (AUTO,)) and set(cuda) != set(named):
            raise table.wrong("cuda", f"torch names a PyTorch for CUDA {', '.join(named)}, cuda asks for {', '.join(cuda)}", "leave cuda out")
        return named
    return cuda or (AUTO,)


def _cuda_wish(table: Fields, key: str, wish: str) -> str:
    try:
        return cuda_version(wish)
    except BadValue as error:
        raise table.wrong(key, error.message, f"write it as 12.6, cpu or {AUTO}") from error


def _package(table: Fields, wanted: str) -> str:
    """Return a requirement. Addresses would end up in the lock, an option or a second line would be one for uv."""
    if len(wanted) > _LONGEST_PACKAGE or not _PACKAGE.fullmatch(wanted):
        what = "holds an address" if "://" in wanted or re.search(r"\s@", wanted) else "is no package"
        raise table.wrong(
            "packages", f"{wanted[:80]!r} {what}", "write packages as an index knows them: einops, or pandas[excel]>=2,<3; a lock holds no addresses"
        )
    if re.split(r"[^\w.-]", wanted, maxsplit=1)[0].lower() in ("torch", "torchvision"):
        raise table.wrong("packages", f"{wanted!r} is decided by torch and cuda", "set torch and cuda; torchvision is the one that was built for it")
    return wanted


def _deb(table: Fields, wanted: str) -> str:
    if not _DEB.fullmatch(wanted):
        raise table.wrong("debs", f"{wanted!r} is no name of a Debian package", "write the plain name, as libgl1; the lock decides the version")
    return wanted


def _requirements(table: Fields, path: Path) -> str | None:
    requirements = table.maybe_text("requirements")
    if requirements is not None and (Path(requirements).is_absolute() or "\0" in requirements):
        raise table.wrong("requirements", f"{requirements!r} is no path relative to {path.name}", "name a file beside it, as requirements.txt")
    return requirements


def _hash_of(table: Fields, path: Path, requirements: str | None) -> str | None:
    if requirements is None:
        return None
    try:
        return hashlib.sha256((path.parent / requirements).read_bytes()).hexdigest()
    except OSError as error:
        raise table.wrong("requirements", f"{requirements} cannot be read: {error.strerror}", f"it is looked for beside {path}") from error


def _base(table: Fields) -> str | None:
    base = table.maybe_text("base")
    if base is not None and not _BASE.fullmatch(base):
        raise table.wrong(
            "base",
            f"{base!r} is no image by digest",
            "write oci:FOLDER@sha256:... (`skopeo copy IMAGE oci:FOLDER` fetches one, `skopeo inspect oci:FOLDER` says its digest)",
        )
    return base


def _mirrors(file: PlacedToml, table: Fields) -> Mirrors:
    if table.peek("mirrors") is None:
        return Mirrors()
    inner = table.inner("mirrors")
    addresses = {one.name: inner.maybe_text(one.name) for one in fields(Mirrors)}
    for key, address in addresses.items():
        if address is not None and not _ADDRESS.fullmatch(address):
            raise inner.wrong(key, f"{address!r} is no address", "it begins with https://, http:// or file://")
    inner.end()
    return Mirrors(**addresses)

"""The package indexes to ask, and where they have the files of a lock, behind any mirror."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stoker.environment.mirror import pip_settings
from stoker.errors import DownloadFailed, HashMismatch, PackageGone, StokerError
from stoker.image.lock import Wheel
from stoker.image.pages import Offer, as_address, flat_offers, project_offers
from stoker.image.pylock import pylock_packages
from stoker.image.specification import Mirrors
from stoker.image.tags import parsed
from stoker.image.uv import Uv, compiling
from stoker.image.web import Web, host_of, local_path, logins_of

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Index:
    """One place to ask."""

    address: str
    """Of a Simple API or find-links page; empty: only uv knows it (PyTorch's own indexes)."""
    flat: bool = False
    """A find-links page or folder: all files on one page."""
    name: str | None = None
    """None: for packages of the default index; else PyTorch's own index of that name, as `cu126`."""


def is_flat(place: str) -> bool:
    """Whether a mirror is a folder of wheels or a page of links (find-links), and not a Simple API."""
    address = as_address(place)
    if not address.startswith("file://"):
        return urllib.parse.urlsplit(address).path.endswith((".html", ".htm"))
    path = local_path(address)
    return path.is_file() or (path.is_dir() and any(path.glob("*.whl")))


def find_indexes(mirrors: Mirrors, environ: Mapping[str, str], uv: Uv | None, *, names: Iterable[str] = ()) -> tuple[Index, ...]:
    """Return the places to ask, in order: PyTorch's own indexes of these `names`; what uv is set up for (in its own files and
    variables, or pip's), with the specification's mirror instead of its default index; without a mirror, pip's extra indexes and folders.

    uv itself says what it is set up for: no second reading of its settings, and no address in this source.
    """
    own = [Index(address=f"{as_address(mirrors.torch).rstrip('/')}/{name}" if mirrors.torch else "", name=name) for name in sorted(set(names))]
    if uv:
        arguments = ["pip", "compile", "--quiet", "--no-header", "--emit-index-url", "--emit-find-links", os.devnull]
        found = list(_set_up(uv.ask(arguments, more=mirror_settings(mirrors))))
    else:
        found = list(_from_variables({**environ, **mirror_settings(mirrors)}))
    if not mirrors.pypi:
        pip = pip_settings(environ)
        found += [Index(address=as_address(place)) for place in pip.get("extra-index-url", "").split()]
        found += [Index(address=as_address(place), flat=True) for place in pip.get("find-links", "").split()]
    return (*own, *dict.fromkeys(found))


def mirror_settings(mirrors: Mirrors) -> dict[str, str]:
    """Return uv's variables for the specification's mirror: not arguments, which every user of the machine may see."""
    if not mirrors.pypi:
        return {}
    address, flat = as_address(mirrors.pypi), is_flat(mirrors.pypi)
    unset = dict.fromkeys(("UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_DEFAULT_INDEX"), "")
    return unset | ({"UV_NO_INDEX": "1", "UV_FIND_LINKS": address} if flat else {"UV_DEFAULT_INDEX": address})


def _set_up(said: str) -> Iterator[Index]:
    """Read uv's own words. The default index stands first there, and is asked first: it has nearly everything."""
    for line in said.splitlines():
        option, _, place = line.strip().partition(" ")
        if option in ("--index-url", "--extra-index-url", "--find-links") and place:
            yield Index(address=as_address(place.strip()), flat=option == "--find-links")


def _from_variables(environ: Mapping[str, str]) -> Iterator[Index]:
    """Read the variables without uv, for a machine that has none."""
    pips = None if environ.get("UV_NO_INDEX") else pip_settings(environ).get("index-url")
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or pips
    others = (environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL") or "").split()
    for place in [*([default] if default else []), *others]:
        yield Index(address=as_address(re.sub(r"^[\w-]+=", "", place)))
    for place in re.split(r"[,\s]+", environ.get("UV_FIND_LINKS", "")):
        if place:
            yield Index(address=as_address(place), flat=True)


def login_table(indexes: Iterable[Index], environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the logins for `Web`: those in the addresses, and those of indexes that have names in uv's variables."""
    addresses = [index.address for index in indexes if index.address]
    for word in " ".join(environ.get(name, "") for name in ("UV_INDEX", "UV_DEFAULT_INDEX")).split():
        name, equals, address = word.partition("=")
        prefix = f"UV_INDEX_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"
        if equals and "://" in address and (user := environ.get(f"{prefix}_USERNAME")):
            login = f"{urllib.parse.quote(user, safe='')}:{urllib.parse.quote(environ.get(f'{prefix}_PASSWORD', ''), safe='')}"
            addresses.append(address.replace("://", f"://{login}@", 1))
    return logins_of(addresses)


def find_files(wheels: Sequence[Wheel], indexes: Sequence[Index], web: Web, uv: Uv | None = None) -> dict[str, tuple[Offer, ...]]:
    """Return, for the sha256 of each wheel, the offers to try in turn.

    The next index is asked only about what the ones before it do not have with the locked hash. Raises HashMismatch (published again:
    the same name with other bytes, and nowhere the locked ones), PackageGone (nowhere at all), and DownloadFailed when an index that
    might have it did not answer.
    """
    found: dict[str, list[Offer]] = {}
    others: dict[str, list[Offer]] = {}
    silent: list[str] = []
    for index in indexes:
        missing = [wheel for wheel in wheels if wheel.sha256 not in found and index.name in (wheel.index, None)]
        for wheel, offers in _ask(index, missing, web, uv, silent):
            for offer in offers:
                if offer.file == wheel.file:
                    good = offer.sha256 in (wheel.sha256, None) and offer.size in (wheel.size, None)
                    (found if good else others).setdefault(wheel.sha256, []).append(offer)
    missing = [wheel for wheel in wheels if wheel.sha256 not in found]
    if missing:
        raise _missing(missing, others, silent, [index for index in indexes if index.address])
    return {sha256: tuple(offers) for sha256, offers in found.items()}


def _ask(index: Index, wheels: Sequence[Wheel], web: Web, uv: Uv | None, silent: list[str]) -> list[tuple[Wheel, Sequence[Offer]]]:
    """Ask one index about many wheels at once. One that does not answer is noted in `silent`."""
    if not wheels:
        return []
    if not index.address:
        return _ask_uv(index, wheels, uv, silent)
    try:
        if index.flat:
            offers = flat_offers(index.address, web)
            return [(wheel, offers) for wheel in wheels]
        names = sorted({wheel.name for wheel in wheels})
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            pages = dict(zip(names, pool.map(lambda name: project_offers(index.address, name, web), names), strict=True))
        return [(wheel, pages[wheel.name]) for wheel in wheels]
    except DownloadFailed as error:
        silent.append(error.message)
        return []


def _ask_uv(index: Index, wheels: Sequence[Wheel], uv: Uv | None, silent: list[str]) -> list[tuple[Wheel, Sequence[Offer]]]:
    """Have uv look the wheels up at the index of PyTorch's whose address only it knows."""
    if uv is None:
        silent.append(f"PyTorch's own index {index.name} can only be asked with uv, or through a mirror of it (mirrors.torch in stoker.toml)")
        return []
    answers: list[tuple[Wheel, Sequence[Offer]]] = []
    for wheel in wheels:
        name = parsed(wheel.file)
        if name is None:
            continue
        python = next((f"{tag[2]}.{tag[3:]}" for tag in name.pythons if re.fullmatch(r"cp3\d+", tag)), "3.13")
        arguments = [*compiling(python=python, platform="linux", torch_index=index.name), "--no-deps", "-"]
        try:
            said = uv.ask(arguments, stdin=f"{wheel.name}=={wheel.version}\n")
        except StokerError as error:
            silent.append(error.message)
            continue
        answers.append((wheel, [file for package in pylock_packages(said) for file in package.files]))
    return answers


def _missing(wheels: Sequence[Wheel], others: Mapping[str, Sequence[Offer]], silent: Sequence[str], asked: Sequence[Index]) -> StokerError:
    """Say why files of the lock were not found, the surest cause first."""
    changed = [wheel for wheel in wheels if wheel.sha256 in others]
    if changed:
        other = others[changed[0].sha256][0]
        said = f"sha256 {other.sha256}" if other.sha256 not in (changed[0].sha256, None) else f"{other.size} bytes"
        meant = f"sha256 {changed[0].sha256}" if said.startswith("sha") else f"{changed[0].size} bytes"
        return HashMismatch(
            f"{_listed([wheel.file for wheel in changed])}: published again under the same name? {host_of(other.address)} has it with {said}, "
            f"the lock with {meant}",
            hint="another mirror may still have the locked file; else `stoker image lock --upgrade "
            f"{changed[0].name}` takes what there is now, after you have looked into why it changed",
        )
    files, places = _listed([wheel.file for wheel in wheels]), ", ".join(dict.fromkeys(host_of(index.address) for index in asked))
    if silent:
        return DownloadFailed(
            f"{files} could not be found, as not every index answered:\n" + "\n".join(dict.fromkeys(silent)),
            hint="run the same command again when it does",
        )
    return PackageGone(
        f"{files}: no index has it any more (asked: {places or 'none is set up'})",
        hint="name a mirror that has it (mirrors in stoker.toml, or UV_DEFAULT_INDEX); `stoker image lock --upgrade "
        f"{wheels[0].name}` takes another version",
    )


def _listed(files: Sequence[str]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more files" if len(files) > 3 else "")

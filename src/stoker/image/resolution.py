"""Requirements turned into locked wheels by uv: one consistent set for the image's Python and glibc, each with the variants that need it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import BuildFailed, HashMismatch, PackageGone, StokerError
from stoker.image.index import find_indexes, is_flat, login_table, mirror_settings
from stoker.image.lock import Wheel
from stoker.image.pages import Offer, as_address, flat_offers, project_offers
from stoker.image.pylock import LockedPackage, pylock_packages
from stoker.image.requirements import read_requirements
from stoker.image.sizes import file_size, hash_and_size
from stoker.image.specification import VARIANTS, Mirrors
from stoker.image.tags import Target, parsed
from stoker.image.temporary import temporary_folder
from stoker.image.uv import Uv, compiling, find_uv
from stoker.image.web import Web

__all__ = ["Target", "resolve_wheels", "torch_index_answers"]

_ALWAYS = VARIANTS[0]
_EXTRA = "extra"
# The newest glibc that uv has a name for; an image's may be newer, and runs what was built for it.
_NEWEST_GLIBC = (2, 40)
_AT_ONCE = 8
# The packages that PyTorch's own indexes are asked for; everything else comes from the default index.
_OF_TORCH = ("torch", "torchvision", "torchaudio")


def resolve_wheels(
    requirements: Mapping[str, Sequence[str]],
    *,
    target: Target,
    mirrors: Mirrors,
    environ: Mapping[str, str],
    extra: Sequence[str] = (),
    requirements_file: Path | None = None,
    constraints: Sequence[str] = (),
    index: str | None = None,
) -> tuple[Wheel, ...]:
    """Return the wheels of one stack, sorted by name, with hashes and sizes.

    `requirements`: variant -> PEP 508 lines; `cli` holds what is always in (torch, torchvision). `extra`: the person's own packages, and
    `requirements_file` their requirements.txt or pylock.toml: these are always in, too. `constraints`: `name==version` lines of an older
    lock: kept where they still fit, and never a reason to fail. `index`: PyTorch's own index that torch comes from, as `cu126`; None:
    the default index has it.
    Raises BuildFailed (uv's last lines), PackageGone (never heard of, or nothing fits together), DownloadFailed, ProgramMissing (no
    uv), HashMismatch (other bytes than a pylock.toml says) and SpecificationBroken (a requirements file that no lock can hold).
    """
    uv = find_uv(environ)
    listed, hashes = read_requirements(requirements_file) if requirements_file else ((), {})
    wanted = {_ALWAYS: (), **requirements}
    if theirs := (*extra, *listed):
        wanted[_EXTRA] = (*wanted[_ALWAYS], *theirs)
    ask = _Question(uv=uv, target=target, mirrors=mirrors, index=index)
    everything = ask.packages(list(dict.fromkeys(line for lines in wanted.values() for line in lines)), preferred=constraints)
    pins = [f"{package.name}=={package.version}" for package in everything]
    # The same set once more for each part, held at the versions found: what is in both is needed by it.
    parts = {part: lines for part, lines in wanted.items() if lines} if len(wanted) > 1 else {}
    with ThreadPoolExecutor(len(VARIANTS) + 1) as pool:
        found = pool.map(lambda lines: {package.name for package in ask.packages(lines, pinned=pins)}, parts.values())
        needs = dict(zip(parts, found, strict=True))
    return tuple(sorted(_wheels(everything, needs, hashes, ask, environ), key=lambda wheel: wheel.name))


def torch_index_answers(name: str, *, mirrors: Mirrors, environ: Mapping[str, str]) -> bool:
    """Whether PyTorch's own index of that name (`cu126`, `cpu`) can be asked from here. Raises nothing; takes a few seconds at most."""
    try:
        if mirrors.torch:
            address = f"{as_address(mirrors.torch).rstrip('/')}/{name}"
            return bool(flat_offers(address, Web(environ)) if is_flat(address) else project_offers(address, "torch", Web(environ)))
        hurried = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"}
        arguments = [*compiling(python="3.12", platform="linux", torch_index=name), "--no-deps", "-"]
        return bool(pylock_packages(find_uv(environ).ask(arguments, stdin="torch\n", more=hurried, timeout_s=20)))
    except (StokerError, OSError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What stays the same in all questions to uv."""

    uv: Uv
    target: Target
    mirrors: Mirrors
    index: str | None

    def packages(self, lines: Sequence[str], *, preferred: Sequence[str] = (), pinned: Sequence[str] = ()) -> list[LockedPackage]:
        """Have uv resolve, and return what it found: `preferred` versions where they fit, `pinned` ones in any case. Raises as `Uv.ask`."""
        with temporary_folder("resolve") as folder:
            out = folder / "pylock.toml"
            # uv keeps the versions of the file that it is about to write, where it can.
            if preferred:
                out.write_text(_preferences(preferred))
            (folder / "pins.txt").write_text("".join(f"{line}\n" for line in pinned))
            sources = self._torch_mirror(folder, lines) if self.index and self.mirrors.torch else ["-"]
            own = None if self.mirrors.torch else self.index
            arguments = compiling(python=self.target.python, platform=self._platform(), torch_index=own)
            arguments += ["--constraints", str(folder / "pins.txt"), "--output-file", str(out), *sources]
            self.uv.ask(arguments, stdin="".join(f"{line}\n" for line in lines), more=mirror_settings(self.mirrors))
            said = out.read_text()
        try:
            return pylock_packages(said)
        except ValueError as error:
            hint = "another version of uv may do better: `python -m pip install -U uv`"
            raise BuildFailed(f"uv wrote a pylock.toml that cannot be read: {error}", hint=hint) from error

    def _platform(self) -> str:
        glibc = min(self.target.glibc, _NEWEST_GLIBC)
        return f"{self.target.machine}-manylinux_{glibc[0]}_{glibc[1]}"

    def _torch_mirror(self, folder: Path, lines: Sequence[str]) -> list[str]:
        """Have PyTorch's own packages, and only them, come from the mirror of its indexes: a project says so."""
        address = f"{as_address(self.mirrors.torch or '').rstrip('/')}/{self.index}"
        flat = "format = 'flat'\n" if is_flat(address) else ""
        sources = "".join(f'{name} = {{ index = "of-torch" }}\n' for name in _OF_TORCH)
        (folder / "pyproject.toml").write_text(
            f"[project]\nname = 'stoker-image'\nversion = '0'\nrequires-python = '=={self.target.python}'\n"
            f"dependencies = {json.dumps(list(lines))}\n"
            f"[tool.uv.sources]\n{sources}"
            f"[[tool.uv.index]]\nname = 'of-torch'\nurl = {json.dumps(address)}\nexplicit = true\n{flat}"
        )
        return [str(folder / "pyproject.toml")]


def _preferences(lines: Sequence[str]) -> str:
    """Return `name==version` lines as the pylock.toml that they would stand in."""
    pairs = [line.partition("==") for line in lines]
    rows = "".join(f"[[packages]]\nname = {json.dumps(name.strip())}\nversion = {json.dumps(version.strip())}\n" for name, _, version in pairs)
    return f"lock-version = '1.0'\ncreated-by = 'stoker'\n{rows}"


def _wheels(
    everything: Sequence[LockedPackage],
    needs: Mapping[str, set[str]],
    hashes: Mapping[str, frozenset[str]],
    ask: _Question,
    environ: Mapping[str, str],
) -> list[Wheel]:
    """Choose each package's wheel, and find out what its index does not tell."""
    chosen = [(package, _best(package, ask.target)) for package in everything]
    web = Web(environ)
    if any(offer.size is None or offer.sha256 is None for _, offer in chosen):
        web = Web(environ, login_table(find_indexes(ask.mirrors, environ, ask.uv), environ))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        known = list(pool.map(lambda pair: _known(pair[1], web), chosen))
    web.close()
    found = []
    for (package, offer), (sha256, size) in zip(chosen, known, strict=True):
        if package.name in hashes and sha256 not in hashes[package.name]:
            raise HashMismatch(
                f"{offer.file} has sha256 {sha256}, which is none of those that the requirements file allows",
                hint="it was published again under the same version, or the index is another one: find out which before you take the new one",
            )
        found.append(
            Wheel(
                name=package.name,
                version=package.version,
                file=offer.file,
                sha256=sha256,
                size=size,
                index=ask.index if ask.index and _of_own_index(package, offer, ask.index) else None,
                variants=_variants(package.name, needs),
                extra=package.name in needs.get(_EXTRA, ()) and package.name not in needs.get(_ALWAYS, ()),
            )
        )
    return found


def _variants(name: str, needs: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return which variants need a package; what `cli` and the person need is always there."""
    if not needs or any(name in needs.get(part, ()) for part in (_ALWAYS, _EXTRA)):
        return (_ALWAYS,)
    return tuple(variant for variant in VARIANTS if name in needs.get(variant, ())) or (_ALWAYS,)


def _best(package: LockedPackage, target: Target) -> Offer:
    """Return the wheel that fits best. uv has left out most that do not fit."""
    ranked = [(rank, offer) for offer in package.files if (name := parsed(offer.file)) and (rank := name.rank(target)) is not None]
    if not ranked:
        what = f"comes as {package.source} only" if package.source else "has no wheel"
        raise PackageGone(
            f"{package.name} {package.version} {what} for Python {target.python} with glibc {'.'.join(map(str, target.glibc))} on {target.machine}",
            hint="an image takes wheels only: another version may have one, or build one yourself, put it into a folder and name that as mirror",
        )
    return max(ranked, key=lambda pair: (pair[0], pair[1].file))[1]


def _known(offer: Offer, web: Web) -> tuple[str, int]:
    """Return hash and size of a file."""
    if offer.sha256 is None:
        return hash_and_size(offer.address, web)
    return offer.sha256, offer.size if offer.size is not None else file_size(offer.address, web)


def _of_own_index(package: LockedPackage, offer: Offer, index: str) -> bool:
    """Whether a package came from PyTorch's own index of that name, by its version (`2.7.1+cu126`) or where it lies."""
    return package.version.endswith(f"+{index}") or f"/{index}/" in offer.address

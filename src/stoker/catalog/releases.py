"""PyTorch releases: for which CUDA, Python and machine each one was built, what it brings, and what pairs with it."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.catalog.tables import Row, rows
from stoker.catalog.versions import torch_version, version_numbers
from stoker.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One build of a PyTorch release, as cu128."""

    name: str
    """As `cu128`: its index, and the value of `uv pip install --torch-backend`."""
    cuda: str
    """As `12.8`."""
    toolkit: str | None
    """The toolkit it was built with, as `12.8.1`; None: not known."""
    cudnn: str | None
    architectures: tuple[str, ...]
    """The machine code for x86_64, as ("75", "80"); empty: there is no such build for x86_64, or its list is not known."""
    ptx: bool | None
    """Whether it also holds PTX of its newest architecture; None: not known."""
    architectures_aarch64: tuple[str, ...]
    """The same for aarch64 servers (Grace, GB10, Thor)."""
    ptx_aarch64: bool | None
    machines: tuple[str, ...]
    evidence: str
    """How sure it is that this build exists, see `tables.EVIDENCE`."""
    architectures_evidence: str
    source: str
    checked: datetime.date

    def code(self, machine: str) -> tuple[tuple[str, ...], bool | None]:
        """Return the architectures and the PTX of the build for a machine."""
        return (self.architectures_aarch64, self.ptx_aarch64) if machine == "aarch64" else (self.architectures, self.ptx)


@dataclass(frozen=True, kw_only=True)
class TorchRelease:
    """One release of PyTorch for Linux."""

    version: str
    date: datetime.date
    pythons: tuple[str, ...]
    """The CPython versions that have a wheel, as "3.12"; "3.13t" is the free-threaded one."""
    default: str
    """The variant that the default index (PyPI) holds for x86_64."""
    default_aarch64: str
    """The same for aarch64: `cpu` up to 2.10."""
    triton: str
    """As torch's own metadata asks for it: `3.4.0`, or `~=3.8.0` from 2.14 on."""
    nccl: str
    """The version that the default variant asks for."""
    torchvision: tuple[str, ...]
    """The versions that were built for it, best first."""
    torchaudio: tuple[str, ...]
    """The same; empty from 2.12 on, where torchaudio has no release of its own any more."""
    variants: tuple[Variant, ...]
    """The builds for CUDA, newest CUDA first. There is always one for the CPU, too."""
    note: str | None
    """What is odd about it."""
    evidence: str
    source: str
    checked: datetime.date

    @property
    def python_min(self) -> tuple[int, int]:
        """The oldest Python that has a wheel."""
        return min(_plain(self.pythons))

    @property
    def python_max(self) -> tuple[int, int]:
        """The newest Python that has a wheel."""
        return max(_plain(self.pythons))

    def default_for(self, machine: str) -> str:
        """Return the variant that the default index gives a machine."""
        return self.default_aarch64 if machine == "aarch64" else self.default

    def variant(self, name: str) -> Variant | None:
        """Return a variant by its name (`cu128`) or its CUDA (`12.8`), or None when it was never built."""
        return next((one for one in self.variants if name in (one.name, one.cuda)), None)


@functools.cache
def torch_releases() -> tuple[TorchRelease, ...]:
    """Return all known releases, newest first. Raises BadValue when the table is broken."""
    built = [(versions, variant) for row in rows("torch.toml", "variant") for versions, variant in [_variant(row)]]
    found = tuple(_release(row, built) for row in rows("torch.toml", "release"))
    stray = {version for versions, _ in built for version in versions} - {release.version for release in found}
    if stray:
        raise BadValue(f"torch.toml has variants of {', '.join(sorted(stray))}, but no such release", hint="add the row [[release]]")
    return tuple(sorted(found, key=lambda release: version_numbers(release.version), reverse=True))


def find_release(version: str) -> TorchRelease | None:
    """Return the release `2.8.0`, `2.8.0+cu128` or, for `2.8`, the last one of 2.8; None when it is not known. Raises BadValue."""
    number, _ = torch_version(version)
    return next((release for release in torch_releases() if release.version == number or release.version.startswith(number + ".")), None)


def _plain(pythons: Sequence[str]) -> list[tuple[int, int]]:
    numbers = [version_numbers(python) for python in pythons if not python.endswith("t")]
    return [(number[0], number[1]) for number in numbers]


def _variant(row: Row) -> tuple[tuple[str, ...], Variant]:
    versions, architectures, aarch64 = row.texts("torch"), row.texts("architectures"), row.texts("aarch64")
    one = Variant(
        name=row.text("name"),
        cuda=row.version("cuda"),
        toolkit=row.maybe_version("toolkit"),
        cudnn=row.maybe_version("cudnn"),
        architectures=architectures,
        ptx=row.maybe_flag("ptx"),
        architectures_aarch64=aarch64,
        ptx_aarch64=row.maybe_flag("ptx_aarch64"),
        machines=("x86_64",) * bool(architectures) + ("aarch64",) * bool(aarch64),
        evidence=row.evidence(),
        architectures_evidence=row.evidence("architectures_evidence"),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    return versions, one


def _release(row: Row, built: Sequence[tuple[tuple[str, ...], Variant]]) -> TorchRelease:
    version = row.version("version")
    variants = [variant for versions, variant in built if version in versions]
    release = TorchRelease(
        version=version,
        date=row.date("date"),
        pythons=row.texts("pythons"),
        default=row.text("default"),
        default_aarch64=row.text("default_aarch64"),
        triton=row.text("triton"),
        nccl=row.version("nccl"),
        torchvision=row.texts("torchvision"),
        torchaudio=row.texts("torchaudio"),
        variants=tuple(sorted(variants, key=lambda variant: version_numbers(variant.cuda), reverse=True)),
        note=row.maybe_text("note"),
        evidence=row.evidence(),
        source=row.text("source"),
        checked=row.date("checked"),
    )
    row.end()
    names = [variant.name for variant in release.variants]
    if release.default not in names or len(set(names)) != len(names) or not _plain(release.pythons):
        raise BadValue(
            f"torch.toml: the rows of torch {version} do not fit together (variants {names}, default {release.default})", hint="see the rows"
        )
    return release

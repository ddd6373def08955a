"""Layers of wheels: which wheels share one, what its key is, and how it is made: from archive to compressed tar, with no file in between."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stoker.errors import UnsafeArchive
from stoker.image.bytecode import BATCH_BYTES, bytecode_of_groups, compiler_text
from stoker.image.compression import Blob, Compression, compressed, compressor_name
from stoker.image.lock import FILE_TIME, Lock, LockedStack, Wheel
from stoker.image.placement import Placed, Placement, home, place, site_packages
from stoker.image.pruning import rules_digest_text
from stoker.image.root import Root
from stoker.image.tarball import write_tar
from stoker.image.wheel import read_wheel

LARGE_BYTES = 20 * 2**20
"""A wheel of this size or more is a layer of its own. Torch 2.13 for CUDA 13.0 has 13 of them; overlayfs takes 100 layers and more."""
_FORMAT = 1
"""Counts up whenever the same wheels become other bytes: where files go, what scripts and RECORD look like, how the tar is written."""
# These change with every upgrade, the CUDA libraries seldom; engines know an unpacked layer by all those below it.
_OFTEN_CHANGED = ("torch", "torchvision", "torchaudio")
# What packages leave in the root of site-packages by mistake: nothing imports it, and of two the last one stays, as pip does.
_UNIMPORTANT = re.compile(
    r"(tests?|docs?|examples?|benchmarks?|scripts|tools)/.*|(LICEN[CS]E|README|CHANGE|COPYING|AUTHORS|NOTICE)[^/]*", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer to be made of wheels, and all that its bytes depend on."""

    key: str
    """sha256 (hex) over all that decides the bytes: the name under which the store keeps the layer."""
    title: str
    """For people: `torch 2.13.0 (cu130)`, `47 small packages (cu130, notebook)` or `3 packages of yours (cu130)`."""
    stack: str
    """`cu130`: the wheels go to `/opt/stoker/cu130`."""
    python: str
    """`3.13`."""
    wheels: tuple[Wheel, ...]
    """Sorted by name."""
    prune: tuple[str, ...]
    compression: Compression = "zstd"

    @property
    def weight(self) -> int:
        """How much work it is, in bytes of large wheel: small packages are mostly sources, and compiling them takes longer than packing."""
        size = sum(wheel.size for wheel in self.wheels)
        return size if len(self.wheels) == 1 else 8 * size


def plan_layers(lock: Lock, *, compression: Compression = "zstd") -> tuple[LayerPlan, ...]:
    """Return the layers of all stacks of the lock, lowest first: large wheels one by one, then the small ones by variants, then the person's own."""
    return tuple(_plan(lock, stack, wheels, compression) for stack in lock.stacks for wheels in _shares(stack))


def make_layer(plan: LayerPlan, target: Path, *, files: Mapping[str, Path], root: Root, progress: Callable[[int], None] | None = None) -> Blob:
    """Make a layer as the file `target`. `files`: the wheels by sha256; `progress` is told the bytes of the tar so far, and may raise to end it.

    Raises UnsafeArchive and HashMismatch for a wheel that is not as it must be, BuildFailed, DiskFull; `target` is then not there.
    """
    placements = placements_of(plan, files)
    _merged(placements)
    groups = [placement.sources() for placement in placements]
    compiled = bytecode_of_groups(root, plan.python, groups, meanwhile=lambda: progress(0) if progress else None)

    def write(out: BinaryIO) -> None:
        # The same path in two wheels: `_merged` made sure that they agree, or that it does not matter which one stays.
        entries = {entry.path: entry for placement in placements for entry in placement.entries(compiled)}
        write_tar(entries.values(), out, mtime=FILE_TIME)

    return compressed(write, target, kind=plan.compression, progress=progress)


def placements_of(plan: LayerPlan, files: Mapping[str, Path]) -> list[Placement]:
    """Return the wheels of a layer as they stand in the image."""
    return [
        place(read_wheel(files[wheel.sha256], file_name=wheel.file), stack=plan.stack, python=plan.python, prune=plan.prune) for wheel in plan.wheels
    ]


def refuse_conflicts(plans: Iterable[LayerPlan], files: Mapping[str, Path]) -> None:
    """Raise UnsafeArchive when two wheels of a stack, in whatever layers, bring different files of one path: one would silently replace the other."""
    stacks: dict[str, list[Placement]] = {}
    for plan in plans:
        stacks.setdefault(plan.stack, []).extend(placements_of(plan, files))
    for placements in stacks.values():
        _merged(sorted(placements, key=lambda placement: placement.archive.name.lower()))


def _merged(placements: Sequence[Placement]) -> dict[str, Placed]:
    """Return the files of several wheels by path; the last one by name stays where it does not matter. Raises UnsafeArchive."""
    merged: dict[str, Placed] = {}
    owner: dict[str, Placement] = {}
    for placement in placements:
        site = f"{site_packages(placement.stack, placement.python)}/"
        for path, placed in placement.files.items():
            held = merged.get(path)
            if held and held.digest != placed.digest and not _UNIMPORTANT.fullmatch(path.removeprefix(site)):
                raise UnsafeArchive(
                    f"{owner[path].archive.name} and {placement.archive.name} both bring {path.removeprefix(home(placement.stack) + '/')}, "
                    "and not the same",
                    hint="they cannot be installed together: leave one of them out of `packages` in stoker.toml",
                )
            merged[path], owner[path] = placed, placement
    return merged


def _shares(stack: LockedStack) -> list[list[Wheel]]:
    """Share the wheels of a stack out to layers. What the person adds and removes is apart: it makes none of the others anew."""
    large = [wheel for wheel in stack.wheels if wheel.size >= LARGE_BYTES]
    small: dict[tuple[bool, bool, tuple[str, ...]], list[Wheel]] = {}
    for wheel in stack.wheels:
        if wheel.size < LARGE_BYTES:
            small.setdefault((wheel.extra, "cli" not in wheel.variants, tuple(sorted(wheel.variants))), []).append(wheel)
    large.sort(key=lambda wheel: (wheel.name in _OFTEN_CHANGED, wheel.name))
    return [*([wheel] for wheel in large), *(small[kind] for kind in sorted(small))]


def _plan(lock: Lock, stack: LockedStack, share: list[Wheel], compression: Compression) -> LayerPlan:
    wheels = tuple(sorted(share, key=lambda wheel: wheel.name))
    if len(wheels) == 1:
        title = f"{wheels[0].name} {wheels[0].version} ({stack.name})"
    elif wheels[0].extra:
        title = f"{len(wheels)} packages of yours ({stack.name})"
    else:
        title = f"{len(wheels)} small packages ({', '.join((stack.name, *wheels[0].variants))})"
    return LayerPlan(
        key=_key(lock, stack.name, wheels, compression),
        title=title,
        stack=stack.name,
        python=lock.python,
        wheels=wheels,
        prune=lock.prune,
        compression=compression,
    )


def _key(lock: Lock, stack: str, wheels: tuple[Wheel, ...], compression: Compression) -> str:
    parts = [
        f"format {_FORMAT}, time {FILE_TIME}",
        f"stack {stack}, python {lock.python} {_interpreter(lock)}",
        f"compiler {hashlib.sha256(compiler_text().encode()).hexdigest()} {BATCH_BYTES}",
        compressor_name() if compression == "zstd" else f"gzip {zlib.ZLIB_RUNTIME_VERSION}",
        *(f"prune {' '.join(sorted(lock.prune))}\n{rules_digest_text()}" for _ in range(bool(lock.prune))),
        *(f"{wheel.file} {wheel.sha256}" for wheel in wheels),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _interpreter(lock: Lock) -> str:
    """Return what tells the image's Python from another: it decides the bytecode."""
    if lock.base.kind == "oci":
        return lock.base.digest or ""
    wanted = re.compile(rf"(lib)?python{re.escape(lock.python)}(-minimal|-stdlib)?")
    return " ".join(deb.sha256 for deb in sorted(lock.base.debs, key=lambda deb: deb.name) if wanted.fullmatch(deb.name))

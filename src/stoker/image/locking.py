"""A specification turned into a lock: stacks from the catalogue, the base from apt, wheels from uv; versions of the lock so far are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.errors import HashMismatch, SpecificationBroken, UnknownName, nearest
from stoker.image.compression import compressor_name
from stoker.image.debian import lock_base, python_full, suite_of
from stoker.image.lock import Base, Lock, LockedStack, Wheel
from stoker.image.ocibase import lock_oci_base
from stoker.image.own import own
from stoker.image.packages import debian_packages, python_packages
from stoker.image.resolution import Target, resolve_wheels, torch_index_answers
from stoker.image.specification import Specification
from stoker.image.stacks import Choice, choose_stacks

# What torch asks for by exact versions: another torch brings others.
_OF_TORCH = ("torch", "torchvision", "triton", "nvidia-", "cuda-")
# PyTorch's wheels are manylinux_2_28, so an OCI base has at least that; that it has more is not known before it is unpacked.
_GLIBC_OF_A_STRANGER = (2, 28)


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What may move to newer versions."""

    everything: bool = False
    packages: frozenset[str] = frozenset()
    """Names of wheels and of Debian packages; with `torch` go the packages that it is bound to."""

    def __contains__(self, name: str) -> bool:
        return self.everything or name in self.packages or ("torch" in self.packages and name.startswith(_OF_TORCH))


def make_lock(
    specification: Specification,
    *,
    old: Lock | None,
    upgrade: Upgrade,
    machine: str,
    now: int,
    environ: Mapping[str, str],
    tell: Callable[[str], None],
) -> Lock:
    """Resolve everything and return the lock. When nothing but the moment would change, it is the old one.

    `now` is Unix time in seconds. `tell` is given a line for each step. Raises NoStackFits and SpecificationBroken before anything is fetched;
    UnknownName for an upgrade of what is not in the lock; HashMismatch when a file has other bytes than in the old lock; and as
    `resolution.resolve_wheels` and `debian.lock_base`.
    """
    _known(upgrade, old)
    if specification.base is None:
        suite_of(specification.python)
    elif specification.debs:
        raise SpecificationBroken("debs cannot be added to an OCI base", hint="leave `debs` out and have them in the base, or leave `base` out")
    choices = choose_stacks(
        specification,
        machine=machine,
        reachable=lambda name: torch_index_answers(name, mirrors=specification.mirrors, environ=environ),
        held={stack.name: stack.torch for stack in old.stacks if stack.torch} if old and "torch" not in upgrade else {},
    )
    for choice in choices:
        tell(choice.why)
    base, python, glibc = _base(specification, machine, old, upgrade, environ)
    tell(f"{base.suite or 'OCI base'}: Python {python}, {len(base.debs)} Debian packages, {_megabytes(sum(deb.size for deb in base.debs))} MB")
    target = Target(python=python, machine=machine, glibc=glibc)
    stacks = []
    for choice in choices:
        stack = _resolved(choice, specification, target, old, upgrade, environ)
        tell(f"{stack.name}: {len(stack.wheels)} wheels, {_megabytes(sum(wheel.size for wheel in stack.wheels))} MB")
        stacks.append(stack)
    lock = Lock(
        name=specification.name,
        created=now,
        machine=machine,
        specification=specification.digest,
        python=specification.python,
        python_full=python,
        base=base,
        stacks=tuple(stacks),
        variants=specification.variants,
        prune=specification.prune,
        own=own(),
        compression=compressor_name(),
    )
    return old if old and replace(lock, created=old.created) == old else lock


def _known(upgrade: Upgrade, old: Lock | None) -> None:
    """Raise where a package that is to be upgraded is not there."""
    names = [one.name for stack in old.stacks for one in stack.wheels] + [deb.name for deb in old.base.debs] if old else []
    for name in sorted(upgrade.packages - set(names)):
        like = nearest(name, names)
        what = f"there is no package {name!r} in the lock" if old else f"there is no lock yet in which {name!r} could be upgraded"
        raise UnknownName(
            what + (f"; the nearest is {like!r}" if like else ""), hint="`stoker image lock --upgrade` alone upgrades everything that may be newer"
        )


def _base(
    specification: Specification, machine: str, old: Lock | None, upgrade: Upgrade, environ: Mapping[str, str]
) -> tuple[Base, str, tuple[int, int]]:
    """Return the base, its Python in full, and its glibc."""
    if specification.base:
        kind, _, reference = specification.base.partition(":")
        folder = (specification.path.parent if specification.path else Path()).absolute()
        base, python = lock_oci_base(f"{kind}:{folder / reference}", specification.python)
        return base, python, _GLIBC_OF_A_STRANGER
    suite = suite_of(specification.python)
    packages = {variant: debian_packages(suite.name, variant) for variant in specification.variants}
    packages["cli"] = tuple(sorted({*packages["cli"], *specification.debs}))
    held = {deb.name: deb.version for deb in old.base.debs if deb.name not in upgrade} if old and old.base.suite == suite.name else {}
    base = lock_base(suite=suite.name, machine=machine, packages=packages, mirrors=specification.mirrors, held=held)
    return base, python_full(base), suite.glibc


def _resolved(
    choice: Choice, specification: Specification, target: Target, old: Lock | None, upgrade: Upgrade, environ: Mapping[str, str]
) -> LockedStack:
    """Return a stack with its wheels."""
    stack = choice.stack
    pins = [f"{name}=={version}" for name, version in (("torch", stack.torch), ("torchvision", stack.torchvision)) if stack.torch and version]
    wanted = {variant: python_packages(variant) for variant in specification.variants}
    wanted["cli"] = (*pins, *wanted["cli"])
    if not stack.torch:
        wanted = {variant: tuple(one for one in names if not one.startswith("torch")) for variant, names in wanted.items()}
    before = _before(old, stack)
    wheels = resolve_wheels(
        wanted,
        target=target,
        mirrors=specification.mirrors,
        environ=environ,
        extra=specification.packages,
        requirements_file=specification.requirements_path,
        constraints=_kept(before, stack, upgrade) if before else (),
        index=choice.index,
    )
    if before:
        _same_bytes(before.wheels, wheels, upgrade)
    return replace(stack, wheels=wheels)


def _before(old: Lock | None, stack: LockedStack) -> LockedStack | None:
    """Return the stack of the old lock that a new one goes on from: that of its name, else the newest, so that what torch does not touch stays."""
    named = [one for one in old.stacks if one.name == stack.name] if old else []
    return next(iter(named), old.stacks[0] if old else None)


def _kept(before: LockedStack, stack: LockedStack, upgrade: Upgrade) -> tuple[str, ...]:
    moved = before.torch != stack.torch or before.name != stack.name
    return tuple(
        f"{wheel.name}=={wheel.version}"
        for wheel in before.wheels
        if wheel.name not in upgrade and wheel.name not in ("torch", "torchvision") and not (moved and wheel.name.startswith(_OF_TORCH))
    )


def _same_bytes(before: tuple[Wheel, ...], wheels: tuple[Wheel, ...], upgrade: Upgrade) -> None:
    """Raise where a file was published again under its old name."""
    known = {(wheel.file, wheel.index): wheel.sha256 for wheel in before}
    for wheel in wheels:
        if known.get((wheel.file, wheel.index), wheel.sha256) != wheel.sha256 and wheel.name not in upgrade:
            raise HashMismatch(
                f"{wheel.file} has other bytes than in the lock: the index offers {wheel.sha256[:16]}..., the lock has "
                f"{known[wheel.file, wheel.index][:16]}...",
                hint=f"find out who published it again; `stoker image lock --upgrade {wheel.name}` accepts the new one",
            )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size < 1e8 else f"{size / 1e6:,.0f}"

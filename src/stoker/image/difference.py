"""What differs between two locks: versions, sizes, drivers and GPUs lost or gained, and how much of the old image the new one goes on using."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stoker.catalog import version_numbers
from stoker.image.baselayer import base_key
from stoker.image.layers import plan_layers
from stoker.image.lock import Deb, Lock, LockedStack, Wheel


@dataclass(frozen=True, kw_only=True)
class Change:
    """A package that is another one now."""

    name: str
    before: str | None
    """Its version; None: it is new."""
    after: str | None
    """None: it is gone."""
    bytes_before: int
    bytes_after: int
    same_version: bool = False
    """The same version, in another file or with other bytes."""


@dataclass(frozen=True, kw_only=True)
class StackChange:
    """A stack, before and after."""

    before: LockedStack | None
    after: LockedStack | None
    packages: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The drivers and GPUs that an image runs on."""

    driver_min: str | None
    """The oldest driver that runs one of its stacks; None: it needs none, or it is not known."""
    architectures: tuple[str, ...]
    """The machine code of all stacks together."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Between two locks."""

    settings: tuple[tuple[str, str, str], ...]
    """What else differs: name, before, after."""
    stacks: tuple[StackChange, ...]
    debs: tuple[Change, ...]
    bytes_before: int
    """Of all wheels and Debian packages, as they are fetched."""
    bytes_after: int
    reach_before: Reach
    reach_after: Reach
    layers: int
    """Of packages, in the new image, with the base."""
    layers_reused: int
    bytes_reused: int
    """Of the packages in layers that both images share, as they are fetched."""

    @property
    def nothing(self) -> bool:
        """Whether both locks give the same files."""
        return not (self.settings or self.debs or any(change.packages or change.before != change.after for change in self.stacks))

    @property
    def architectures_lost(self) -> tuple[str, ...]:
        """What the old image has machine code for, and the new one not."""
        return tuple(one for one in self.reach_before.architectures if one not in self.reach_after.architectures)

    @property
    def architectures_gained(self) -> tuple[str, ...]:
        """The other way round."""
        return tuple(one for one in self.reach_after.architectures if one not in self.reach_before.architectures)

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain values that JSON can hold."""
        return {
            "same": self.nothing,
            "settings": [{"name": name, "before": before, "after": after} for name, before, after in self.settings],
            "stacks": [
                {
                    "before": _title(change.before),
                    "after": _title(change.after),
                    "packages": [vars(package) for package in change.packages],
                }
                for change in self.stacks
            ],
            "debs": [vars(package) for package in self.debs],
            "bytes": {"before": self.bytes_before, "after": self.bytes_after, "reused": self.bytes_reused},
            "layers": {"after": self.layers, "reused": self.layers_reused},
            "driver_min": {"before": self.reach_before.driver_min, "after": self.reach_after.driver_min},
            "architectures": {"lost": self.architectures_lost, "gained": self.architectures_gained},
        }

    def lines(self) -> list[str]:
        """Return the difference for people."""
        if self.nothing:
            return ["nothing differs"]
        told = [f"{name}: {before} -> {after}" for name, before, after in self.settings]
        for change in self.stacks:
            if change.packages or _title(change.before) != _title(change.after):
                told += [_heading(_title(change.before), _title(change.after)), *_table(change.packages)]
        if self.debs:
            told += ["Debian", *_table(self.debs)]
        return [*told, *self._drivers(), *self._sizes()]

    def _drivers(self) -> Iterator[str]:
        before, after = self.reach_before.driver_min, self.reach_after.driver_min
        if before and after and version_numbers(after) > version_numbers(before):
            yield f"drivers lost: those from {before} up to {after}, which the new image needs"
        elif before and after and version_numbers(after) < version_numbers(before):
            yield f"drivers gained: from {after} on, before from {before} on"
        for word, codes in (("lost", self.architectures_lost), ("gained", self.architectures_gained)):
            if codes:
                yield f"GPUs {word}: machine code for {', '.join(f'sm_{code}' for code in codes)}"

    def _sizes(self) -> Iterator[str]:
        yield f"to fetch: {_mb(self.bytes_before)} -> {_mb(self.bytes_after)} MB"
        share = self.bytes_reused / self.bytes_after if self.bytes_after else 1
        yield f"layers reused: {self.layers_reused} of {self.layers}, {_mb(self.bytes_reused)} MB of their packages ({share:.0%})"


def difference(old: Lock, new: Lock) -> Difference:
    """Return what differs between two locks."""
    shared = {plan.key for plan in plan_layers(old)}
    plans = plan_layers(new)
    reused = [plan for plan in plans if plan.key in shared]
    base = base_key(old) == base_key(new)
    return Difference(
        settings=tuple(_settings(old, new)),
        stacks=tuple(_stack_change(before, after) for before, after in _pairs(old.stacks, new.stacks)),
        debs=_changes(old.base.debs, new.base.debs),
        bytes_before=_bytes(old),
        bytes_after=_bytes(new),
        reach_before=_reach(old),
        reach_after=_reach(new),
        layers=len(plans) + 1,
        layers_reused=len(reused) + base,
        bytes_reused=sum(wheel.size for plan in reused for wheel in plan.wheels) + base * sum(deb.size for deb in new.base.debs),
    )


def _settings(old: Lock, new: Lock) -> Iterator[tuple[str, str, str]]:
    for name, before, after in (
        ("name", old.name, new.name),
        ("machine", old.machine, new.machine),
        ("Python", old.python_full, new.python_full),
        ("base", old.base.suite or old.base.digest, new.base.suite or new.base.digest),
        ("variants", ", ".join(old.variants), ", ".join(new.variants)),
        ("left out", ", ".join(old.prune) or "nothing", ", ".join(new.prune) or "nothing"),
        ("Stoker", f"{old.own.version} ({old.own.sha256[:8]})", f"{new.own.version} ({new.own.sha256[:8]})"),
        ("compression", old.compression, new.compression),
    ):
        if before != after:
            yield name, str(before), str(after)


def _pairs(old: Sequence[LockedStack], new: Sequence[LockedStack]) -> list[tuple[LockedStack | None, LockedStack | None]]:
    """Return the stacks side by side: by name, then in their order what has another name now (cu126 -> cu128)."""
    known = {stack.name: stack for stack in old}
    names = {stack.name for stack in new}
    renamed = [stack for stack in old if stack.name not in names]
    found: list[tuple[LockedStack | None, LockedStack | None]] = []
    for stack in new:
        before = known.get(stack.name) or (renamed.pop(0) if renamed else None)
        found.append((before, stack))
    return found + [(stack, None) for stack in renamed]


def _stack_change(before: LockedStack | None, after: LockedStack | None) -> StackChange:
    return StackChange(before=before, after=after, packages=_changes(before.wheels if before else (), after.wheels if after else ()))


def _changes(old: Sequence[Wheel] | Sequence[Deb], new: Sequence[Wheel] | Sequence[Deb]) -> tuple[Change, ...]:
    before, after = {one.name: one for one in old}, {one.name: one for one in new}
    return tuple(
        Change(
            name=name,
            before=was.version if was else None,
            after=now.version if now else None,
            bytes_before=was.size if was else 0,
            bytes_after=now.size if now else 0,
            same_version=bool(was and now and was.version == now.version),
        )
        for name in sorted({*before, *after})
        for was, now in [(before.get(name), after.get(name))]
        if was is None or now is None or was.sha256 != now.sha256
    )


def _bytes(lock: Lock) -> int:
    """Return the bytes to fetch: a file that two stacks share counts once."""
    files = {wheel.sha256: wheel.size for stack in lock.stacks for wheel in stack.wheels}
    return sum(files.values()) + sum(deb.size for deb in lock.base.debs)


def _reach(lock: Lock) -> Reach:
    drivers = [stack.driver_min for stack in lock.stacks if stack.driver_min]
    codes = {code for stack in lock.stacks for code in stack.architectures}
    return Reach(
        driver_min=min(drivers, key=version_numbers, default=None),
        architectures=tuple(sorted(codes, key=lambda code: (version_numbers(code), code))),
    )


def _title(stack: LockedStack | None) -> str | None:
    return f"{stack.name}{f' (torch {stack.torch})' if stack.torch else ''}" if stack else None


def _heading(before: str | None, after: str | None) -> str:
    if before == after:
        return str(after)
    return f"{before} -> {after}" if before and after else f"{after}: a new stack" if after else f"{before}: a stack less"


def _table(changes: Sequence[Change]) -> list[str]:
    width = max((len(change.name) for change in changes), default=0)
    return [f"  {change.name:{width}}  {_versions(change)}  {_size(change)}" for change in changes]


def _versions(change: Change) -> str:
    if change.same_version:
        return f"{change.after}, another file"
    if change.before is None:
        return f"new: {change.after}"
    return f"gone: {change.before}" if change.after is None else f"{change.before} -> {change.after}"


def _size(change: Change) -> str:
    sizes = [_mb(size) for size, version in ((change.bytes_before, change.before), (change.bytes_after, change.after)) if version]
    return f"({' -> '.join(dict.fromkeys(sizes))} MB)"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size < 1e8 else f"{size / 1e6:,.0f}"

"""What changed since an earlier verification: rates beyond their spread, verdicts, versions, the device."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from stoker.bench.readings import Reading, Verification

LEAST = 0.05
"""Smaller changes are not said even when the spreads do not overlap: quiet repeats differ by some per cent."""
_SAME = ("batch", "size", "array_bytes", "photos", "channels", "side", "workers", "bytes")
"""Facts that must be equal, or the rates are of different work."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One reading, then and now."""

    name: str
    title: str
    unit: str
    old: float
    new: float
    beyond: bool
    """Whether it changed by more than both spreads explain."""
    why_not: str
    """Why the two cannot be compared; empty when they can."""
    verdicts: tuple[str, str]

    @property
    def ratio(self) -> float:
        """New over old."""
        return self.new / self.old if self.old else float("nan")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it."""

    old_made: str
    same_device: bool
    old_device: str
    versions: tuple[tuple[str, str, str], ...]
    """Name, then, now."""
    changes: tuple[Change, ...]
    """Every rate that both have."""
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @property
    def beyond(self) -> tuple[Change, ...]:
        """The changes that are more than spread."""
        return tuple(change for change in self.changes if change.beyond)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def compare(old: Verification, new: Verification) -> Comparison:
    """Compare two verifications, reading by reading."""
    before, after = _rates(old), _rates(new)
    names = sorted(old.versions.keys() | new.versions.keys())
    pairs = ((name, old.versions.get(name, "none"), new.versions.get(name, "none")) for name in names)
    return Comparison(
        old_made=old.made,
        same_device=(old.device.name, old.host) == (new.device.name, new.host),
        old_device=f"{old.device.name} on {old.host}",
        versions=tuple(pair for pair in pairs if pair[1] != pair[2]),
        changes=tuple(_change(before[name], after[name]) for name in after if name in before),
        only_old=tuple(before[name].title for name in before if name not in after),
        only_new=tuple(after[name].title for name in after if name not in before),
    )


def _change(old: Reading, new: Reading) -> Change:
    differ = [key for key in _SAME if old.facts.get(key) != new.facts.get(key)]
    old_value, new_value = old.value or 0.0, new.value or 0.0
    apart = _lowest(new) > _highest(old) or _highest(new) < _lowest(old)
    return Change(
        name=new.name,
        title=new.title,
        unit=new.unit,
        old=old_value,
        new=new_value,
        beyond=not differ and apart and abs(new_value - old_value) > LEAST * old_value,
        why_not=", ".join(f"{key} {old.facts.get(key)} then, {new.facts.get(key)} now" for key in differ),
        verdicts=(old.verdict, new.verdict),
    )


def _rates(verification: Verification) -> dict[str, Reading]:
    return {name: reading for name, reading in verification.readings.items() if reading.value and "/s" in reading.unit}


def _lowest(reading: Reading) -> float:
    return reading.low if reading.low is not None else reading.value or 0.0


def _highest(reading: Reading) -> float:
    return reading.high if reading.high is not None else reading.value or 0.0

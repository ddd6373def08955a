"""Layers: those of the image against those that the store has of the same lock. What is the same layer is the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.errors import MissingExtra
from stoker.image.checks.finding import REBUILD, Finding, finding
from stoker.image.compression import MEDIA_TYPES, Compression
from stoker.image.lock import Lock
from stoker.image.names import layer_names
from stoker.image.store import Store


@dataclass(frozen=True, kw_only=True)
class Made:
    """A layer that a lock gives."""

    title: str
    diff_id: str | None
    """Of its tar; None: it was not made here."""


def made_layers(lock: Lock, store: Store) -> tuple[Made, ...]:
    """Return the layers of ours that an image of this lock has, the lowest first."""
    # The tar is the same, however it was compressed.
    named = [names for kind in MEDIA_TYPES if (names := _names(lock, kind))]
    known = [[(title, store.layer(name)) for title, name in names] for names in named]
    return tuple(Made(title=row[0][0], diff_id=next((blob.diff_id for _, blob in row if blob), None)) for row in zip(*known, strict=True))


def _names(lock: Lock, kind: Compression) -> tuple[tuple[str, str], ...]:
    try:
        return layer_names(lock, kind).all()
    except MissingExtra:  # what packs zstd is not here, and so nothing was packed with it
        return ()


def judge_layers(lock: Lock, made: Sequence[Made], there: Sequence[str]) -> list[Finding]:
    """Compare the layers of an image (`there`: their diff_ids, the lowest first) with those that were made here."""
    if not there or not any(one.diff_id for one in made):
        return []
    # Below ours lie those of an OCI base, whose number the lock does not know.
    below = max(len(there) - len(made), 0) if lock.base.kind == "oci" else 0
    ours = there[below:]
    other = [
        f"{one.title}: {found[:19]}, this lock gives {one.diff_id[:19]}"
        for one, found in zip(made, ours, strict=False)
        if one.diff_id and one.diff_id != found
    ]
    more = [f"layer {below + number}, on top: {found[:19]}" for number, found in enumerate(ours[len(made) :], start=len(made) + 1)]
    lost = [f"{one.title}: it is missing" for one in made[len(ours) :]]
    return finding("other-layer", "layers are not those that this lock gives, to the bit", [*other, *more, *lost], REBUILD)


def proven(made: Sequence[Made], there: Sequence[str]) -> int:
    """Return how many of the layers are the very ones that were made here."""
    return len({one.diff_id for one in made} & set(there))

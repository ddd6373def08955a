"""Decoded images that are kept in memory while the whole data set fits: shared by all loaders of a process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from stoker.boost.replay.available import available_bytes, share_bytes

_SHARE = 0.25
"""So much of the available memory may all kept images of a process take."""
_PRESSED = 0.05
"""When less than this part of what was available at first is left, everything is dropped."""
_SAMPLES = 16
"""Images after whose sizes the data set's size is judged."""
_LARGE_BYTES = 1 << 24
"""An image of so many bytes has the sizes judged at once."""
_EVERY_S = 1.0
"""How often the memory that is left is looked at."""
_SIZES = 200_000
"""Files whose sizes are remembered: with their paths they take about 200 bytes each."""
_OVERHEAD_BYTES = 1024
"""Of the Python objects of one image, roughly."""


@dataclass(frozen=True)
class Kept:
    """One image after the steps that are the same in every epoch. Never written into: who might, takes a copy."""

    image: Any
    size: tuple[int, int]
    """Width and height before these steps."""
    label: Any = None
    """Of made-up data, whose label is made with the image."""

    def memory_bytes(self, state: Hashable) -> int:
        """Return the memory of the image and the state it is kept with: Pillow keeps a grey pixel in one byte, any other in four."""
        width, height = self.image.size
        return width * height * (1 if self.image.mode == "L" else 4) + _OVERHEAD_BYTES + (len(state) if isinstance(state, bytes) else 0)


@dataclass(eq=False)
class Shelf:
    """The kept images of one data set after one chain of steps."""

    count: int
    """Samples that may come."""
    kept: dict[Hashable, tuple[Hashable, Kept]] = field(default_factory=dict)
    """By sample: the state of its source (a file's time and length) and the image."""
    used_bytes: int = 0
    seen: int = 0
    """Images whose sizes have been counted."""
    seen_bytes: int = 0
    fits: bool = False
    """Whether it was judged, and found to fit beside those judged before it."""
    refused: bool = False

    @property
    def expected_bytes(self) -> int:
        """Return what all samples will take, by the mean of those that were seen."""
        return max(self.used_bytes, self.count * self.seen_bytes // max(1, self.seen))


class Pixels:
    """All shelves of this process, for any thread."""

    def __init__(self, share: float = _SHARE) -> None:
        self._share = share
        self._shelves: dict[Hashable, Shelf] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._first_bytes = available_bytes()
        self._looked = time.monotonic()
        self._closed = self._first_bytes is None

    def shelf(self, key: Hashable, count: int) -> Shelf:
        """Return the shelf of a data set and its steps; `count`: samples that a loader may ask for."""
        with self._lock:
            shelf = self._shelves.setdefault(key, Shelf(count))
            if count > shelf.count:
                shelf.count = count
            return shelf

    def get(self, shelf: Shelf, sample: Hashable, state: Hashable) -> Kept | None:
        """Return the kept image of a sample whose source is in `state`; None when there is none."""
        found = shelf.kept.get(sample)
        if found is None or found[0] != state:
            return None
        if time.monotonic() - self._looked > _EVERY_S:
            self._look()
        return found[1]

    def put(self, shelf: Shelf, sample: Hashable, state: Hashable, kept: Kept) -> None:
        """Keep an image where all that are expected fit. Nothing happens where they do not."""
        if self._closed or shelf.refused:
            return
        taken = kept.memory_bytes(state)
        with self._lock:
            shelf.seen += 1
            shelf.seen_bytes += taken
            if shelf.seen % _SAMPLES == 0 or taken > _LARGE_BYTES:
                shelf.fits = self._fits(shelf)
                if not shelf.fits:
                    self._refuse(shelf)
                    return
            before = shelf.kept.get(sample)
            shelf.kept[sample] = (state, kept)
            shelf.used_bytes += taken - (0 if before is None else before[1].memory_bytes(before[0]))
        if time.monotonic() - self._looked > _EVERY_S:
            self._look()

    @property
    def used_bytes(self) -> int:
        """Return what all kept images take."""
        return sum(shelf.used_bytes for shelf in list(self._shelves.values()))

    def size(self, path: str) -> tuple[int, int] | None:
        """Return the remembered width and height of an image file."""
        return self._sizes.get(path)

    def remember(self, path: str, size: tuple[int, int] | None) -> None:
        """Remember a file's width and height; None: forget it."""
        if size is None:
            self._sizes.pop(path, None)
        elif len(self._sizes) < _SIZES:
            self._sizes[path] = size

    def clear(self) -> None:
        """Drop everything, and begin anew: when boost is switched off, and in tests."""
        with self._lock:
            for shelf in self._shelves.values():
                self._refuse(shelf)
            self._shelves.clear()
            self._sizes.clear()
            self._begin()

    def _fits(self, shelf: Shelf) -> bool:
        left = share_bytes(self._share)
        if left is None:
            return False
        expected = sum(one.expected_bytes if one.fits or one is shelf else one.used_bytes for one in self._shelves.values())
        # What is kept already is no longer available.
        return expected <= left + int(self._share * self.used_bytes)

    @staticmethod
    def _refuse(shelf: Shelf) -> None:
        shelf.refused = True
        shelf.kept, shelf.used_bytes = {}, 0

    def _look(self) -> None:
        """Drop everything when memory has become short."""
        self._looked = time.monotonic()
        left = available_bytes()
        if self._first_bytes is None or left is None or left > _PRESSED * self._first_bytes:
            return
        with self._lock:
            self._closed = True
            for shelf in self._shelves.values():
                self._refuse(shelf)

    def after_fork(self) -> None:
        """In a forked child: the lock may have been held by a thread that is not there."""
        self._lock = threading.Lock()


PIXELS = Pixels()

os.register_at_fork(after_in_child=PIXELS.after_fork)

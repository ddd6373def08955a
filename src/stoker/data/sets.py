"""What a data set is to the rest of Stoker: decoded pixels in memory, or files that are decoded again every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stoker.data.broken import Broken


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Images that were decoded once and stay in memory. The arrays may be read-only maps of a cached file."""

    pixels_NHWC: np.ndarray
    """uint8; C is 1 (all images are grey) or 3 (RGB)."""
    labels_N: np.ndarray
    """int64, from 0 to the number of classes - 1."""

    def __post_init__(self) -> None:
        shape = self.pixels_NHWC.shape
        if self.pixels_NHWC.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ValueError(f"pixels_NHWC must be uint8 N H W 1 or 3, not {self.pixels_NHWC.dtype} {shape}")
        if self.labels_N.dtype != np.int64 or self.labels_N.shape != shape[:1]:
            raise ValueError(f"labels_N must be int64 {shape[:1]}, not {self.labels_N.dtype} {self.labels_N.shape}")

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.labels_N)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Image files that are decoded again every epoch."""

    paths: tuple[str, ...]
    labels_N: np.ndarray
    """int64, from 0 to the number of classes - 1."""

    def __post_init__(self) -> None:
        if self.labels_N.dtype != np.int64 or self.labels_N.shape != (len(self.paths),):
            raise ValueError(f"labels_N must be int64 ({len(self.paths)},), not {self.labels_N.dtype} {self.labels_N.shape}")

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.paths)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that is ready to be fed: two parts with the same classes."""

    train: Resident | Files
    test: Resident | Files
    """The held-out part: the source's own validation or test part, else a stratified share of all images."""
    classes: tuple[str, ...]
    source: str
    """Path or name, for the record."""
    fingerprint: str
    """`sha256:...`: the same data gives the same string. What it covers stands at the reader (`sources.py`)."""
    skipped: tuple[str, ...] = ()
    """Names of the broken images that were left out."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A whole source as arrays, before it is split: what the cache holds."""

    pixels_NHWC: np.ndarray
    """uint8; the training part first when the source has parts of its own."""
    labels_N: np.ndarray
    """int64."""
    classes: tuple[str, ...]
    train_count: int | None
    """How many of the images are the training part; None: the source has no parts, split it."""
    fingerprint: str
    broken: Broken = ()
    """Images that are not among the pixels because they cannot be decoded."""

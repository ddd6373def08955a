"""The compiled kernel `native/augment.c`: found, loaded and called through ctypes, which releases the GIL."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoker.data.normalise import Normalise
from stoker.kernels import built

VERSION = 1
BEST, TABLE = -1, 0
LEVELS = ("table", "base", "avx2", "avx512")
"""Instruction sets by their number in augment.c; `table` reads numbers instead of computing them."""

_WRONG = {
    1: "an index lies outside the images",
    2: "a crop offset lies outside the padding",
    4: "an argument is out of range",
    5: "this processor or this build lacks the level asked for",
}
_INTEGERS, _POINTER = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS = (
    *(_POINTER, _INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS, _POINTER, _INTEGERS, _POINTER, _POINTER, _POINTER, _INTEGERS, ctypes.c_int),
    *(_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int),
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the crops of a batch lie and which are mirrored: one entry an image of the batch."""

    dy_B: np.ndarray
    """uint8, 0..2*padding."""
    dx_B: np.ndarray
    """uint8, 0..2*padding."""
    flip_B: np.ndarray
    """uint8, 0 or 1."""


class Kernel:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load `path`. Raises OSError when it cannot be loaded or is of another version."""
        library = ctypes.CDLL(str(path))
        try:
            version = library.stoker_augment_version()
            self._augment, self._level = library.stoker_augment, library.stoker_augment_level
        except AttributeError as error:
            raise OSError(f"{path} is not the augmentation kernel: {error}") from error
        if version != VERSION:
            raise OSError(f"{path} has version {version}, this code needs {VERSION}")
        self._augment.argtypes, self._augment.restype = _ARGUMENTS, ctypes.c_int
        self.path = path
        self.level = int(self._level())

    def fill(
        self,
        address: int,
        pixels_NHWC: np.ndarray,
        index_B: np.ndarray,
        places: Places | None,
        normalise: Normalise,
        *,
        padding: int,
        reflect: bool,
        bfloat16: bool,
        channels_last: bool,
        level: int = BEST,
    ) -> None:
        """Write images `index_B` of `pixels_NHWC`, cropped, flipped and normalised, to memory at `address`.

        The caller answers for `address`: room for len(index_B) images of float32 or bfloat16. Everything else is checked here or in C.
        Raises ValueError for arrays of the wrong type, shape or layout, IndexError for an index out of range, MemoryError.
        """
        _need(pixels_NHWC, "pixels_NHWC", np.uint8, 4)
        _need(index_B, "index_B", np.int64, 1)
        images, height, width, channels = pixels_NHWC.shape
        if channels != normalise.channels:
            raise ValueError(f"pixels_NHWC has {channels} channels, the normalisation {normalise.channels}")
        dy, dx, flip = _places(places, len(index_B))
        code = self._augment(
            *(pixels_NHWC.ctypes.data, images, height, width, channels, index_B.ctypes.data, len(index_B), dy, dx, flip, padding, reflect),
            *(normalise.scale_C.ctypes.data, normalise.bias_C.ctypes.data, normalise.table_CV.ctypes.data, normalise.table_bf16_CV.ctypes.data),
            *(address, bfloat16, channels_last, level),
        )
        if code == 3:
            raise MemoryError("no memory for a row of pixels")
        if code:
            raise (IndexError if code == 1 else ValueError)(_WRONG.get(code, f"the kernel refused with code {code}"))


@functools.cache
def kernel() -> Kernel | str:
    """Return the kernel that was built with the package, or the reason why there is none."""
    return built(Path(__file__).with_name("_augment"), Kernel)


def _places(places: Places | None, count: int) -> tuple[int | None, int | None, int | None]:
    if places is None:
        return None, None, None
    for name, array in (("dy_B", places.dy_B), ("dx_B", places.dx_B), ("flip_B", places.flip_B)):
        _need(array, name, np.uint8, 1)
        if len(array) != count:
            raise ValueError(f"{name} has {len(array)} entries for {count} images")
    return places.dy_B.ctypes.data, places.dx_B.ctypes.data, places.flip_B.ctypes.data


def _need(array: np.ndarray, name: str, dtype: type, dimensions: int) -> None:
    if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
        layout = "contiguous" if array.flags.c_contiguous else "strided"
        raise ValueError(f"{name} must be contiguous {dtype.__name__} of {dimensions} dimensions, not {layout} {array.dtype} of shape {array.shape}")

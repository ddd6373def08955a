"""The compiled kernel `native/replay.c`: found, loaded and called through ctypes, which releases the GIL. Without it numpy gives the same bits."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stoker.kernels import built

VERSION = 1
MAX_CHANNELS = 8
SIZES = (1, 2, 4, 8)
"""Bytes an element of the output may have."""

_WRONG = {
    1: "an index lies outside the images",
    2: "a map lies outside the image or the fill values, or a code outside the maps",
    3: "a place lies outside the output",
    4: "an argument is out of range",
}
_INTEGER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_REPLAY = (
    *(_POINTER, _POINTER, _POINTER, _POINTER, _INTEGER, _INTEGER, _POINTER, _POINTER, _POINTER, _POINTER),
    *(_POINTER, _POINTER, _POINTER, _INTEGER, _INTEGER, _POINTER),
)
_LOOKUP = (_POINTER, _INTEGER, _INTEGER, _INTEGER, _POINTER, _INTEGER, _POINTER)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done with every image: where its pixels may come from, and what their values become. All arrays contiguous."""

    pixels_NHWC: np.ndarray
    """uint8; any strides: planar pixels are a view."""
    rows_RH: np.ndarray
    """int16 [row maps, output height]: source rows; -1 - k: fill value k. Of a row's and a column's fill the smaller entry counts."""
    columns_SW: np.ndarray
    """int16 [column maps, output width]: source columns, as above."""
    from_C: np.ndarray
    """int32: the source channel of each output channel."""
    table_CV: np.ndarray
    """[C, 256] of a type of 1, 2, 4 or 8 bytes: the value of each output channel for each value of its source channel."""
    fills_KC: np.ndarray
    """[K, C], same type: the fill values; K may be 0."""
    sizes: np.ndarray = field(init=False, repr=False)
    addresses: tuple[int, ...] = field(init=False, repr=False)
    """Of pixels, sizes, row maps, column maps, channels, tables and fills, which this object keeps alive."""

    def __post_init__(self) -> None:
        _need(self.pixels_NHWC, "pixels_NHWC", np.uint8, 4, contiguous=False)
        _need(self.rows_RH, "rows_RH", np.int16, 2)
        _need(self.columns_SW, "columns_SW", np.int16, 2)
        _need(self.from_C, "from_C", np.int32, 1)
        _need(self.table_CV, "table_CV", self.table_CV.dtype, 2)
        _need(self.fills_KC, "fills_KC", self.table_CV.dtype, 2)
        channels = len(self.from_C)
        if self.table_CV.shape != (channels, 256) or self.fills_KC.shape[1] != channels or self.table_CV.dtype.itemsize not in SIZES:
            raise ValueError(f"tables of shape {self.table_CV.shape} and {self.fills_KC.shape}, {self.table_CV.dtype}, for {channels} channels")
        strides, shape = self.pixels_NHWC.strides, self.pixels_NHWC.shape
        out = (self.rows_RH.shape[1], self.columns_SW.shape[1], channels, len(self.rows_RH), len(self.columns_SW))
        object.__setattr__(self, "sizes", np.array([*shape, *strides, *out], np.int64))
        arrays = (self.pixels_NHWC, self.sizes, self.rows_RH, self.columns_SW, self.from_C, self.table_CV, self.fills_KC)
        object.__setattr__(self, "addresses", tuple(array.ctypes.data for array in arrays))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an output image."""
        return len(self.from_C), self.rows_RH.shape[1], self.columns_SW.shape[1]


class Kernel:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load `path`. Raises OSError when it cannot be loaded or is of another version."""
        library = ctypes.CDLL(str(path))
        try:
            version = library.stoker_replay_version()
            self._replay, self._lookup = library.stoker_replay, library.stoker_lookup
        except AttributeError as error:
            raise OSError(f"{path} is not the replay kernel: {error}") from error
        if version != VERSION:
            raise OSError(f"{path} has version {version}, this code needs {VERSION}")
        self._replay.argtypes, self._replay.restype = _REPLAY, ctypes.c_int
        self._lookup.argtypes, self._lookup.restype = _LOOKUP, ctypes.c_int
        self.path = path

    def replay(
        self,
        out_BCHW: np.ndarray,
        recipe: Recipe,
        index_B: np.ndarray,
        row_code_B: np.ndarray | None,
        column_code_B: np.ndarray | None,
        place_B: np.ndarray | None = None,
    ) -> None:
        """Write images `index_B` by maps `row_code_B` and `column_code_B` (None: map 0 for all) to rows `place_B` (None: in order); int64 all.

        Raises ValueError for arrays of the wrong type, shape or layout, IndexError for an index or a code out of range; nothing is written then.
        """
        _need(out_BCHW, "out_BCHW", recipe.table_CV.dtype, 4)
        if out_BCHW.shape[1:] != recipe.shape or (place_B is None and len(out_BCHW) != len(index_B)):
            raise ValueError(f"out_BCHW has shape {out_BCHW.shape} for {len(index_B)} images of {recipe.shape}")
        index, row_code, column_code, place = _addresses(index_B, row_code_B, column_code_B, place_B)
        pixels, sizes, rows, columns, channels, table, fills = recipe.addresses
        code = self._replay(
            *(pixels, sizes, index, place, len(index_B), len(out_BCHW), rows, row_code, columns, column_code, channels, table),
            *(fills, len(recipe.fills_KC), recipe.table_CV.dtype.itemsize, out_BCHW.ctypes.data),
        )
        _raise(code)

    def lookup(self, out_CHW: np.ndarray, pixels_HWC: np.ndarray, table_CV: np.ndarray) -> None:
        """Write `table_CV[c, pixels_HWC[y, x, c]]`. Raises ValueError for arrays of the wrong type, shape or layout."""
        _need(pixels_HWC, "pixels_HWC", np.uint8, 3)
        _need(table_CV, "table_CV", table_CV.dtype, 2)
        _need(out_CHW, "out_CHW", table_CV.dtype, 3)
        height, width, channels = pixels_HWC.shape
        if table_CV.shape != (channels, 256) or out_CHW.shape != (channels, height, width):
            raise ValueError(f"a table of shape {table_CV.shape} and room of shape {out_CHW.shape} for pixels of shape {pixels_HWC.shape}")
        if out_CHW.size:
            _raise(self._lookup(pixels_HWC.ctypes.data, height, width, channels, table_CV.ctypes.data, table_CV.dtype.itemsize, out_CHW.ctypes.data))


class Numpy:
    """The same in numpy, where the kernel was not built. Same checks, same bits."""

    def replay(
        self,
        out_BCHW: np.ndarray,
        recipe: Recipe,
        index_B: np.ndarray,
        row_code_B: np.ndarray | None,
        column_code_B: np.ndarray | None,
        place_B: np.ndarray | None = None,
    ) -> None:
        """As `Kernel.replay`."""
        _need(out_BCHW, "out_BCHW", recipe.table_CV.dtype, 4)
        if out_BCHW.shape[1:] != recipe.shape or (place_B is None and len(out_BCHW) != len(index_B)):
            raise ValueError(f"out_BCHW has shape {out_BCHW.shape} for {len(index_B)} images of {recipe.shape}")
        count, nought = len(index_B), np.zeros(len(index_B), np.int64)
        row_code, column_code = (nought if code is None else code for code in (row_code_B, column_code_B))
        place = np.arange(count) if place_B is None else place_B
        _addresses(index_B, row_code, column_code, place)
        _within(index_B, len(recipe.pixels_NHWC), 1)
        _within(row_code, len(recipe.rows_RH), 2)
        _within(column_code, len(recipe.columns_SW), 2)
        _within(place, len(out_BCHW), 3)
        rows_BH, columns_BW = recipe.rows_RH[row_code], recipe.columns_SW[column_code]
        for maps, size in ((rows_BH, recipe.pixels_NHWC.shape[1]), (columns_BW, recipe.pixels_NHWC.shape[2])):
            _within(maps, size, 2, low=-len(recipe.fills_KC))
        # A fill's entry is negative: what is read there instead of it does not matter.
        pixels_BHWC = recipe.pixels_NHWC[index_B[:, None, None], np.maximum(rows_BH, 0)[:, :, None], np.maximum(columns_BW, 0)[:, None, :]]
        fill_BHW = np.minimum(rows_BH[:, :, None], columns_BW[:, None, :])
        filled = fill_BHW < 0
        for c, source in enumerate(recipe.from_C):
            plane_BHW = recipe.table_CV[c][pixels_BHWC[..., source]]
            if filled.any():
                plane_BHW[filled] = recipe.fills_KC[-1 - fill_BHW[filled].astype(np.int64), c]
            out_BCHW[place, c] = plane_BHW

    def lookup(self, out_CHW: np.ndarray, pixels_HWC: np.ndarray, table_CV: np.ndarray) -> None:
        """As `Kernel.lookup`."""
        _need(pixels_HWC, "pixels_HWC", np.uint8, 3)
        _need(out_CHW, "out_CHW", table_CV.dtype, 3)
        if table_CV.shape != (pixels_HWC.shape[2], 256) or out_CHW.shape != pixels_HWC.shape[2:] + pixels_HWC.shape[:2]:
            raise ValueError(f"a table of shape {table_CV.shape} and room of shape {out_CHW.shape} for pixels of shape {pixels_HWC.shape}")
        for c, table in enumerate(table_CV):
            np.take(table, pixels_HWC[..., c], out=out_CHW[c], mode="clip")


@functools.cache
def kernel() -> Kernel | str:
    """Return the kernel that was built with the package, or the reason why there is none."""
    return built(Path(__file__).with_name("_replay"), Kernel)


@functools.cache
def hands() -> Kernel | Numpy:
    """Return what does the work here: the kernel, or numpy."""
    found = kernel()
    return Numpy() if isinstance(found, str) else found


def _addresses(*arrays: np.ndarray | None) -> list[int | None]:
    """Check indices and codes, one an image, and return where they lie."""
    assert arrays[0] is not None
    names = ("index_B", "row_code_B", "column_code_B", "place_B")
    return [_address(array, name, len(arrays[0])) for array, name in zip(arrays, names, strict=True)]


def _address(array: np.ndarray | None, name: str, count: int) -> int | None:
    if array is None:
        return None
    _need(array, name, np.int64, 1)
    if len(array) != count:
        raise ValueError(f"{name} has {len(array)} entries for {count} images")
    return array.ctypes.data


def _within(array: np.ndarray, size: int, code: int, low: int = 0) -> None:
    if array.size and not (low <= array.min() and array.max() < size):
        _raise(code)


def _raise(code: int) -> None:
    if code:
        raise (IndexError if code in (1, 2, 3) else ValueError)(_WRONG.get(code, f"the kernel refused with code {code}"))


def _need(array: np.ndarray, name: str, dtype: np.typing.DTypeLike, dimensions: int, *, contiguous: bool = True) -> None:
    if array.dtype != dtype or array.ndim != dimensions or (contiguous and not array.flags.c_contiguous):
        layout = "contiguous" if array.flags.c_contiguous else "strided"
        raise ValueError(f"{name} must be {np.dtype(dtype)} of {dimensions} dimensions, not {layout} {array.dtype} of shape {array.shape}")

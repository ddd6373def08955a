"""A batch on the CPU: gather, crop, flip and normalise, by the C kernel where it was built, else by torch, with the same bits."""

from __future__ import annotations

import numpy as np
import torch

from stoker.data import draws, kernel
from stoker.data.gather import gathered
from stoker.data.kernel import Kernel, Places
from stoker.data.normalise import Normalise, check_dtype
from stoker.errors import BadValue

PADDING_MODES = ("zeros", "reflect")


class Augment:
    """Makes batches on the CPU. `how` says by what: "kernel avx512", "kernel table", ... or "torch: " and the reason."""

    def __init__(
        self,
        normalise: Normalise,
        *,
        dtype: torch.dtype,
        channels_last: bool,
        padding: int = 0,
        padding_mode: str = "zeros",
        with_kernel: Kernel | str | None = None,
    ) -> None:
        """Use `with_kernel` (a str: none, for that reason; None: the one built with the package). Raises BadValue."""
        check_dtype(dtype)
        check_padding(padding, padding_mode)
        self.normalise, self.dtype, self.channels_last = normalise, dtype, channels_last
        self.padding, self.reflect = padding, padding_mode == "reflect"
        self._table_CV = normalise.table(dtype)
        self._kernel: Kernel | None = None
        found = with_kernel if with_kernel is not None else kernel.kernel()
        self.how = f"torch: {found}" if isinstance(found, str) else self._choose(found)

    def into(self, out_NCHW: torch.Tensor, pixels_NHWC: np.ndarray, index_B: np.ndarray, places: Places | None) -> None:
        """Fill `out_NCHW` with images `index_B` (int64) of `pixels_NHWC` (uint8); `places` None: no crop, no flip.

        Raises ValueError for an `out_NCHW` of the wrong shape, dtype, device or memory layout, IndexError for an index out of range.
        """
        self._check(out_NCHW, pixels_NHWC, index_B)
        if self._kernel is not None:
            self._fill(self._kernel, out_NCHW, pixels_NHWC, index_B, places, self._level)
        else:
            out_NCHW.copy_(self._gathered(pixels_NHWC, index_B, places))

    def _choose(self, found: Kernel) -> str:
        """Take the fastest arithmetic of the kernel that gives the table for every value; a processor that rounds otherwise gets the table."""
        values = np.ascontiguousarray(np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (1, 1, 256, self.normalise.channels)))
        out = torch.empty((1, self.normalise.channels, 1, 256), dtype=self.dtype, memory_format=self._memory_format)
        bits = torch.int16 if self.dtype == torch.bfloat16 else torch.int32
        expected = self._table_CV.contiguous().view(bits)
        for level in dict.fromkeys((found.level, kernel.TABLE)):
            self._fill(found, out, values, np.zeros(1, dtype=np.int64), None, level)
            if torch.equal(out.contiguous().view(bits).reshape(expected.shape), expected):
                self._kernel, self._level = found, level
                return f"kernel {kernel.LEVELS[level]}"
        return "torch: the C kernel gives other numbers on this processor"

    def _fill(self, found: Kernel, out: torch.Tensor, pixels_NHWC: np.ndarray, index_B: np.ndarray, places: Places | None, level: int) -> None:
        found.fill(
            out.data_ptr(),
            *(pixels_NHWC, index_B, places, self.normalise),
            padding=self.padding if places is not None else 0,
            reflect=self.reflect and places is not None,
            bfloat16=self.dtype == torch.bfloat16,
            channels_last=self.channels_last,
            level=level,
        )

    def _gathered(self, pixels_NHWC: np.ndarray, index_B: np.ndarray, places: Places | None) -> torch.Tensor:
        if len(index_B) and index_B.min() < 0:
            raise IndexError("an index lies outside the images")
        own = torch.from_numpy(pixels_NHWC[index_B])  # a copy: torch warns of arrays that it may not write, such as a mapped file
        if places is None:
            return gathered(own, self._table_CV, torch.arange(len(own)), None, None, None, 0, False, self.channels_last)
        dy_B, dx_B, flip_B = (torch.from_numpy(array) for array in (places.dy_B, places.dx_B, places.flip_B))
        return gathered(own, self._table_CV, torch.arange(len(own)), dy_B, dx_B, flip_B, self.padding, self.reflect, self.channels_last)

    def _check(self, out: torch.Tensor, pixels_NHWC: np.ndarray, index_B: np.ndarray) -> None:
        if pixels_NHWC.ndim != 4 or pixels_NHWC.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 [N, H, W, C], not {pixels_NHWC.dtype} {pixels_NHWC.shape}")
        _, height, width, channels = pixels_NHWC.shape
        check_reflection(self.padding, self.reflect, height, width)
        shape = (len(index_B), channels, height, width)
        if tuple(out.shape) != shape or out.dtype != self.dtype or out.device.type != "cpu":
            raise ValueError(f"the batch must be {self.dtype} {shape} on the CPU, not {out.dtype} {tuple(out.shape)} on {out.device}")
        if not out.is_contiguous(memory_format=self._memory_format):
            raise ValueError(f"the batch must be {self._memory_format} in memory")

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def check_padding(padding: int, padding_mode: str) -> None:
    """Raise BadValue unless images can be padded so."""
    draws.check(padding, "none")
    if padding_mode not in PADDING_MODES:
        raise BadValue(f"padding_mode={padding_mode!r} is unknown", hint=f"choose one of {', '.join(PADDING_MODES)}")


def check_reflection(padding: int, reflect: bool, height: int, width: int) -> None:
    """Raise BadValue when there is not enough image to reflect."""
    if reflect and padding >= min(height, width):
        raise BadValue(f"padding={padding} cannot be reflected from images of {height}x{width}", hint=f"choose a padding below {min(height, width)}")

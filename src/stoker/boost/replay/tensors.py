"""Batches of a `TensorDataset`: the rows of each tensor, gathered at memory speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.data import Data
from stoker.boost.replay.engine import Room
from stoker.boost.replay.sources import TensorsSource
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One tensor of a data set, as rows of bytes."""

    of: torch.Tensor
    address: int
    shape: torch.Size
    bytes_NR: np.ndarray
    """uint8 [rows, bytes a row] in the tensor's own memory."""

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> Rows:
        """Raises Unfit for what is no plain contiguous tensor in the memory of the CPU."""
        if type(tensor) is not torch.Tensor:
            raise Unfit(f"its tensors are of the class {type(tensor).__name__}")
        if tensor.device.type != "cpu":
            raise Unfit(f"its tensors are on {tensor.device}")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise Unfit("its tensors are not dense")
        if tensor.requires_grad:
            raise Unfit("its tensors require a gradient")
        if tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous():
            raise Unfit("its tensors are views that are not contiguous")
        if tensor.dim() == 0:
            raise Unfit("its tensors have no rows")
        flat = tensor.unsqueeze(1) if tensor.dim() == 1 else tensor.flatten(1) if tensor.numel() else tensor.reshape(len(tensor), 0)
        return cls(of=tensor, address=tensor.data_ptr(), shape=tensor.shape, bytes_NR=flat.view(torch.uint8).numpy())

    def current(self) -> bool:
        """Whether the tensor still lies where it lay. (Its numbers are read when they are asked for.)"""
        return self.of.data_ptr() == self.address and self.of.shape == self.shape and not self.of.requires_grad

    def gather(self, index_B: np.ndarray, out_BR: np.ndarray) -> None:
        """Write rows `index_B` to `out_BR` (uint8, contiguous). The caller has checked the indices."""
        # Indices are in range: "clip" only spares numpy a copy of the output. Measured beside it: memcpy in C with prefetching, with and
        # without stores past the caches, is as fast or up to 9 % faster from rows of 3 kB on, slower below: not worth its lines here.
        np.take(self.bytes_NR, index_B, axis=0, out=out_BR, mode="clip")


@dataclass(kw_only=True)
class Tensors:
    """The engine for `TensorDataset`, and for subsets and concatenations of such."""

    what: str
    data: Data
    fields: list[list[Rows]]
    """By leaf, then by field of the sample."""
    draws: bool = False
    serial: bool = False
    ahead: bool = False

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """As `Engine.shapes`."""
        return [((count, *rows.shape[1:]), rows.of.dtype) for rows in self.fields[0]]

    def draw(self, stream: Stream, index_B: np.ndarray) -> Any:
        """Find the rows; nothing is drawn. Raises IndexError for one that is not there."""
        leaf_B, local_B = self.data.locate(index_B)
        places = []
        for leaf, fields in enumerate(self.fields):
            place_K = np.flatnonzero(leaf_B == leaf) if len(self.fields) > 1 else None
            local_K = np.ascontiguousarray(local_B if place_K is None else local_B[place_K], dtype=np.int64)
            if len(local_K) and not (local_K.min() >= 0 and local_K.max() < len(fields[0].bytes_NR)):
                raise IndexError("an index lies outside the tensors")
            places.append((place_K, local_K))
        return places

    def fill(self, drawn: Any, room: Room, start: int, stop: int) -> None:
        """Copy rows `start` to `stop` of the batch."""
        for k, tensor in enumerate(room.tensors):
            out_BR = tensor.view(len(tensor), -1).view(torch.uint8).numpy() if tensor.numel() else None
            for fields, (place_K, local_K) in zip(self.fields, drawn, strict=True):
                if out_BR is None:
                    continue
                if place_K is None:
                    fields[k].gather(local_K[start:stop], out_BR[start:stop])
                    continue
                first, last = np.searchsorted(place_K, (start, stop))
                out_BR[place_K[first:last]] = fields[k].bytes_NR[local_K[first:last]]

    def read(self, index_B: np.ndarray) -> list[Any]:
        """As `Engine.read`: nothing, since its batches are made when they are asked for."""
        return []

    def current(self) -> bool:
        """As `Engine.current`."""
        return self.data.current() and all(rows.current() for fields in self.fields for rows in fields)


def tensors(data: Data) -> Tensors:
    """Return the engine for `data`. Raises Unfit."""
    fields = []
    for leaf in data.leaves:
        if not isinstance(leaf.source, TensorsSource):
            raise Unfit("a TensorDataset beside other data sets")
        fields.append([Rows.from_tensor(tensor) for tensor in leaf.source.tensors])
    kinds = {tuple((rows.shape[1:], rows.of.dtype) for rows in leaf) for leaf in fields}
    if len(kinds) != 1 or not fields[0]:
        raise Unfit("its tensors differ in shape or type from data set to data set")
    return Tensors(what=data.what, data=data, fields=fields)

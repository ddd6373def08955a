"""Many image files become one array; the broken ones are gathered by name, not met one at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from stoker.data.broken import broken_text
from stoker.data.decode import decode_marked
from stoker.errors import BrokenImage, DataInvalid, DataMissing

_CHUNK_IMAGES = 256
# At 32 x 32 threads wait for each other's GIL: 12,000 JPEGs took 0.53 s in one thread and 0.91 s in two (two cores, Pillow 13).
_THREADS_FROM_PIXELS = 128 * 128

Named = tuple[str, str | bytes]
"""A name to show, and the file: a path or its bytes."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The images that could be decoded, in the order in which they came, all of one size."""

    names: list[str]
    chunks: list[np.ndarray]
    """uint8 N H W C each; together as many images as names."""
    broken: dict[str, str]
    """Name -> reason."""

    def arranged(self, order_N: np.ndarray) -> np.ndarray:
        """Return the images number `order_N` as one uint8 N H W C array, and give the chunks' memory back on the way."""
        rank_N = np.full(len(self.names), -1)
        rank_N[order_N] = np.arange(len(order_N))
        pixels_NHWC = np.empty((len(order_N), *self.chunks[0].shape[1:]), np.uint8)
        start = 0
        while self.chunks:
            chunk = self.chunks.pop(0)
            ranks = rank_N[start : start + len(chunk)]
            pixels_NHWC[ranks[ranks >= 0]] = chunk[ranks >= 0]
            start += len(chunk)
        return pixels_NHWC


def gather_pixels(files: Iterable[Named], where: str) -> Gathered:
    """Decode all `files`. Grey stays one channel when every image is grey, otherwise all become RGB.

    Raises DataInvalid when two images differ in size, when more than half are broken, or when the pixels would not fit into half
    of the machine's memory.
    """
    names: list[str] = []
    chunks: list[np.ndarray] = []
    broken: dict[str, str] = {}
    all_grey, shape, limit_bytes = True, None, _memory_bytes() // 2
    for chunk in _decoded(files):
        good = []
        for name, outcome in chunk:
            if isinstance(outcome, str):
                broken[name] = outcome
                continue
            pixels_HWC, grey = outcome
            shape = shape or pixels_HWC.shape
            if pixels_HWC.shape != shape:
                raise _sizes_differ(names[0], shape, name, pixels_HWC.shape, where)
            all_grey = all_grey and grey
            names.append(name)
            good.append(pixels_HWC)
        if good:
            chunks.append(np.stack(good))
        if shape and len(names) * int(np.prod(shape)) > limit_bytes:
            raise DataInvalid(
                f"the decoded images of {where} would take more than half of this machine's memory ({limit_bytes / 1e9:.0f} GB)",
                hint="use the recipe `folder`, which decodes the files again every epoch: `stoker train folder --data ...`",
            )
    if len(broken) > len(names):
        raise DataInvalid(
            broken_text(tuple(broken.items()), len(names), where), hint="more than half: were the files copied whole, and are they images?"
        )
    if all_grey:
        chunks = [chunk[..., :1] for chunk in chunks]
    return Gathered(names=names, chunks=chunks, broken=broken)


def _decoded(files: Iterable[Named]) -> Iterator[list[tuple[str, tuple[np.ndarray, bool] | str]]]:
    """Yield chunks of names with pixels or a reason, in the order of `files`; in threads when the images are large enough."""
    rest = iter(files)
    first = _decode_chunk(list(itertools.islice(rest, 16)))
    yield first
    sizes = [outcome[0].size // 3 for _, outcome in first if not isinstance(outcome, str)]
    chunks = iter(lambda: list(itertools.islice(rest, _CHUNK_IMAGES)), [])
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 2 or not sizes or max(sizes) < _THREADS_FROM_PIXELS:
        yield from map(_decode_chunk, chunks)
        return
    # Smaller chunks, and few of them ahead: an archive's bytes wait in memory.
    chunks = iter(lambda: list(itertools.islice(rest, 16)), [])
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[Future[list[tuple[str, tuple[np.ndarray, bool] | str]]]] = []
        for chunk in chunks:
            ahead.append(pool.submit(_decode_chunk, chunk))
            if len(ahead) > 2 * workers:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def _decode_chunk(chunk: list[Named]) -> list[tuple[str, tuple[np.ndarray, bool] | str]]:
    return [(name, _outcome(name, file)) for name, file in chunk]


def _outcome(name: str, file: str | bytes) -> tuple[np.ndarray, bool] | str:
    try:
        return decode_marked(file, name=name)
    except BrokenImage as error:
        return error.message.split(" cannot be decoded: ", 1)[-1]
    except DataMissing as error:
        return error.message


def _sizes_differ(first: str, first_HWC: tuple[int, ...], name: str, shape_HWC: tuple[int, ...], where: str) -> DataInvalid:
    sizes = [f"{shape[1]} x {shape[0]}" for shape in (first_HWC, shape_HWC)]
    return DataInvalid(
        f"the images in {where} differ in size: {first} has {sizes[0]} pixels, {name} has {sizes[1]} (width x height)",
        hint="use the recipe `folder`, which takes images of any size: `stoker train folder --data ...`; or resize them all to one size",
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

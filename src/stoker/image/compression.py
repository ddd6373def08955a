"""Compressed layers: one pass that counts, hashes and compresses the tar, hashes the blob, and writes it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import queue
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal, Protocol, cast

from stoker.errors import MissingExtra
from stoker.files import writing

try:
    import zstandard
except ImportError:  # the extra `image`; gzip needs nothing
    zstandard = None  # type: ignore[assignment]

Compression = Literal["zstd", "gzip"]

MEDIA_TYPES: dict[Compression, str] = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}
ZSTD_LEVEL = 3
"""The libraries of CUDA are packed already: level 15 takes 30 times as long and saves 2 %."""
GZIP_LEVEL = 6
# The library inside the wheel of zstandard on PyPI.
_BUNDLED = {"0.25.0": (1, 5, 7)}
_PIECE_BYTES = 2**18
# Enough for reader and compressor to run side by side, little enough for many layers at once.
_PIECES_WAITING = 16


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A finished layer on the disk."""

    diff_id: str
    """`sha256:...` of the tar."""
    digest: str
    """`sha256:...` of the compressed file."""
    size: int
    """Bytes, compressed."""
    unpacked_size: int
    """Bytes of the tar."""
    media_type: str
    path: Path


class _Compressor(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compressed(write: Callable[[BinaryIO], None], target: Path, *, kind: Compression = "zstd", progress: Callable[[int], None] | None = None) -> Blob:
    """Have `write` write a tar, and keep it compressed as `target`; the same tar gives the same bytes on every machine.

    (zstd: with the same version of zstandard. gzip: with the same zlib; the diff_id is the same in any case.)
    `target` is written in place and removed if anything fails: name one where no reader looks. `progress` is told the bytes of the tar
    so far. Hashing and compressing run in a thread beside `write`. Raises DiskFull, MissingExtra, and whatever `write` raises.
    """
    compressor = _new_compressor(kind)
    try:
        with writing(target), open(target, "wb") as file:
            consumer = _Consumer(compressor, file)
            consumer.start()
            sink = _Sink(consumer, progress)
            try:
                write(cast(BinaryIO, sink))
                sink.flush_rest()
            finally:
                consumer.end()
            if consumer.error:
                raise consumer.error
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    return Blob(
        diff_id="sha256:" + consumer.tar_hash.hexdigest(),
        digest="sha256:" + consumer.blob_hash.hexdigest(),
        size=consumer.size,
        unpacked_size=sink.size,
        media_type=MEDIA_TYPES[kind],
        path=target,
    )


def compressor_name() -> str:
    """Return what a lock says about zstd layers: another version or level gives other bytes. Raises MissingExtra."""
    package = _need_zstandard()
    version = package.__version__
    # Distributions build the same package on a library of their own.
    other = "" if _BUNDLED.get(version) == package.ZSTD_VERSION else f" on zstd {'.'.join(map(str, package.ZSTD_VERSION))}"
    return f"zstandard {version}{other} level {ZSTD_LEVEL}"


def _need_zstandard() -> ModuleType:
    if zstandard is None:
        raise MissingExtra("zstd layers need the package zstandard", hint='install it with `pip install "stoker[image]"`')
    return zstandard


def _new_compressor(kind: Compression) -> _Compressor:
    if kind == "gzip":
        # 31: a gzip header without name and time.
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    # threads=0: with workers zstd cuts its input into jobs and gives other bytes. No size in the header: it is not known yet.
    return cast(_Compressor, _need_zstandard().ZstdCompressor(level=ZSTD_LEVEL, threads=0, write_content_size=False).compressobj())


class _Sink(io.RawIOBase):
    """The file that a tar is written to. It cuts the stream into pieces of one size, so that how it was written cannot change the result."""

    def __init__(self, consumer: _Consumer, progress: Callable[[int], None] | None) -> None:
        self.size = 0
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._filled = 0
        self._consumer = consumer
        self._progress = progress

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(cast(bytes, data)).cast("B")
        at = 0
        while at < len(view):
            take = min(len(view) - at, _PIECE_BYTES - self._filled)
            self._buffer[self._filled : self._filled + take] = view[at : at + take]
            at += take
            self._filled += take
            if self._filled == _PIECE_BYTES:
                self._give()
        self.size += len(view)
        return len(view)

    def flush_rest(self) -> None:
        """Hand on what is left at the end."""
        if self._filled:
            self._give()

    def _give(self) -> None:
        self._buffer = self._consumer.exchange(self._buffer, self._filled)
        self._filled = 0
        if self._progress:
            self._progress(self.size)


class _Consumer(threading.Thread):
    """Hashes and compresses the pieces of one tar, in their order. hashlib, zlib and zstandard let other threads run meanwhile."""

    def __init__(self, compressor: _Compressor, file: BinaryIO) -> None:
        super().__init__(daemon=True)
        self.tar_hash = hashlib.sha256()
        self.blob_hash = hashlib.sha256()
        self.size = 0
        self.error: BaseException | None = None
        self._compressor = compressor
        self._file = file
        self._pieces: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        # Buffers go round: fresh memory for each piece costs a sixth of the time, in page faults.
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_PIECES_WAITING):
            self._buffers.put(memoryview(bytearray(_PIECE_BYTES)))

    def exchange(self, buffer: memoryview, filled: int) -> memoryview:
        """Take a filled buffer and return an empty one, waiting while there is none. Raises what went wrong with an earlier one."""
        if self.error:
            raise self.error
        self._pieces.put(buffer[:filled])
        return self._buffers.get()

    def end(self) -> None:
        """Wait until all is written."""
        self._pieces.put(None)
        self.join()

    def run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                if not self.error:
                    self.tar_hash.update(piece)
                    self._keep(self._compressor.compress(piece))
            except BaseException as error:  # the other thread raises it
                self.error = error
            self._buffers.put(memoryview(piece.obj))
        try:
            if not self.error:
                self._keep(self._compressor.flush())
        except BaseException as error:
            self.error = error

    def _keep(self, data: bytes) -> None:
        if data:
            self.blob_hash.update(data)
            self._file.write(data)
            self.size += len(data)

"""TensorBoard event files, scalars only.

The format is small and has not changed since 2016, while importing the tensorboard package takes 0.3 s. Sources: the framing is
TFRecord (tensorflow/core/lib/io/record_writer.cc), the messages are Event, Summary and SessionLog (tensorboard/compat/proto/event.proto,
summary.proto). Protocol buffers: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO

from stoker.files import writing
from stoker.runs.journal import append


class Events:
    """An event file that is appended to. A resumed run opens a new one beside the old; TensorBoard reads them as one."""

    def __init__(self, folder: Path, *, resumed_at: int | None = None) -> None:
        """Open a new file in `folder`; with `resumed_at`, have TensorBoard forget what older files say of the steps after it."""
        self.path, self._file = _new_file(folder)
        self._append(_event(file_version="brain.Event:2"))
        if resumed_at is not None:
            self._append(_event(step=resumed_at + 1, session_start=True))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a step, flushed: a tag, as `loss/train`, and a number, kept as float32. Raises DiskFull."""
        if scalars:
            self._append(_event(step=step, scalars=scalars))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with writing(self.path):
            append(self._file, length + _masked_crc(length) + event + _masked_crc(event))


def _new_file(folder: Path) -> tuple[Path, BinaryIO]:
    """Open a file that sorts after those of earlier sessions, also within one second."""
    count = 0
    while True:
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{count}"
        try:
            with writing(path):
                return path, open(path, "xb", buffering=0)
        except FileExistsError:
            count += 1


def _event(*, step: int = 0, file_version: str = "", scalars: Mapping[str, float] | None = None, session_start: bool = False) -> bytes:
    """Return a serialized Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7."""
    event = _key(1, 1) + struct.pack("<d", time.time()) + _key(2, 0) + _varint(step)
    if file_version:
        event += _bytes(3, file_version.encode())
    if scalars:  # Summary.value 1: tag 1, simple_value 2
        values = (_bytes(1, tag.encode()) + _key(2, 5) + _float32(value) for tag, value in scalars.items())
        event += _bytes(5, b"".join(_bytes(1, value) for value in values))
    if session_start:  # SessionLog.status 1: START is 1
        event += _bytes(7, _key(1, 0) + _varint(1))
    return event


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _masked_crc(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, masked as TFRecord wants it: rotated right by 15 bits plus a constant."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _crc_table() -> list[int]:
    """Return the byte table of the reflected Castagnoli polynomial (RFC 3720, section 12.1)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table

"""CIFAR-10 and CIFAR-100 as their authors publish them for Python: pickled batches, in a folder or in the original archive.

The pickles are read without running what they ask for: only lists, dicts, numbers, strings and plain uint8 arrays can come out.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stoker.data.archives import members, printable
from stoker.data.cache import file_fingerprint
from stoker.data.labels import check_every_class, checked_labels
from stoker.data.sets import Decoded
from stoker.errors import DataInvalid, DataMissing

ARCHIVES = ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz")
"""The names of the original archives."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Which files make up a data set, and what the entries are called."""

    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str

    @property
    def files(self) -> tuple[str, ...]:
        """All file names."""
        return (*self.train, self.test, self.meta)


KINDS = (
    Batches(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    Batches(folder="cifar-100-python", train=("train",), test="test", meta="meta", labels="fine_labels", names="fine_label_names"),
)


def find_batches(folder: Path) -> tuple[Path, Batches] | None:
    """Return where in or at `folder` the batches lie and which they are, or None."""
    for kind in KINDS:
        for place in (folder, folder / kind.folder):
            if any((place / name).is_file() for name in (*kind.train, kind.test)) and (place.name == kind.folder or (place / kind.meta).is_file()):
                return place, kind
    return None


def archive_batches(path: Path) -> Batches | None:
    """Return which batches the archive `path` holds, judged by its first file, or None. Raises as `members`."""
    first = next((member for member in members(path, lambda name: False) if not member.is_folder), None)
    return next((kind for kind in KINDS if first and first.name.split("/")[0] == kind.folder), None)


def read_folder(folder: Path, kind: Batches) -> Decoded:
    """Read the batches in `folder`. Raises DataInvalid, which names the file that is missing or damaged."""

    def content(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise _incomplete(folder, name) from error
        except OSError as error:
            raise DataMissing(f"{folder / name} cannot be read ({error.strerror})", hint="make the file readable for you") from error

    pixels_NHWC, labels_N, train_count, classes = _read(content, kind, str(folder))
    fingerprint = file_fingerprint(*(folder / name for name in kind.files))
    return Decoded(pixels_NHWC=pixels_NHWC, labels_N=labels_N, classes=classes, train_count=train_count, fingerprint=fingerprint)


def read_archive(path: Path, kind: Batches) -> Decoded:
    """Read the batches in the original archive. Raises as `read_folder` and `members`."""
    wanted = {f"{kind.folder}/{name}": name for name in kind.files}
    contents = {wanted[member.name]: member.content for member in members(path, wanted.__contains__) if member.content is not None}

    def content(name: str) -> bytes:
        if name not in contents:
            raise _incomplete(path, name)
        return contents.pop(name)

    pixels_NHWC, labels_N, train_count, classes = _read(content, kind, str(path))
    fingerprint = file_fingerprint(path)
    return Decoded(pixels_NHWC=pixels_NHWC, labels_N=labels_N, classes=classes, train_count=train_count, fingerprint=fingerprint)


def _read(content: Callable[[str], bytes], kind: Batches, where: str) -> tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]:
    names = _loaded(content(kind.meta), f"{where}/{kind.meta}").get(kind.names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataInvalid(f"{where}/{kind.meta} has no list {kind.names} of class names", hint=_AGAIN)
    parts = [_batch(content(name), kind, len(names), f"{where}/{name}") for name in (*kind.train, kind.test)]
    pixels_NHWC = np.concatenate([pixels_N for pixels_N, _ in parts])
    counts = [len(labels_N) for _, labels_N in parts]
    labels_N = np.concatenate([labels_N for _, labels_N in parts])
    check_every_class(labels_N[: sum(counts[:-1])], tuple(names), where)
    return pixels_NHWC, labels_N, sum(counts[:-1]), tuple(names)


def _batch(content: bytes, kind: Batches, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _loaded(content, where)
    data, labels = batch.get("data"), batch.get(kind.labels)
    if not isinstance(data, _Array) or data.pixels is None or data.pixels.ndim != 2 or data.pixels.shape[1] != 3072:
        raise DataInvalid(f"{where} has no uint8 array `data` with 3072 values an image", hint=_AGAIN)
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**62 for label in labels):
        raise DataInvalid(f"{where} has no list `{kind.labels}` of whole numbers", hint=_AGAIN)
    pixels_NHWC = data.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pixels_NHWC, checked_labels(np.array(labels, np.int64), len(pixels_NHWC), where, classes)


# --- pickles from strangers -----------------------------------------------------------------------------------------

_AGAIN = "unpack the original archive again, or leave --data out so that Stoker downloads it"


class _Dtype:
    """Stands for numpy.dtype: notes which one is asked for."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like mean nothing for bytes."""


class _Array:
    """Stands for numpy.ndarray: takes plain uint8 arrays only."""

    def __init__(self) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, content = state
        self.pixels = _uint8(content, dtype, shape, "F" if fortran_order else "C")


def _uint8(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1", "uint8"):
        raise pickle.UnpicklingError("it holds an array that is not uint8")
    if isinstance(content, str):
        content = content.encode("latin1")
    pixels: np.ndarray = np.frombuffer(content, np.uint8).reshape(shape, order="F" if order == "F" else "C")
    return pixels


def _empty_array(*_: object) -> _Array:
    return _Array()


def _array_of_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: object) -> _Array:
    array = _Array()
    array.pixels = _uint8(content, dtype, shape, order)
    return array


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for a conversion that no batch needs")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
}


# The unpickler written in Python: the one in C lets a few bytes ask for gigabytes of memo.
class _Unpickler(pickle._Unpickler):
    """Builds nothing but what is in the table above."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {printable(f'{module}.{name}'[:80])}, which no batch needs") from None


def _loaded(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        entries = {key.decode("latin1") if isinstance(key, bytes) else key: entry for key, entry in value.items()}
    except Exception as error:  # garbage makes any instruction fail in any way
        raise DataInvalid(f"{where} is no batch of CIFAR: {printable(str(error)[:200]) or type(error).__name__}", hint=_AGAIN) from error
    for key, entry in itertools.islice(entries.items(), 20):
        if isinstance(entry, list) and entry and isinstance(entry[0], bytes):
            entries[key] = [item.decode("latin1") if isinstance(item, bytes) else item for item in entry]
    return entries


def _incomplete(where: Path, name: str) -> DataInvalid:
    return DataInvalid(f"{where} is not whole: {name} is missing", hint=_AGAIN)

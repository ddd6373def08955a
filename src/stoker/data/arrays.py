"""An `.npz` file of images and labels, under the names that Keras, MedMNIST and most people give them.

Images are uint8, N H W, N H W C or N C H W with C 1 or 3 (N H W C when both would fit); labels are whole numbers, N or N x 1.
Where both a validation and a test part are there, the validation part is the one used, as with folders.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from stoker import console
from stoker.data.archives import check_zip, printable
from stoker.data.cache import file_fingerprint
from stoker.data.labels import check_every_class, checked_labels
from stoker.data.sets import Decoded
from stoker.errors import DataInvalid, StokerError

_IMAGES = ("pixels", "images", "x", "data", "X")
_LABELS = ("labels", "label", "y", "targets", "Y")
_CLASSES = ("classes", "class_names", "label_names")
_TRAIN = ("train",)
_TEST = ("val", "valid", "validation", "test")
_HINT = "save it with numpy.savez(path, pixels=..., labels=...) or with x_train, y_train, x_test, y_test"


def is_npz(path: Path) -> bool:
    """Whether the zip file at `path` holds numpy arrays."""
    if path.suffix.lower() == ".npz":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged one: its reader says what is wrong
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> Decoded:
    """Read the images and labels in `path`. Raises DataInvalid, which names the array at fault, and UnsafeArchive for a bomb."""
    check_zip(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return _decoded(file, path)
    except StokerError:
        raise
    except Exception as error:  # zip, header and memory errors have no common class
        reason = printable(str(error)) or type(error).__name__
        raise DataInvalid(f"{path} cannot be read as .npz: {reason}", hint=f"{_HINT}; object arrays are not read") from error


def _decoded(file: np.lib.npyio.NpzFile, path: Path) -> Decoded:
    pairs = _pairs(list(file.files), path)
    pixels, labels = [], []
    for images_key, labels_key in pairs:
        pixels.append(_pixels(file[images_key], f"{images_key} in {path}"))
        labels.append(checked_labels(file[labels_key], len(pixels[-1]), f"{labels_key} in {path}"))
    classes = _classes(file, labels[0], path)
    for labels_N, (_, key) in zip(labels, pairs, strict=True):
        checked_labels(labels_N, len(labels_N), f"{key} in {path}", len(classes))
    check_every_class(labels[0], classes, f"{pairs[0][1]} in {path}")
    if len({pixels_NHWC.shape[1:] for pixels_NHWC in pixels}) > 1:
        raise DataInvalid(
            f"the parts of {path} hold images of different shapes: " + ", ".join(str(pixels_NHWC.shape[1:]) for pixels_NHWC in pixels),
            hint="bring all images to one size",
        )
    return Decoded(
        pixels_NHWC=np.concatenate(pixels),
        labels_N=np.concatenate(labels),
        classes=classes,
        train_count=len(labels[0]) if len(pairs) > 1 else None,
        fingerprint=file_fingerprint(path),
    )


def _pairs(names: list[str], path: Path) -> list[tuple[str, str]]:
    """Return the names of images and labels of the training part and, when there is one, of the held-out part."""
    train = next((pair for part in _TRAIN if (pair := _pair(names, part))), None)
    if train is None:
        if whole := _pair(names, None):
            return [whole]
        shown = ", ".join(map(printable, names[:8])) or "nothing"
        raise DataInvalid(f"{path} has no images and labels under a known name (it holds {shown})", hint=_HINT)
    held_out = [pair for part in _TEST if (pair := _pair(names, part))]
    if len(held_out) > 1:
        console.say(f"{path}: {held_out[0][0]} is the held-out part; {held_out[1][0]} is not used")
    return [train, *held_out[:1]]


def _pair(names: list[str], part: str | None) -> tuple[str, str] | None:
    def found(words: tuple[str, ...]) -> str | None:
        forms = [form for word in words for form in ([word] if part is None else [f"{part}_{word}", f"{word}_{part}"])]
        return next((form for form in forms if form in names), None)

    images, labels = found(_IMAGES), found(_LABELS)
    return (images, labels) if images and labels else None


def _pixels(array: np.ndarray, where: str) -> np.ndarray:
    """Return the images as N H W C."""
    if array.dtype != np.uint8:
        raise DataInvalid(
            f"{where} is {array.dtype}, not uint8", hint="store pixels as whole numbers from 0 to 255: `(x * 255).round().astype('uint8')`"
        )
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise DataInvalid(f"{where} has shape {array.shape}: not N H W, N H W C or N C H W with 1 or 3 channels", hint=_HINT)
    return array


def _classes(file: np.lib.npyio.NpzFile, train_labels_N: np.ndarray, path: Path) -> tuple[str, ...]:
    """Return the class names in the file, else the numbers up to the highest training label."""
    for key in _CLASSES:
        if key in file.files:
            names = file[key]
            if names.ndim != 1 or names.dtype.kind not in "US":
                raise DataInvalid(f"{key} in {path} is {names.dtype} {names.shape}, not a list of names", hint="store strings, or leave it out")
            return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
    count = int(train_labels_N.max()) + 1
    if count > len(train_labels_N):
        raise DataInvalid(
            f"the labels in {path} go up to {count - 1}, more than there are images: labels must count from 0 without gaps",
            hint="number the classes 0, 1, 2, ...: `numpy.unique(labels, return_inverse=True)[1]`",
        )
    return tuple(str(label) for label in range(count))

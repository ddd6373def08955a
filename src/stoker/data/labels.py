"""Labels: which ones are valid, and the stratified split into a training and a held-out part."""

from __future__ import annotations

import numpy as np

from stoker.errors import DataInvalid


def checked_labels(labels: np.ndarray, images: int, where: str, classes: int | None = None) -> np.ndarray:
    """Return `labels` as int64 N after making sure that they are one integer from 0 to `classes` - 1 for each image.

    `labels` may be N or N x 1. Raises DataInvalid, naming `where`, for other types and shapes, another number of labels than
    images, and labels out of range. With `classes` None the upper end is open.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataInvalid(
            f"the labels in {where} are {labels.dtype} of shape {labels.shape}, not one integer for each image",
            hint="store class numbers as integers, for one-hot rows `labels.argmax(1)`, for whole floats `labels.astype('int64')`",
        )
    if len(labels) != images:
        raise DataInvalid(f"{where} has {images:,} images but {len(labels):,} labels", hint="store exactly one label for each image")
    if images == 0:
        raise DataInvalid(f"{where} has no images", hint="give a data set with at least two classes and two images in each")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes) or high >= 2**31:
        wrong = low if low < 0 else high
        at = int(np.flatnonzero(labels == wrong)[0])
        top = "" if classes is None else f" to {classes - 1}"
        raise DataInvalid(
            f"label {wrong} of image {at} in {where} is out of range: labels are whole numbers from 0{top}",
            hint="number the classes 0, 1, 2, ... without gaps",
        )
    return labels.astype(np.int64)


def check_every_class(labels_N: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Raise DataInvalid when a class has no image in `labels_N`, or when there are fewer than two classes."""
    if len(classes) < 2:
        raise DataInvalid(
            f"{where} has one class only{f' ({classes[0]})' if classes else ''}: there is nothing to tell apart",
            hint="give a data set with at least two classes",
        )
    empty = np.flatnonzero(np.bincount(labels_N, minlength=len(classes)) == 0)
    if len(empty):
        names = ", ".join(classes[index] for index in empty[:3]) + (", ..." if len(empty) > 3 else "")
        raise DataInvalid(f"class {names} has no image in {where}", hint="add images to the class or take the class out")


def split(labels_N: np.ndarray, classes: tuple[str, ...], test_fraction: float, seed: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (int64, ascending) of the training and the held-out part; every class gives `test_fraction` of its images.

    Each class holds out at least one image and keeps at least one. A function of its arguments alone: numpy's RandomState keeps
    its stream for good (NEP 19). Raises DataInvalid for a class with a single image.
    """
    random = np.random.RandomState(seed & 0xFFFFFFFF)
    held_out = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels_N == label)
        if len(members) < 2:
            raise DataInvalid(
                f"class {name} has one image in {where}: none can be held out to test on",
                hint="add images to the class, or give the data as `train/` and `val/` folders",
            )
        count = min(max(1, round(len(members) * test_fraction)), len(members) - 1)
        held_out.append(random.permutation(members)[:count])
    test = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels_N)), test, assume_unique=True), test

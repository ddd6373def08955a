"""A tree of class folders: which of its files are images of which class, and in which part.

`train/<class>/...` with `val/<class>/...` (or valid, validation, test, testing), or `<class>/...` alone. A single folder around all
that is looked through. The images of a class may lie in folders below it, as torchvision's ImageFolder has it; classes are sorted by
name and the images of a class by theirs. Where both a validation and a test part are there, the validation part is the one used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoker import console
from stoker.data.archives import is_hidden, printable
from stoker.errors import DataInvalid, DataMissing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_TRAIN = ("train", "training")
_TEST = ("val", "valid", "validation", "test", "testing")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds, sorted by name; hidden files are left out."""

    images: tuple[tuple[str, int, int], ...]
    """Relative name, size in bytes and time of change in ns of each image file."""
    folders: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The images' names."""
        return [name for name, _, _ in self.images]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The images in the order that training numbers them: the training part first, each part by class, then by name."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels_N: np.ndarray
    """int64."""
    train_count: int | None
    """How many images the training part has; None: there is one part only."""


def is_image(name: str) -> bool:
    """Whether the file name ends as an image's does."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def listing(root: Path) -> Listing:
    """List the images below `root`, following links. Raises DataMissing for what cannot be read, DataInvalid for pipes and devices."""
    images: list[tuple[str, int, int]] = []
    folders: list[str] = []
    try:
        _list(str(root), "", (), images, folders)
    except OSError as error:
        raise DataMissing(
            f"{error.filename or root} cannot be read ({error.strerror})", hint="make the folder and all below it readable for you"
        ) from error
    return Listing(images=tuple(sorted(images)), folders=tuple(sorted(folders)))


def _list(path: str, prefix: str, above: tuple[tuple[int, int], ...], images: list[tuple[str, int, int]], folders: list[str]) -> None:
    status = os.stat(path)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataInvalid(f"{path} is a link to a folder above it, so its images would have no end", hint="take the link out")
    with os.scandir(path) as entries:
        for entry in entries:
            name = prefix + entry.name
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                folders.append(name)
                _list(entry.path, name + "/", (*above, here), images, folders)
            elif is_image(name):
                images.append((name, *_size_and_time(entry)))


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except FileNotFoundError:  # a link to nothing: its decoding says so
        return 0, 0
    if not stat.S_ISREG(status.st_mode):
        raise DataInvalid(f"{printable(entry.path)} is a pipe or a device, no image file", hint="take it out of the data set")
    return status.st_size, status.st_mtime_ns


def layout(images: Collection[str], folders: Iterable[str], where: str) -> Layout:
    """Find classes and parts among the relative names of images and folders. Raises DataInvalid, naming `where` and what is wrong.

    `folders` tells of class folders without an image; those that follow from the images' names need not be in it.
    """
    if not images:
        raise DataInvalid(
            f"{printable(where)} holds no images", hint=f"Stoker looks for files that end in {' '.join(IMAGE_SUFFIXES)} (or in capitals)"
        )
    files = [tuple(name.split("/")) for name in images]
    places = {tuple(name.split("/")) for name in folders} | {file[:depth] for file in files for depth in range(1, len(file))}
    inner = _inner(files, places)
    files, places = [file for file in files if file[: len(inner)] == inner], {place for place in places if place[: len(inner)] == inner}
    train, test, unused = _parts(files, inner)
    classes, train_files = _classes(train, files, places, where)
    parts = [train_files]
    if test is not None:
        test_classes, test_files = _classes(test, files, places, where)
        _check_same(classes, test_classes, train[-1], test[-1], where)
        parts.append(test_files)
    unused_count = len(images) - sum(map(len, parts))
    if unused_count:
        console.warn(f"{unused_count:,} images in {printable(where)} are not used{unused}")
    label_of = {name: label for label, name in enumerate(classes)}
    depths = (len(train), len(train) if test is None else len(test))
    labels = [label_of[file[depth]] for part, depth in zip(parts, depths, strict=False) for file in part]
    return Layout(
        classes=classes,
        names=tuple("/".join(file) for part in parts for file in part),
        labels_N=np.array(labels, np.int64),
        train_count=None if test is None else len(train_files),
    )


def _inner(files: list[tuple[str, ...]], places: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folder that really holds classes or parts: looks through single folders around it."""
    inner: tuple[str, ...] = ()
    while True:
        depth = len(inner)
        tops = {place[depth] for place in places if len(place) > depth and place[:depth] == inner}
        if len(tops) != 1 or any(len(file) <= depth + 2 for file in files):
            return inner
        inner = (*inner, *tops)


def _parts(files: list[tuple[str, ...]], inner: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...] | None, str]:
    """Return the folders of the training and the held-out part (None: there is none), and why images elsewhere are not used."""
    depth = len(inner)
    with_classes = {file[depth].lower(): file[depth] for file in files if len(file) >= depth + 3}
    train = next((with_classes[name] for name in _TRAIN if name in with_classes), None)
    if train is None:
        return inner, None, ": they lie beside the class folders, not in them"
    test = next((with_classes[name] for name in _TEST if name in with_classes), None)
    used = f"{train}/ and {test}/" if test else f"{train}/"
    return (*inner, train), (*inner, test) if test else None, f": they are not in class folders of {printable(used)}"


def _classes(
    part: tuple[str, ...], files: list[tuple[str, ...]], places: set[tuple[str, ...]], where: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the classes of a part, sorted, and its files by class and name."""
    depth, shown = len(part), printable("/".join((where, *part)))
    inside = sorted((file for file in files if file[:depth] == part and len(file) >= depth + 2), key=lambda file: (file[depth], file))
    names = {place[depth] for place in places if len(place) == depth + 1 and place[:depth] == part}
    if not names:
        raise DataInvalid(f"the images lie directly in {shown}, not in class folders", hint="make a folder for each class and move its images there")
    if empty := sorted(names - {file[depth] for file in inside}):
        several = len(empty) > 1
        raise DataInvalid(
            f"class folder{'s' if several else ''} {', '.join(map(printable, empty[:3]))}{', ...' if len(empty) > 3 else ''} in {shown} "
            f"{'have' if several else 'has'} no images",
            hint="add images, or take the empty folders out",
        )
    if len(names) < 2:
        raise DataInvalid(
            f"{shown} has one class only ({printable(*names)}): there is nothing to tell apart",
            hint="give a folder that holds at least two class folders with images",
        )
    for name in names:
        if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
            raise DataInvalid(f"the class folder {printable(name)} in {shown} has a name that is not UTF-8", hint="rename the folder")
    return tuple(sorted(names)), inside


def _check_same(train: tuple[str, ...], test: tuple[str, ...], train_name: str, test_name: str, where: str) -> None:
    if train == test:
        return
    only_train, only_test = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    facts = [
        f"only {folder}/ has {', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"
        for folder, names in ((train_name, only_train), (test_name, only_test))
        if names
    ]
    raise DataInvalid(
        f"the classes in {printable(where)} differ between its parts: {'; '.join(facts)}",
        hint="both parts must have the same class folders; move or rename them",
    )

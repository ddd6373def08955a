"""From what a user has to a data set: finds out what a path is, reads it through the cache, splits it.

What a fingerprint covers: for a single file (archive, `.npz`) and for the CIFAR batches every byte; for a tree of folders the names
and sizes of its images (`trees.listing_fingerprint`); for the digits every pixel and label.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stoker.data import arrays, cifar, trees
from stoker.data.archives import archive_kind, printable
from stoker.data.broken import broken_text
from stoker.data.cache import cache_key, file_facts, load_or_build
from stoker.data.digits import read_digits
from stoker.data.download import cifar10_archive
from stoker.data.folders import Layout, listing
from stoker.data.labels import split
from stoker.data.sets import Dataset, Decoded, Files, Resident
from stoker.errors import BadValue, BrokenImage, DataInvalid, DataMissing, UnknownName, nearest

_NAMES = ("digits", "cifar10", "folder")
_KINDS = "a folder of class folders, a .tar, .tar.gz, .tar.xz or .zip of one, the CIFAR-10 batches, or an .npz"


def open_dataset(name: str, path: Path | None, *, resident: bool, test_fraction: float, seed: int, skip_broken: bool) -> Dataset:
    """Open the data set at `path`, or without a path the one called `name`: "digits", "cifar10" (downloaded once) or "folder".

    `resident` asks for all images decoded to one size; otherwise a tree of image files stays files (an archive is unpacked into
    the cache folder), while arrays (CIFAR batches, `.npz`, digits) are resident all the same. A source without a held-out part
    gives `test_fraction` of each class by `seed`. `skip_broken` leaves images out that cannot be decoded (resident only: with
    files they show up in training).
    Raises DataMissing, DataInvalid, BrokenImage, UnsafeArchive, DownloadFailed, MissingExtra, DiskFull, BadValue, UnknownName.
    """
    if not 0 < test_fraction < 1:
        raise BadValue(f"test_fraction is {test_fraction}, not between 0 and 1", hint="0.2 holds out a fifth of each class")
    if path is None:
        if name == "digits":
            return _dataset(read_digits(), "digits", test_fraction, seed, skip_broken)
        path = _default_path(name)
    path = _checked(path)
    if path.is_dir():
        return _open_folder(path, resident, test_fraction, seed, skip_broken)
    return _open_file(path, resident, test_fraction, seed, skip_broken)


def _default_path(name: str) -> Path:
    if name == "cifar10":
        return cifar10_archive()
    if name == "folder":
        raise DataMissing("the recipe needs to know where the images are", hint=f"give --data PATH: {_KINDS}")
    near = nearest(name, _NAMES)
    raise UnknownName(
        f"there is no data set called {printable(name)}",
        hint=f"did you mean {near}?" if near else f"known are {', '.join(_NAMES)}; or give --data PATH",
    )


def _open_folder(path: Path, resident: bool, test_fraction: float, seed: int, skip_broken: bool) -> Dataset:
    if batches := cifar.find_batches(path):
        folder, kind = batches
        facts = [(name, *file_facts(folder / name)) for name in kind.files if (folder / name).is_file()]
        return _cached(path, facts, lambda: cifar.read_folder(folder, kind), test_fraction, seed, skip_broken)
    for name in cifar.ARCHIVES:  # torchvision's folder when only the archive is in it
        if (path / name).is_file():
            return _open_file(path / name, resident, test_fraction, seed, skip_broken)
    if resident:
        listed = listing(path)
        return _cached(path, [listed.images, listed.folders], lambda: trees.read_tree(path, listed), test_fraction, seed, skip_broken)
    return _files(*trees.tree_files(path), str(path), test_fraction, seed)


def _open_file(path: Path, resident: bool, test_fraction: float, seed: int, skip_broken: bool) -> Dataset:
    kind = archive_kind(path)
    if kind is None and path.suffix.lower() != ".npz":
        raise DataInvalid(f"{path} is no data set that Stoker reads", hint=f"give {_KINDS}")

    if not resident and _array_reader(path, kind) is None:
        return _files(*trees.archive_files(path), str(path), test_fraction, seed)

    def read() -> Decoded:
        reader = _array_reader(path, kind)
        return reader() if reader else trees.read_archived_tree(path)

    return _cached(path, file_facts(path), read, test_fraction, seed, skip_broken)


def _array_reader(path: Path, kind: str | None) -> Callable[[], Decoded] | None:
    """Return what reads the file when it holds arrays; None when it is an archive of image files."""
    if path.suffix.lower() == ".npz" or (kind == "zip" and arrays.is_npz(path)):
        return lambda: arrays.read_npz(path)
    if batches := cifar.archive_batches(path):
        return lambda: cifar.read_archive(path, batches)
    return None


def _cached(path: Path, facts: object, read: Callable[[], Decoded], test_fraction: float, seed: int, skip_broken: bool) -> Dataset:
    return _dataset(load_or_build(cache_key(path, facts), read), str(path), test_fraction, seed, skip_broken)


def _dataset(decoded: Decoded, source: str, test_fraction: float, seed: int, skip_broken: bool) -> Dataset:
    if decoded.broken and not skip_broken:
        raise BrokenImage(
            broken_text(decoded.broken, len(decoded.labels_N), source),
            hint="replace or delete these files, or leave them out with `--skip-broken`",
        )
    pixels_NHWC, labels_N = decoded.pixels_NHWC, decoded.labels_N
    train: slice | np.ndarray
    test: slice | np.ndarray
    if decoded.train_count is None:
        train, test = split(labels_N, decoded.classes, test_fraction, seed, source)
    else:
        train, test = slice(None, decoded.train_count), slice(decoded.train_count, None)
    return Dataset(
        train=Resident(pixels_NHWC=pixels_NHWC[train], labels_N=labels_N[train]),
        test=Resident(pixels_NHWC=pixels_NHWC[test], labels_N=labels_N[test]),
        classes=decoded.classes,
        source=source,
        fingerprint=decoded.fingerprint,
        skipped=tuple(name for name, _ in decoded.broken),
    )


def _files(laid: Layout, paths: tuple[str, ...], fingerprint: str, source: str, test_fraction: float, seed: int) -> Dataset:
    if laid.train_count is None:
        train, test = split(laid.labels_N, laid.classes, test_fraction, seed, source)
    else:
        train, test = np.arange(laid.train_count), np.arange(laid.train_count, len(paths))
    return Dataset(
        train=Files(paths=tuple(paths[index] for index in train), labels_N=laid.labels_N[train]),
        test=Files(paths=tuple(paths[index] for index in test), labels_N=laid.labels_N[test]),
        classes=laid.classes,
        source=source,
        fingerprint=fingerprint,
    )


def _checked(path: Path) -> Path:
    """Return `path` with `~` replaced. Raises DataMissing, naming what is like it, when nothing is there or it cannot be read."""
    try:
        path = path.expanduser()
        if path.is_dir():
            next(path.iterdir(), None)
        elif path.is_file():
            path.open("rb").close()
        elif path.exists():
            raise DataInvalid(f"{path} is neither a file nor a folder", hint=f"give {_KINDS}")
        else:
            raise DataMissing(f"there is nothing at {printable(str(path))}", hint=_near(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataMissing(f"{printable(str(path))} cannot be read ({error})", hint="make it readable for you, or give another path") from error
    return path


def _near(path: Path) -> str:
    parent = next((parent for parent in path.parents if parent.is_dir()), Path("/"))
    missing = path.relative_to(parent).parts[0] if path.parts else ""
    try:
        near = nearest(missing, sorted(entry.name for entry in parent.iterdir()))
    except OSError:
        near = None
    if near:
        return f"did you mean {printable(str(parent / near))}?"
    return f"{parent} holds nothing of that name; give {_KINDS}"

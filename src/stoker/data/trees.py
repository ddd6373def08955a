"""A tree of class folders, on the disk or in an archive, as decoded pixels or as files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from stoker import console, settings
from stoker.data.archives import Member, members
from stoker.data.cache import cache_key, exclusive, file_facts, file_fingerprint, new_entry
from stoker.data.folders import Layout, Listing, is_image, layout, listing
from stoker.data.sets import Decoded
from stoker.errors import DataInvalid, DataMissing, DiskFull, UnsafeArchive


def listing_fingerprint(listed: Listing) -> str:
    """Return `sha256:` over the images' relative names and sizes.

    It proves that the same files are there with the same number of bytes. It does not prove their bytes: reading all of a large
    tree at every start would take longer than the start itself.
    """
    digest = hashlib.sha256()
    for name, size_bytes, _ in listed.images:
        digest.update(f"{name}\0{size_bytes}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def read_tree(root: Path, listed: Listing) -> Decoded:
    """Decode all images of the tree. Raises DataInvalid; broken images are named in the result."""
    from stoker.data.pixels import gather_pixels  # Pillow: only where something is decoded

    laid = layout(listed.names, listed.folders, str(root))
    with console.progress(f"decoding {root.name}", len(laid.names), "images") as advance:
        gathered = gather_pixels(_counted(((name, str(root / name)) for name in laid.names), advance), str(root))
    return _decoded(laid, gathered.names, gathered.arranged, gathered.broken, listing_fingerprint(listed), str(root))


def read_archived_tree(path: Path) -> Decoded:
    """Decode all images of the tree in the archive, in one pass over it. Raises as `read_tree` and `members`."""
    from stoker.data.pixels import gather_pixels  # Pillow: only where something is decoded

    names: list[str] = []
    folders: list[str] = []

    def images() -> Iterator[tuple[str, bytes]]:
        for member in members(path, is_image):
            advance(member)
            if member.content is not None:
                names.append(member.name)
                yield member.name, member.content
            else:
                folders.append(_folder_of(member))

    with _reading(path) as advance:
        gathered = gather_pixels(images(), str(path))
    laid = layout(names, filter(None, folders), str(path))
    return _decoded(laid, gathered.names, gathered.arranged, gathered.broken, file_fingerprint(path), str(path))


def _decoded(
    laid: Layout, names: list[str], arranged: Callable[[np.ndarray], np.ndarray], broken: dict[str, str], fingerprint: str, where: str
) -> Decoded:
    """Put the decoded images into the order of the layout, less the broken ones."""
    position = {name: index for index, name in enumerate(names)}
    kept = np.array([name in position for name in laid.names], bool)
    order = np.array([position[name] for name in laid.names if name in position], np.int64)
    labels_N = laid.labels_N[kept]
    train_count = None if laid.train_count is None else int(kept[: laid.train_count].sum())
    for labels_of_part in (labels_N[:train_count], labels_N[train_count:] if train_count is not None else labels_N):
        missing = sorted(set(range(len(laid.classes))) - set(labels_of_part.tolist()))
        if missing:
            raise DataInvalid(f"all images of class {laid.classes[missing[0]]} in {where} are broken", hint="replace them, or take the class out")
    return Decoded(
        pixels_NHWC=arranged(order),
        labels_N=labels_N,
        classes=laid.classes,
        train_count=train_count,
        fingerprint=fingerprint,
        broken=tuple((name, broken[name]) for name in laid.names if name in broken),
    )


def tree_files(root: Path) -> tuple[Layout, tuple[str, ...], str]:
    """Return the layout of the tree, the path of each of its images, and the fingerprint of names and sizes."""
    listed = listing(root)
    laid = layout(listed.names, listed.folders, str(root))
    return laid, tuple(f"{root}/{name}" for name in laid.names), listing_fingerprint(listed)


def archive_files(path: Path) -> tuple[Layout, tuple[str, ...], str]:
    """Return what `tree_files` does of the archive's tree, unpacked once into the cache folder; the fingerprint is of the archive."""
    entry = settings.cache_folder() / "unpacked" / cache_key(path, *file_facts(path))
    meta = _unpacked(entry)
    if meta is None:
        with exclusive(entry) as refusal:
            meta = _unpacked(entry)
            if meta is None:
                if refusal:
                    raise _cannot_unpack(path, refusal)
                _unpack(path, entry)
                meta = json.loads((entry / "meta.json").read_text())
    laid, paths, _ = tree_files(entry / "tree")
    return laid, paths, meta["fingerprint"]


def _unpacked(entry: Path) -> dict[str, str] | None:
    """Return what is noted about an unpacked archive; None when there is none or files are missing from it."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        listed = listing(entry / "tree")
        return meta if listing_fingerprint(listed) == meta["listing"] else None
    except (OSError, ValueError, KeyError, TypeError, DataMissing):
        return None


def _unpack(path: Path, entry: Path) -> None:
    """Write the images of the archive below `entry`/tree. Raises UnsafeArchive, DataInvalid, DiskFull and DataMissing."""
    try:
        with new_entry(entry) as folder, _reading(path) as advance:
            tree = folder / "tree"
            tree.mkdir()
            for member in members(path, is_image):
                advance(member)
                _write(member, tree, path)
            meta = {"fingerprint": file_fingerprint(path), "listing": listing_fingerprint(listing(tree))}
            (folder / "meta.json").write_text(json.dumps(meta))
    except OSError as error:
        raise _cannot_unpack(path, error) from error


def _write(member: Member, tree: Path, path: Path) -> None:
    try:
        target = tree / member.name
        if member.content is None:
            (tree / _folder_of(member)).mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(member.content)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UnsafeArchive(
            f"{path} uses the name {member.name} for a file and for a folder, or twice but for capitals", hint="pack the archive again"
        ) from error


def _cannot_unpack(path: Path, error: OSError) -> DiskFull | DataMissing:
    hint = "name a folder with room for it with STOKER_CACHE, or unpack it yourself and give the folder as --data"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left in {settings.cache_folder()} to unpack {path}", hint=hint)
    return DataMissing(f"{path} cannot be unpacked into {settings.cache_folder()} ({error.strerror or error})", hint=hint)


def _folder_of(member: Member) -> str:
    """Return the folder that the member tells of."""
    return member.name if member.is_folder else member.name.rpartition("/")[0]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Callable[[Member], None]]:
    """Show how far into the archive file the reader is; yields a function that takes each member."""
    shown = 0
    with console.progress(f"reading {path.name}", path.stat().st_size // 1000, "kB") as advance:

        def show(member: Member) -> None:
            nonlocal shown
            step = member.read_bytes // 1000 - shown
            if step > 0:
                advance(step)
                shown += step

        yield show


def _counted(files: Iterator[tuple[str, str]], advance: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    for number, file in enumerate(files, 1):
        if number % 64 == 0:
            advance(64)
        yield file

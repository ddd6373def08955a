"""An OCI layout on disk: written so that a reader ever meets a whole image, read back and checked.

A folder with `oci-layout`, `index.json` and `blobs/sha256/` (OCI image spec 1.1). A new one is filled under another name and renamed; in one
that is there already the blobs come first, `index.json` is replaced in one piece, and only then the blobs that nothing names any more go.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker import console
from stoker.errors import BuildFailed, DiskFull, ImageBroken, RunFolderUnwritable
from stoker.files import write_atomically
from stoker.image.compression import Blob
from stoker.image.hashes import sha256_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "dev.stoker.layer"
"""Annotation of a layer: what is in it."""
UNPACKED = "dev.stoker.unpacked-size"
"""Annotation of a layer: the bytes of its tar."""
LOCK = "dev.stoker.lock"
"""Annotation of an image, and label: digest of the lock that it was built from."""

_LAYOUT_FILE = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Manifests of images have a few kilobytes; registries refuse more than 4 MB.
_MOST_JSON_BYTES = 4 << 20
# linux/fs.h: share the extents of another file (btrfs, xfs).
_FICLONE = 0x40049409


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an image."""

    title: str
    """What is in it, as `torch 2.13.0 (cu130)`."""
    blob: Blob


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An image that was read from a layout."""

    folder: Path
    digest: str
    """Of the manifest, as `sha256:...`."""
    manifest: dict[str, Any]
    config: dict[str, Any]
    annotations: dict[str, str]
    """Of the image in `index.json`."""

    def blob(self, digest: str) -> Path:
        """Return the path of a blob, whether it is there or not. Raises ImageBroken when `digest` is none."""
        return _blob_path(self.folder, digest)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, the lowest first."""
        return tuple(
            Layer(
                title=str(row.get("annotations", {}).get(TITLE, "")),
                blob=Blob(
                    diff_id=diff_id,
                    digest=row["digest"],
                    size=row["size"],
                    unpacked_size=int(row.get("annotations", {}).get(UNPACKED, 0)),
                    media_type=row["mediaType"],
                    path=self.blob(row["digest"]),
                ),
            )
            for row, diff_id in zip(self.manifest["layers"], self.config["rootfs"]["diff_ids"], strict=True)
        )


def read_layout(folder: Path) -> Layout:
    """Read a layout that holds one image. Raises ImageBroken when it is none or is not whole (sizes of the layers, hashes of the rest)."""
    _need_index(folder)
    try:
        index = _read_json(folder / "index.json")
        rows = index["manifests"]
        if len(rows) != 1:
            raise ImageBroken(f"{folder} holds {len(rows)} images", hint="name a layout that `stoker image build` wrote: it holds one")
        row = rows[0]
        if row["mediaType"] != MANIFEST:
            raise ImageBroken(f"{folder} holds a {row['mediaType']}", hint="name a layout that `stoker image build` wrote")
        manifest = _read_json(_blob_path(folder, row["digest"]), row["digest"])
        config = _read_json(_blob_path(folder, manifest["config"]["digest"]), manifest["config"]["digest"])
        layout = Layout(folder=folder, digest=row["digest"], manifest=manifest, config=config, annotations=dict(row.get("annotations") or {}))
        for layer in layout.layers:
            if not _is_whole(layer.blob.path, layer.blob.size):
                raise ImageBroken(f"{folder}: the layer {layer.blob.digest} is missing or cut short", hint="run `stoker image build` again")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageBroken(f"{folder} is no OCI layout ({type(error).__name__}: {error})", hint="run `stoker image build` again") from error
    return layout


def _need_index(folder: Path) -> None:
    try:
        os.stat(folder / "index.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "holds no OCI layout" if os.path.isdir(folder) else "is no folder" if os.path.lexists(folder) else "is not there"
        raise ImageBroken(f"{folder} {what}", hint="name a folder that `stoker image build` wrote, as NAME.oci") from error
    except OSError as error:
        raise ImageBroken(f"{folder} cannot be read ({error.strerror})", hint="fix its owner or mode, or name another layout") from error


def write_layout(folder: Path, layers: Sequence[Layer], config: Mapping[str, Any], *, name: str, annotations: Mapping[str, str]) -> str:
    """Write an image and return its manifest digest; nothing is touched where it stands there already.

    `name` is what engines call it (`NAME:TAG`), `annotations` are those of the manifest. Of two that write at once the second waits.
    Raises DiskFull, BuildFailed (may not be written, or something else lies there); what was there is then untouched.
    """
    config_bytes = _json_bytes(config)
    manifest_bytes = _json_bytes(_manifest(layers, config_bytes, annotations))
    digest = _digest(manifest_bytes)
    told = {"org.opencontainers.image.ref.name": name, **({LOCK: annotations[LOCK]} if LOCK in annotations else {})}
    index = _json_bytes(_index(digest, len(manifest_bytes), str(config["architecture"]), told))
    _put(folder, _Image(layers=layers, small={_digest(config_bytes): config_bytes, digest: manifest_bytes}, index=index))
    return digest


def need_place(folder: Path) -> None:
    """Raise BuildFailed where `write_layout` would refuse a folder: better before hours of work than after them."""
    with _refusals(folder):
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            _need_layout(folder)
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise BuildFailed(f"{folder} cannot be written to", hint="name another folder with --output, or fix its owner or mode")


def copy_layout(layout: Layout, folder: Path) -> None:
    """Have an image that was read in another folder too, to the byte. Raises as `write_layout`."""
    digests = (layout.digest, layout.manifest["config"]["digest"])
    small = {digest: layout.blob(digest).read_bytes() for digest in digests}
    _put(folder, _Image(layers=layout.layers, small=small, index=(layout.folder / "index.json").read_bytes()))


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An image to be written."""

    layers: Sequence[Layer]
    small: Mapping[str, bytes]
    """Configuration and manifest by digest."""
    index: bytes


def _put(folder: Path, image: _Image) -> None:
    with _refusals(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if not _is_layout(folder) and not _created(folder, image):
            # Another build was first: go on in its layout.
            _need_layout(folder)
        with _alone(folder):
            if not _stands(folder, image):
                _fill(folder, image)
                write_atomically(folder / "index.json", lambda file: file.write(image.index))
                _drop_others(folder, {*image.small, *(layer.blob.digest for layer in image.layers)})


def _manifest(layers: Sequence[Layer], config_bytes: bytes, annotations: Mapping[str, str]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": _digest(config_bytes), "size": len(config_bytes)},
        "layers": [
            {
                "mediaType": layer.blob.media_type,
                "digest": layer.blob.digest,
                "size": layer.blob.size,
                "annotations": {TITLE: layer.title, UNPACKED: str(layer.blob.unpacked_size)},
            }
            for layer in layers
        ],
        "annotations": dict(annotations),
    }


def _index(digest: str, size: int, architecture: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    row = {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": size,
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": dict(annotations),
    }
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [row]}


def _is_layout(folder: Path) -> bool:
    """Return whether a layout of ours stands there. Raises BuildFailed when something else does."""
    if not os.path.lexists(folder):
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        return False
    _need_layout(folder)
    return True


def _need_layout(folder: Path) -> None:
    hint = "name another folder with --output, or remove this one"
    if not (folder / "oci-layout").is_file():
        raise BuildFailed(f"{folder} is there and is no OCI layout", hint=hint)
    try:
        rows = _read_json(folder / "index.json")["manifests"]
        strangers = [row for row in rows if LOCK not in (row.get("annotations") or {})]
    except ImageBroken:
        return  # A broken one is made whole.
    except (KeyError, TypeError, AttributeError):
        return
    if strangers:
        raise BuildFailed(f"{folder} holds an image that Stoker did not write", hint=hint)


def _created(folder: Path, image: _Image) -> bool:
    """Write a new layout under another name and rename it; return False when somebody else's was there first."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    descriptor = _made_and_held(temporary)
    try:
        _fill(temporary, image)
        _write(temporary / "index.json", image.index)
        os.rename(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _made_and_held(temporary: Path) -> int:
    """Make a folder and return a descriptor that holds its lock, so that another build's `_sweep` leaves it alone."""
    while True:
        temporary.mkdir()
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # Swept between its making and this line.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # Swept while the lock was waited for.


def _sweep(folder: Path) -> None:
    """Remove what a build that was killed left behind; one that still lives holds its lock."""
    for left in folder.parent.glob(f".{_escaped(folder.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one that changes a layout; wait, and say so, while another does."""
    with open(folder / "oci-layout", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another build is writing {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stands(folder: Path, image: _Image) -> bool:
    """Return whether this very image stands there whole."""
    try:
        if (folder / "index.json").read_bytes() != image.index:
            return False
        if any(_blob_path(folder, digest).read_bytes() != content for digest, content in image.small.items()):
            return False
    except OSError:
        return False
    return all(_is_same(_blob_path(folder, layer.blob.digest), layer.blob) for layer in image.layers)


def _fill(folder: Path, image: _Image) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    for layer in image.layers:
        target = _blob_path(folder, layer.blob.digest)
        if not _is_same(target, layer.blob):
            _place(layer.blob.path, target)
    for digest, content in image.small.items():
        _write(_blob_path(folder, digest), content)
    if not (folder / "oci-layout").exists():
        _write(folder / "oci-layout", _LAYOUT_FILE)


def _place(source: Path, target: Path) -> None:
    """Have a file at `target` too: a hard link, a reflink, or a copy, whichever can be."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, another owner's file, or a file system without links
            with open(source, "rb") as content, open(temporary, "wb") as file:
                try:
                    fcntl.ioctl(file, _FICLONE, content.fileno())
                except OSError:
                    shutil.copyfileobj(content, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
                # By its time a copy is known again.
                status = os.fstat(content.fileno())
                os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(temporary, target)
    finally:
        # link() and rename() do nothing where both names are the same file already.
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content), durable=False)


def _drop_others(folder: Path, kept: set[str]) -> None:
    for path in (folder / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in kept:
            path.unlink(missing_ok=True)


def _is_same(target: Path, blob: Blob) -> bool:
    """Whether a blob stands there with its bytes: its own file or a copy that nobody wrote to since; anything else is hashed."""
    try:
        there, source = target.stat(), blob.path.stat()
    except OSError:
        return False
    if os.path.samestat(there, source) or there.st_size != blob.size:
        return there.st_size == blob.size
    if there.st_mtime_ns == source.st_mtime_ns:
        return True
    if f"sha256:{sha256_of(target)}" != blob.digest:
        return False
    with contextlib.suppress(OSError):  # somebody else's
        os.utime(target, ns=(there.st_atime_ns, source.st_mtime_ns))
    return True


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _blob_path(folder: Path, digest: str) -> Path:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageBroken(f"{folder} names a blob {digest!r}, which is no sha256 digest", hint="run `stoker image build` again")
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _read_json(path: Path, digest: str | None = None) -> dict[str, Any]:
    """Read a small JSON object, and check its hash where one is known. Raises ImageBroken, ValueError."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_JSON_BYTES + 1)
    except OSError as error:
        raise ImageBroken(f"{path} cannot be read ({error.strerror})", hint="name a folder that `stoker image build` wrote") from error
    if len(content) > _MOST_JSON_BYTES:
        raise ImageBroken(f"{path} is larger than any manifest", hint="run `stoker image build` again")
    if digest is not None and _digest(content) != digest:
        raise ImageBroken(f"{path} has changed since it was written: its hash is another one", hint="run `stoker image build` again")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImageBroken(f"{path} is no JSON ({error})", hint="run `stoker image build` again") from error
    if not isinstance(value, dict):
        raise ImageBroken(f"{path} holds no JSON object", hint="run `stoker image build` again")
    return value


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextlib.contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn the system's refusals to write the layout into Stoker's errors."""
    try:
        yield
    except RunFolderUnwritable as error:
        raise BuildFailed(f"{folder} cannot be written to", hint="name another folder with --output, or fix its owner or mode") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free space (`df -h {folder.parent}` shows how much there is) or name another folder with --output, then run it again"
            raise DiskFull(f"no space left on the disk while writing {folder}", hint=hint) from error
        raise BuildFailed(f"{folder} cannot be written ({error.strerror})", hint="name another folder with --output") from error

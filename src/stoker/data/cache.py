"""Decoded data sets on the disk, so that the second start maps them into memory instead of decoding again.

An entry is a folder that is made under another name and renamed, so it is there whole or not at all. One process makes it, others
that want the same one wait for it and use it. A cache that cannot be written costs a warning, never the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from stoker import console, settings
from stoker.data.sets import Decoded

_FORMAT = 1
"""Goes up when the same file decodes to other pixels or the entries look different."""
_HASH_STEP_BYTES = 2**22
_warned = False


def cache_key(path: Path, *facts: object) -> str:
    """Return the key of what is made from `path` as `facts` (size, time of change, ...) describe it."""
    text = json.dumps([_FORMAT, str(path.resolve()), *facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_facts(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of change in ns: what tells one state of a file from another."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def file_fingerprint(*paths: Path) -> str:
    """Return `sha256:` over the content of the files, in the order given, each with its name and size before it when there are several."""
    digest = hashlib.sha256()
    for path in paths:
        if len(paths) > 1:
            digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        with open(path, "rb") as file:
            while block := file.read(_HASH_STEP_BYTES):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def load_or_build(key: str, build: Callable[[], Decoded]) -> Decoded:
    """Return the decoded data set of that key from the cache, or have `build` make it and keep it there."""
    entry = settings.cache_folder() / "datasets" / key
    if found := _load(entry):
        return found
    with exclusive(entry) as refusal:
        if found := _load(entry):
            return found
        decoded = build()
        refusal = refusal or _store(entry, decoded)
        if refusal:
            _warn_unwritable(refusal)
            return decoded
        return _load(entry) or decoded


@contextlib.contextmanager
def exclusive(entry: Path) -> Iterator[OSError | None]:
    """Keep other processes from making `entry` meanwhile; yields None, or why the cache cannot be written.

    The lock ends with the process, however it ends. On a file system without locks two processes may both make the entry, each
    under a name of its own.
    """
    refusal: OSError | None = None
    with contextlib.ExitStack() as stack:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(entry.with_name(f"{entry.name}.lock"), "wb"))
        except OSError as error:
            refusal = error
        else:
            with contextlib.suppress(OSError):
                _lock(lock.fileno())
                for stale in entry.parent.glob(f"{entry.name}.tmp-*"):  # left by a process that was killed
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        yield refusal


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.say("another process is preparing this data set: waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _warn_unwritable(error: OSError) -> None:
    """Say once that the run goes on without a cache."""
    global _warned
    if not _warned:
        console.warn(
            f"the decoded data set is not kept, so the next start decodes it again: {settings.cache_folder()} cannot be written to "
            f"({error.strerror or error}). STOKER_CACHE names another folder."
        )
        _warned = True


@contextlib.contextmanager
def new_entry(entry: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `entry` when the block ends well and vanishes when it does not. OSErrors pass through."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{entry.name}.tmp-", dir=entry.parent))
    try:
        yield temporary
        if entry.exists():  # a damaged one; processes that have it mapped keep their pages
            shutil.rmtree(entry)
        os.rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _store(entry: Path, decoded: Decoded) -> OSError | None:
    """Keep `decoded` as `entry`; returns why that was not possible."""
    meta = {
        "classes": decoded.classes,
        "train_count": decoded.train_count,
        "fingerprint": decoded.fingerprint,
        "broken": decoded.broken,
        "shape": decoded.pixels_NHWC.shape,
    }
    try:
        with new_entry(entry) as folder:
            for name, array in (("pixels", decoded.pixels_NHWC), ("labels", decoded.labels_N)):
                with open(folder / f"{name}.npy", "wb") as file:
                    np.save(file, np.ascontiguousarray(array))
                    file.flush()
                    os.fsync(file.fileno())
            (folder / "meta.json").write_text(json.dumps(meta))
    except OSError as error:
        return error
    return None


def _load(entry: Path) -> Decoded | None:
    """Return the entry, or None when there is none or it is damaged: then it is made again."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        pixels_NHWC = np.load(entry / "pixels.npy", mmap_mode="r")
        labels_N = np.load(entry / "labels.npy")
        if list(pixels_NHWC.shape) != meta["shape"] or len(labels_N) != len(pixels_NHWC):
            return None
        return Decoded(
            pixels_NHWC=pixels_NHWC,
            labels_N=labels_N,
            classes=tuple(meta["classes"]),
            train_count=meta["train_count"],
            fingerprint=meta["fingerprint"],
            broken=tuple((name, reason) for name, reason in meta["broken"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None

"""The content store in the cache folder: files by their sha256, layers and unpacked roots by key; whole or not there, never poisoned."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker import console, settings
from stoker.errors import CacheUnwritable, DiskFull, HashMismatch
from stoker.image.compression import Blob
from stoker.image.hashes import sha256_of
from stoker.image.holding import held
from stoker.image.removal import remove

_STEP_BYTES = 2**20
# ENOENT: a folder that makes none in it (/proc), or that somebody removed meanwhile.
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG)
# A record that is being written; of a process that was killed meanwhile it stays until the next prune.
_NEW_RECORD = ".record-"
_SAFE_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One thing in the store."""

    kind: str
    """`file`, `layer`, `root` or `partial` (a download that broke off)."""
    key: str
    name: str
    """What people call it: a wheel's file name; empty: not known."""
    size: int
    """Bytes on the disk."""
    used: float
    """When it was last put in or asked for, Unix time in s."""
    path: Path


class Store:
    """Everything that image builds keep: `files/`, `layers/`, `roots/` and `partial/` under `<cache folder>/image`.

    Any number of processes and threads may use it at once. Content comes in by a rename, after its hash was computed; beside it
    stands a record of its length, its time of change and the boot of the machine. While all three are as recorded it is trusted;
    else it is hashed again: a power cut may leave a file of the right length that never reached the disk (which saves waiting for
    the disk after each gigabyte). Raises DiskFull and CacheUnwritable.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or settings.cache_folder() / "image"

    # --- files --------------------------------------------------------------------------------------------------------

    def file(self, sha256: str, *, size: int | None = None) -> Path | None:
        """Return the path of the file with this hash (plain hex), or None.

        `size`: what the lock says, in bytes. A file of another length, or one that changed since, is hashed again, and removed if it is damaged.
        """
        path = self._file_path(sha256)
        return path if _sound(path, _record_path(path), sha256, size) else None

    def add_file(self, source: Path, *, sha256: str, name: str) -> Path:
        """Copy a file into the store and return its path there. Raises HashMismatch when its bytes have another hash."""
        if found := self.file(sha256):
            return found
        with self.scratch() as folder:
            copy, digest = folder / "copy", hashlib.sha256()
            with open(source, "rb") as old, self._writing(), open(copy, "wb") as new:
                while part := old.read(_STEP_BYTES):
                    digest.update(part)
                    new.write(part)
            if digest.hexdigest() != sha256:
                raise HashMismatch(
                    f"{source} is not the {name} that is meant: its sha256 is {digest.hexdigest()}, not {sha256}", hint="get the file again"
                )
            return self._take_file(copy, sha256, name)

    def partial(self, sha256: str) -> Path:
        """Return where a download of this file grows: what is there already was fetched earlier. Hold `lock(sha256)` meanwhile."""
        path = self.folder / "partial" / _checked(sha256)
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def adopt(self, sha256: str, *, name: str) -> Path:
        """Make `partial(sha256)`, which its fetcher has hashed while it came, the file of this hash, and return its path."""
        return self._take_file(self.partial(sha256), sha256, name)

    def _file_path(self, sha256: str) -> Path:
        return self.folder / "files" / sha256[:2] / _checked(sha256)

    def _take_file(self, source: Path, sha256: str, name: str) -> Path:
        path = self._file_path(sha256)
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            source.chmod(0o444)
            # The new time makes the record of a file that was here before void.
            os.utime(source)
            os.rename(source, path)
            _write_record(_record_path(path), {"name": name, **_state(path)})
        return path

    # --- layers -------------------------------------------------------------------------------------------------------

    def layer(self, key: str) -> Blob | None:
        """Return the compressed layer of this key, or None. A damaged one is removed."""
        folder = self.folder / "layers" / _checked(key)
        record, path = folder / "blob.json", folder / "blob"
        said = _read_record(record)
        try:
            names = [field.name for field in dataclasses.fields(Blob) if field.name != "path"]
            blob = Blob(path=path, **{name: said["blob"][name] for name in names})
        except (KeyError, TypeError):
            return None
        return blob if _sound(path, record, blob.digest.removeprefix("sha256:"), blob.size) else None

    def add_layer(self, key: str, blob: Blob, *, name: str = "") -> Blob:
        """Move a finished blob (made in `scratch()`) into the store and return it with its new path. One that was there first stays."""
        if found := self.layer(key):
            return found
        folder = self.folder / "layers" / _checked(key)
        with self._writing():
            folder.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f"{key}.tmp-", dir=folder.parent))
            try:
                os.chmod(new, 0o755)
                shutil.move(blob.path, new / "blob")
                said = {field: value for field, value in dataclasses.asdict(blob).items() if field != "path"}
                _write_record(new / "blob.json", {"name": name, "blob": said, **_state(new / "blob")})
                with self.lock(f"layer-{key}"):
                    if (other := self.layer(key)) is None:
                        remove(folder)
                        os.rename(new, folder)
            finally:
                remove(new)
        return other or dataclasses.replace(blob, path=folder / "blob")

    # --- roots --------------------------------------------------------------------------------------------------------

    def root(self, key: str) -> Path | None:
        """Return the folder of this key, made by `new_root`; or None."""
        path = self.folder / "roots" / _checked(key)
        if not path.is_dir():
            return None
        with contextlib.suppress(OSError):
            os.utime(_record_path(path))
        return path

    def drop_root(self, key: str) -> None:
        """Remove a root that is damaged."""
        with self.lock(f"root-{key}", what="the base"):
            remove(self.folder / "roots" / _checked(key))

    @contextlib.contextmanager
    def new_root(self, key: str) -> Iterator[Path]:
        """Yield an empty folder that becomes `root(key)` when the block ends well and vanishes when it does not.

        Others that want to make the same one wait until then: ask for `root(key)` again inside, before making it; a root that is
        there by then is kept, and what was made is thrown away.
        """
        path = self.folder / "roots" / _checked(key)
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock(f"root-{key}", what="the base"):
            for stale in path.parent.glob(f"{key}.tmp-*"):  # left by a process that was killed: we hold its lock
                remove(stale)
            with self._writing():
                new = Path(tempfile.mkdtemp(prefix=f"{key}.tmp-", dir=path.parent))
                os.chmod(new, 0o755)
            try:
                yield new
                if not path.is_dir():
                    with self._writing():
                        _write_record(_record_path(path), {"name": ""})
                        os.rename(new, path)
            finally:
                remove(new)

    # --- room for work ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder on the store's file system. It vanishes afterwards; that of a process that was killed, at the next call."""
        place = self.folder / "scratch"
        with self._writing():
            place.mkdir(parents=True, exist_ok=True)
            for left in place.glob("*.lock"):
                with held(left, wait=False) as free:
                    if free:
                        remove(left.with_suffix(""))
                        left.unlink(missing_ok=True)
        folder = place / uuid.uuid4().hex
        guard = folder.with_suffix(".lock")
        with held(guard):
            try:
                with self._writing():
                    folder.mkdir()
                yield folder
            finally:
                remove(folder)
                guard.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str, *, what: str = "") -> Iterator[None]:
        """Keep other processes and threads from doing the same work meanwhile. Ends with the process, however it ends.

        `what`: the work, for the person who waits.

        Not to be taken twice by one thread. On a file system without locks several may work at once: the results are the same
        bytes, and each comes in by a rename.
        """
        path = self.folder / "locks" / f"{_checked(name)}.lock"
        with contextlib.ExitStack() as stack:
            with self._writing():
                stack.enter_context(held(path, says=f"another process works on {what or name[:40]}: waiting for it"))
            yield

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Keep `prune` from removing anything meanwhile: hold it around a build. Any number may hold it."""
        path = self.folder / "locks" / ".using.lock"
        with contextlib.ExitStack() as stack:
            with self._writing():
                stack.enter_context(held(path, shared=True, says="the image cache is being pruned: waiting until that is done"))
            yield

    # --- looking and clearing -----------------------------------------------------------------------------------------

    def kept(self) -> tuple[Kept, ...]:
        """Return everything in the store, the longest unused first."""
        found = [*self._kept_files(), *self._kept_folders("layer"), *self._kept_folders("root"), *self._kept_partials()]
        return tuple(sorted(found, key=lambda kept: (kept.used, kept.key)))

    def prune(self, *, older_than_s: float | None = None, keep_bytes: int | None = None, dry_run: bool = False) -> tuple[Kept, ...]:
        """Remove and return what was not used for so long, then the longest unused until at most `keep_bytes` are left.

        Without either: everything. Waits for the builds that run. `dry_run` removes nothing.
        """
        if dry_run or not self.folder.is_dir():
            return _chosen(self.kept(), older_than_s, keep_bytes)
        using = self.folder / "locks" / ".using.lock"
        with self._writing(), held(using, says="an image is being built: waiting until that is done"):
            chosen = _chosen(self.kept(), older_than_s, keep_bytes)
            for kept in chosen:
                remove(kept.path)
                _record_path(kept.path).unlink(missing_ok=True)
            self._sweep()
        return chosen

    def _sweep(self) -> None:
        """Remove what processes that were killed left behind, and locks that nobody holds."""
        for pattern in ("layers/*.tmp-*", "roots/*.tmp-*", *(f"{place}/{_NEW_RECORD}*" for place in ("files/??", "layers/*", "roots"))):
            for left in self.folder.glob(pattern):
                remove(left)
        with self.scratch():
            pass
        for lock in self.folder.glob("locks/*.lock"):
            if lock.name != ".using.lock":
                with held(lock, wait=False) as free:
                    if free:
                        lock.unlink(missing_ok=True)

    def _kept_files(self) -> Iterator[Kept]:
        for path in self.folder.glob("files/??/*"):
            if _SAFE_KEY.fullmatch(path.name) and path.suffix != ".json":
                yield from _kept("file", path, _record_path(path))

    def _kept_folders(self, kind: str) -> Iterator[Kept]:
        for path in self.folder.glob(f"{kind}s/*"):
            if path.is_dir() and ".tmp-" not in path.name:
                yield from _kept(kind, path, path / "blob.json" if kind == "layer" else _record_path(path))

    def _kept_partials(self) -> Iterator[Kept]:
        for path in self.folder.glob("partial/*"):
            yield from _kept("partial", path, path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with keeping(self.folder):
            yield


@contextlib.contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Turn the system's refusals to write into the cache into DiskFull and CacheUnwritable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk of the image cache, {folder}",
                hint="`stoker image cache prune` frees what was not used lately, STOKER_CACHE names another folder; "
                "then run the same command again: what was made so far is kept",
            ) from error
        if error.errno in _REFUSED:
            raise CacheUnwritable(
                f"the image cache {folder} cannot be written to ({error.strerror})",
                hint="name another folder with the environment variable STOKER_CACHE, or fix its owner or mode",
            ) from error
        raise


def _chosen(kept: tuple[Kept, ...], older_than_s: float | None, keep_bytes: int | None) -> tuple[Kept, ...]:
    if older_than_s is None and keep_bytes is None:
        return kept
    oldest = -1.0 if older_than_s is None else time.time() - older_than_s
    left, chosen = sum(one.size for one in kept), []
    for one in kept:
        if one.used < oldest or (keep_bytes is not None and left > keep_bytes):
            chosen.append(one)
            left -= one.size
    return tuple(chosen)


def _kept(kind: str, path: Path, record: Path) -> Iterator[Kept]:
    try:
        used = (record if record.exists() else path).stat().st_mtime
        size = _disk_bytes(path)
    except OSError:  # another process removed it meanwhile
        return
    name = "" if kind == "partial" else str(_read_record(record).get("name") or "")
    yield Kept(kind=kind, key=path.name, name=name, size=size, used=used, path=path)


def _disk_bytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    found = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(folder, name)).st_size
    return found


def _checked(key: str) -> str:
    """Return a key that can be a file name and nothing else: a lock is somebody's text."""
    if not _SAFE_KEY.fullmatch(key):
        raise ValueError(f"no key of the image store: {key!r}")
    return key


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _state(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "changed_ns": status.st_mtime_ns, "boot": boot()}


def boot() -> str:
    """Return what tells this boot of the machine from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _sound(path: Path, record: Path, sha256: str, size: int | None) -> bool:
    """Whether the content is what it should be. Notes the use; removes what is damaged, so that it is made again."""
    try:
        state = _state(path)
    except OSError:
        return False
    said = _read_record(record)
    if size not in (None, state["size"]) or any(said.get(key) != value for key, value in state.items()):
        if sha256_of(path) != sha256:
            console.warn(f"{said.get('name') or sha256} was damaged in the image cache (another hash than when it was kept): it is made anew")
            _discard(path, record)
            return False
        with contextlib.suppress(OSError):  # a cache that can only be read is good, too
            _write_record(record, {**said, **state})
    with contextlib.suppress(OSError):
        os.utime(record)
    return True


def _discard(path: Path, record: Path) -> None:
    for one in (path, record):
        with contextlib.suppress(OSError):
            one.unlink()


def _read_record(path: Path) -> dict[str, Any]:
    """Return what a record says; a missing or broken one says nothing."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _write_record(path: Path, said: Mapping[str, Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=_NEW_RECORD, dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            json.dump(said, file)
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

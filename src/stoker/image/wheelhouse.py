"""The wheels of one stack of a lock on this disk, and Stoker itself as one: for an environment without a container."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from stoker import shell
from stoker.files import write_atomically
from stoker.image.fetching import fetch_wheels
from stoker.image.lock import Lock
from stoker.image.own import FLAGS, KERNELS, own_wheel, record
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.image.temporary import temporary_folder

_COMPILE_S = 300.0
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A wheel on this disk."""

    name: str
    version: str
    file: str
    """The wheel's own name."""
    sha256: str
    path: Path
    """Where it lies in the store, by its hash."""


def stored_wheels(lock: Lock, stack: str, *, mirrors: Mirrors, environ: Mapping[str, str]) -> tuple[Stored, ...]:
    """Return the wheels of a stack, fetched where they are missing. Raises DownloadFailed, PackageGone, HashMismatch, DiskFull, CacheUnwritable."""
    store = Store()
    wheels = next(one.wheels for one in lock.stacks if one.name == stack)
    with store.using():
        paths = fetch_wheels(wheels, store, mirrors=mirrors, environ=environ)
        return tuple(
            Stored(name=wheel.name, version=wheel.version, file=wheel.file, sha256=wheel.sha256, path=paths[wheel.sha256]) for wheel in wheels
        )


def stored_own() -> Stored:
    """Return this Stoker as a wheel, with its kernels. Raises BuildFailed when it was installed without its sources, DiskFull, CacheUnwritable."""
    name, files = own_wheel()
    built = _kernels({path.rpartition("/")[2]: content for path, content in files.items() if path.startswith("stoker/native/")})
    (listed,) = (path for path in files if path.endswith(".dist-info/RECORD"))
    files = {**files, **built}
    files[listed] = record({path: content for path, content in files.items() if path != listed}, [listed])
    held = BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(member, _TIME), text, compresslevel=1)
    content = held.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    store = Store()
    with store.using(), store.scratch() as folder:
        write_atomically(folder / name, lambda file: file.write(content), durable=False)
        path = store.add_file(folder / name, sha256=sha256, name=name)
    return Stored(name="stoker", version=name.split("-")[1], file=name, sha256=sha256, path=path)


def _kernels(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the kernels by path below `site-packages`, built by this machine's gcc; without one torch and numpy do the work."""
    made = {}
    with temporary_folder("kernels") as folder:
        for name, content in sources.items():
            (folder / name).write_bytes(content)
        for module, source in KERNELS.items():
            if shell.run(["gcc", *FLAGS, "-o", "built.so", source], folder=folder, timeout_s=_COMPILE_S).ok:
                made[f"{module}.so"] = (folder / "built.so").read_bytes()
    return made

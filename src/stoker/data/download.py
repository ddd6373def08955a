"""CIFAR-10 from its authors: fetched once, checked, and either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from stoker import console, settings
from stoker.data.cache import exclusive
from stoker.errors import DiskFull, DownloadFailed, MissingExtra

_HINT = "run the same command again, or give a copy that you have with --data PATH (the archive, its folder, or images in class folders)"
_STEP_BYTES = 2**18
_TIMEOUT_S = 30


def cifar10_archive() -> Path:
    """Return the path of `cifar-10-python.tar.gz` in the cache folder, fetching it when it is not there.

    Address and MD5 are torchvision's. Raises DownloadFailed, DiskFull, MissingExtra (no torchvision).
    """
    target = settings.cache_folder() / "downloads" / "cifar-10-python.tar.gz"
    if target.is_file():
        return target
    try:
        from torchvision.datasets import CIFAR10  # an optional extra, and seconds to import
    except ImportError as error:
        raise MissingExtra(
            "CIFAR-10 is fetched from the address that torchvision knows, and torchvision is not installed",
            hint="python -m pip install torchvision, or give a copy with --data PATH",
        ) from error
    with exclusive(target) as refusal:
        if refusal:
            raise DownloadFailed(
                f"{target.parent} cannot be written to ({refusal.strerror})", hint="name another folder with STOKER_CACHE, or give --data PATH"
            )
        if not target.is_file():
            fetch(CIFAR10.url, CIFAR10.tgz_md5, target)
    return target


def fetch(url: str, md5: str, target: Path) -> None:
    """Fetch `url` into `target`, which appears only when the content has that MD5. Raises DownloadFailed and DiskFull."""
    import http.client  # an eighth of a second, and only when something is fetched

    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")  # a killed process's is cleared away by `exclusive`
    try:
        found = _fetch(url, temporary, target.name)
        if found != md5:
            raise DownloadFailed(f"what came from {url} is not the file that was meant (its MD5 is {found}, not {md5})", hint=_HINT)
        os.replace(temporary, target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left in {target.parent} for {target.name}", hint="free space, or name another folder with STOKER_CACHE"
            ) from error
        raise DownloadFailed(f"{url} could not be fetched: {error or type(error).__name__}", hint=_HINT) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _fetch(url: str, path: Path, title: str) -> str:
    """Write the content of `url` to `path` and return its MD5."""
    import urllib.request  # as above

    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, open(path, "wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with console.progress(f"downloading {title}", size // 1000, "kB") as advance:
            while part := answer.read(_STEP_BYTES):
                file.write(part)
                digest.update(part)
                advance(len(part) // 1000)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()

"""Files fetched into the store: several at once, hashed while they come, resumed where they broke off."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoker import console
from stoker.environment.installer import free_bytes
from stoker.errors import DiskFull, StokerError
from stoker.image.download import Download, Stopped, Wanted
from stoker.image.index import find_files, find_indexes, login_table
from stoker.image.lock import Wheel
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.image.uv import Uv, find_uv
from stoker.image.web import Web

__all__ = ["Wanted", "fetch", "fetch_wheels"]

# Many small files are bound by the way to the server and back, a few large ones by the bandwidth of one connection.
_AT_ONCE = 8
# How long the threads together get to put down what they hold when one fails or the person interrupts.
_LEAVE_S = 2.0


def fetch(
    wanted: Sequence[Wanted],
    store: Store,
    *,
    web: Web | None = None,
    title: str = "fetching",
    advance: Callable[[int], None] | None = None,
) -> dict[str, Path]:
    """Have every file in the store and return their paths by sha256; what is there already costs nothing.

    `advance(bytes)` is called from the calling thread, for files that were there, too; without it a progress bar is shown. Debian
    packages and wheels alike. `web`: connections to use, closed at the end. Raises DownloadFailed, PackageGone (not there any more),
    HashMismatch, DiskFull and CacheUnwritable; what was fetched so far is kept and resumed, also after Ctrl-C or kill -9.
    """
    paths = {one.sha256: path for one in wanted if (path := store.file(one.sha256, size=one.size))}
    missing = list({one.sha256: one for one in wanted if one.sha256 not in paths}.values())
    there = sum(one.size or 0 for one in wanted if one.sha256 in paths)
    if not missing:
        if advance:
            advance(there)
        return paths
    _check_room(missing, store)
    with store.using():
        if advance:
            advance(there)
            return paths | _fetch_all(missing, store, web or Web(os.environ), advance)
        with console.progress(title, sum(one.size or 0 for one in missing) // 10**6 or None, "MB") as bar:
            return paths | _fetch_all(missing, store, web or Web(os.environ), _megabytes(bar))


def fetch_wheels(
    wheels: Sequence[Wheel],
    store: Store,
    *,
    mirrors: Mirrors,
    environ: Mapping[str, str],
    advance: Callable[[int], None] | None = None,
) -> dict[str, Path]:
    """Find the wheels of a lock at the configured indexes and have them in the store: paths by sha256. Raises as `fetch`.

    Nothing is asked of any index when all are there.
    """
    missing = [wheel for wheel in wheels if store.file(wheel.sha256, size=wheel.size) is None]
    web, addresses = None, dict[str, tuple[str, ...]]()
    if missing:
        uv = _uv_if_there(environ)
        indexes = find_indexes(mirrors, environ, uv, names=[wheel.index for wheel in missing if wheel.index])
        web = Web(environ, login_table(indexes, environ))
        offers = find_files(missing, indexes, web, uv)
        addresses = {sha256: tuple(offer.address for offer in found) for sha256, found in offers.items()}
    wanted = [Wanted(file=one.file, sha256=one.sha256, size=one.size, addresses=addresses.get(one.sha256, ())) for one in wheels]
    return fetch(wanted, store, web=web, title="fetching wheels", advance=advance)


def _uv_if_there(environ: Mapping[str, str]) -> Uv | None:
    """Return uv, which knows how it is set up; a machine that only builds can do without, if variables or stoker.toml name an index."""
    try:
        return find_uv(environ)
    except StokerError:
        return None


def _megabytes(bar: Callable[[int], None]) -> Callable[[int], None]:
    """Count bytes and tell whole megabytes."""
    rest = 0

    def advance(count: int) -> None:
        nonlocal rest
        rest += count
        bar(rest // 10**6)
        rest %= 10**6

    return advance


def _check_room(missing: Sequence[Wanted], store: Store) -> None:
    """Refuse before hours of fetching what cannot be kept."""
    need = 0
    for one in missing:
        partial = store.partial(one.sha256)
        need += max((one.size or 0) - (partial.stat().st_size if partial.exists() else 0), 0)
    if need > (free := free_bytes(store.folder)):
        raise DiskFull(
            f"{need / 1e9:.2f} GB are to be fetched, and the disk of the image cache ({store.folder}) has {free / 1e9:.2f} GB free",
            hint="`stoker image cache prune` frees what was not used lately, STOKER_CACHE names another folder",
        )


class _Crew:
    """Threads that fetch, and what they tell the thread that waits for them."""

    def __init__(self, store: Store, web: Web) -> None:
        self.store, self.web = store, web
        self.stop = threading.Event()
        self.news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def _tell(self, count: int) -> None:
        self.news.put(("bytes", count))

    def work(self, tasks: queue.SimpleQueue[Wanted]) -> None:
        """Fetch one file after another until there is none, one fails, or the crew is stopped."""
        try:
            while not self.stop.is_set():
                one = tasks.get_nowait()
                self.news.put(("path", (one.sha256, Download(one, self.store, self.web, self.stop, self._tell).fetched())))
        except (queue.Empty, Stopped):
            pass
        except BaseException as error:
            self.news.put(("error", error))
        finally:
            self.news.put(("ended", None))


def _fetch_all(missing: Sequence[Wanted], store: Store, web: Web, advance: Callable[[int], None]) -> dict[str, Path]:
    """Fetch with several threads, the large files first, so that none of them comes last and alone."""
    crew, tasks = _Crew(store, web), queue.SimpleQueue[Wanted]()
    for one in sorted(missing, key=lambda one: (-(one.size or 0), one.file)):
        tasks.put(one)
    # Daemons: one that waits for a dead server must not keep the program from ending.
    threads = [threading.Thread(target=crew.work, args=(tasks,), daemon=True, name="stoker-fetch") for _ in range(min(_AT_ONCE, len(missing)))]
    for thread in threads:
        thread.start()
    paths, running = dict[str, Path](), len(threads)
    try:
        while running:
            kind, value = crew.news.get()
            if kind == "bytes":
                advance(value)
            elif kind == "path":
                paths.__setitem__(*value)
            elif kind == "error":
                raise value
            else:
                running -= 1
    finally:
        crew.stop.set()
        web.close()
        until = time.monotonic() + _LEAVE_S
        for thread in threads:
            thread.join(timeout=max(until - time.monotonic(), 0))
    return paths

"""One file fetched into the store: hashed while it comes, resumed where it broke off, from the next address when one is no good."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from stoker.errors import DownloadFailed, HashMismatch, PackageGone, StokerError
from stoker.image.pages import as_address
from stoker.image.store import Store, keeping
from stoker.image.web import Reply, Web, host_of, why

_STEP_BYTES = 2**20
# So much is gathered at most before it is hashed and written, however slowly it comes.
_STEP_S = 0.5
# A connection that brings less than this over so long is given up and made anew: a server that trickles would hold us for days.
_SLOWEST_BYTES_PER_S = 1000
_WATCHED_S = 30.0
# Attempts in a row that brought next to nothing; one that brought a megabyte counts for none.
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_WAIT_S = 60
_HINT = "run the same command again: what was fetched is kept, and goes on where it broke off"
_CHECK_HINT = (
    "is the address right, and is a login needed (https://USER:PASSWORD@HOST/..., or ~/.netrc)? Another mirror may do (mirrors in stoker.toml)"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that is to be in the store."""

    file: str
    """Its name, for people."""
    sha256: str
    size: int | None
    """In bytes; None: not known before."""
    addresses: tuple[str, ...]
    """Where it may lie, tried in turn: http(s)://, file:// or a path; logins in them are never shown."""


class Stopped(Exception):
    """Another file failed, or the person pressed Ctrl-C."""


class _Unfit(Exception):
    """What came from an address is no good, and will not be when it is asked again."""

    def __init__(self, error: StokerError) -> None:
        super().__init__(error.message)
        self.error = error


class _Broken(Exception):
    """What came broke off, or did not come; asking again may help."""

    def __init__(self, what: str, *, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.what = what
        self.wait_s = wait_s


class Download:
    """One file on its way into the store. `stop` ends it; `tell` hears how many bytes more there are."""

    def __init__(self, wanted: Wanted, store: Store, web: Web, stop: threading.Event, tell: Callable[[int], None]) -> None:
        self._wanted = wanted
        self._store = store
        self._web = web
        self._stop = stop
        self._tell = tell
        self._told = 0
        self._have = 0
        """Bytes in the file so far, all of them hashed."""
        self._digest = hashlib.sha256()
        self._doubtful = False
        """Whether the bytes come from several answers, so that a wrong hash may be the fault of the joint."""

    def fetched(self) -> Path:
        """Return the path in the store, after fetching what is missing, or waiting for another process that does.

        Raises DownloadFailed, PackageGone, HashMismatch, DiskFull, CacheUnwritable and Stopped.
        """
        wanted, store = self._wanted, self._store
        with store.lock(wanted.sha256, what=wanted.file):
            if path := store.file(wanted.sha256, size=wanted.size):  # another process was faster
                self._progress(wanted.size or 0)
                return path
            with keeping(store.folder):
                file = FileIO(store.partial(wanted.sha256), "a+")
            with file:
                self._begin(file)
                self._fill(file)
            return store.adopt(wanted.sha256, name=wanted.file)

    def _begin(self, file: FileIO) -> None:
        """Hash what an earlier attempt left."""
        file.seek(0)
        while part := file.read(_STEP_BYTES):
            self._digest.update(part)
            self._have += len(part)
        self._doubtful = self._have > 0
        if self._wanted.size is not None and self._have > self._wanted.size:
            self._restart(file)
        self._progress(self._have)

    def _restart(self, file: FileIO) -> None:
        """Throw away what there is."""
        file.truncate(0)
        self._have, self._digest, self._doubtful = 0, hashlib.sha256(), False

    def _fill(self, file: FileIO) -> None:
        """Try one address after another until the file is whole. Raises the weightiest of their refusals."""
        refusals: list[StokerError] = []
        for address in self._wanted.addresses:
            try:
                return self._from(as_address(address), file)
            except _Unfit as error:
                refusals.append(error.error)
        if not refusals:
            raise PackageGone(f"{self._wanted.file}: it is not known where it lies", hint="name a mirror that has it (mirrors in stoker.toml)")
        raise next((error for kind in (HashMismatch, DownloadFailed) for error in refusals if isinstance(error, kind)), refusals[0])

    def _from(self, address: str, file: FileIO) -> None:
        """Fetch from one address, going on where it broke off. Raises _Unfit."""
        idle = 0
        while True:
            before = self._have
            try:
                return self._attempt(address, file)
            except _Broken as broken:
                idle = 0 if self._have - before >= _STEP_BYTES else idle + 1
                if idle >= _ATTEMPTS:
                    raise self._failed(address, f"{broken.what}, {idle} times") from broken
                pause_s = _FIRST_PAUSE_S * 2 ** (idle - 1) if idle else 0.0
                if self._stop.wait(max(broken.wait_s, pause_s)):
                    raise Stopped from broken

    def _attempt(self, address: str, file: FileIO) -> None:
        """Ask once for what is missing, and judge the whole. Raises _Broken, _Unfit and Stopped."""
        size, ended = self._wanted.size, True
        if size is None or self._have < size:
            try:
                with self._web.open(address, headers={"Range": f"bytes={self._have}-"} if self._have else {}) as reply:
                    self._check_head(address, reply, file)
                    for part in self._parts(reply):
                        self._add(file, part)
                    ended = reply.ended
            except (FileNotFoundError, NotADirectoryError) as error:
                raise self._gone(address) from error
            except (IsADirectoryError, PermissionError, ssl.SSLCertVerificationError, http.client.InvalidURL) as error:
                raise self._failed(address, why(error), hint=_CHECK_HINT) from error
            except (OSError, http.client.HTTPException) as error:
                if self._stop.is_set():
                    raise Stopped from error
                raise _Broken(why(error)) from error
        if not ended or (size is not None and self._have < size):
            raise _Broken(f"it broke off after {self._have:,} bytes" + (f" of {size:,}" if size else ""))
        self._judge(address, file)

    def _check_head(self, address: str, reply: Reply, file: FileIO) -> None:
        """Decide by the head of an answer whether its body is what is wanted. Raises _Broken and _Unfit."""
        status = reply.status
        if status in (404, 410):
            raise self._gone(address)
        if status == 416:  # there is more here than the server has
            self._restart(file)
            raise _Broken("it has fewer bytes than were fetched already")
        if status in (408, 425, 429) or status >= 500:
            asked = reply.headers.get("retry-after", "")
            raise _Broken(f"status {status}", wait_s=min(int(asked), _LONGEST_WAIT_S) if asked.isdigit() else 0.0)
        if status not in (200, 206):
            meaning = {401: "a login is wanted", 403: "refused", 407: "the proxy wants a login"}.get(status, "an answer that makes no sense here")
            raise self._failed(address, f"{meaning} (status {status})", hint=_CHECK_HINT)
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise self._failed(address, f"something on the way packed it ({reply.headers['content-encoding']})", hint=_CHECK_HINT)
        if status == 206 and not re.match(rf"bytes {self._have}-", reply.headers.get("content-range", "")):
            self._restart(file)
            raise _Broken("it sent another part than the one asked for")
        if status == 200 and self._have:  # a server that knows no ranges
            self._restart(file)
        if self._have == 0 and reply.headers.get("content-type", "").startswith("text/html"):
            raise self._failed(address, "it answered with a page (text/html): the login of a proxy, or an error?", hint=_CHECK_HINT)
        size = self._wanted.size
        if size is not None and reply.length is not None and self._have + reply.length != size:
            raise _Unfit(self._other(address, f"{self._have + reply.length:,} bytes", f"{size:,} bytes"))
        self._doubtful = self._have > 0

    def _parts(self, reply: Reply) -> Iterator[memoryview]:
        """Yield the body in large parts, and sooner when it comes slowly. Raises _Broken when it trickles, and Stopped."""
        buffer = memoryview(bytearray(_STEP_BYTES))
        watched, came = time.monotonic(), 0
        while True:
            filled, count, since, error = 0, 1, time.monotonic(), None
            try:
                while count and filled < len(buffer) and time.monotonic() - since < _STEP_S:
                    count = reply.read_into(buffer[filled:])
                    filled += count
            except (OSError, http.client.HTTPException) as broken:
                error = broken
            if filled:  # also what came before the connection broke
                yield buffer[:filled]
            if error:
                raise error
            if self._stop.is_set():
                raise Stopped
            if not count:
                return
            came += filled
            if (passed := time.monotonic() - watched) > _WATCHED_S:
                if came < _SLOWEST_BYTES_PER_S * passed:
                    raise _Broken(f"only {came:,} bytes came in {passed:.0f} s")
                watched, came = time.monotonic(), 0

    def _add(self, file: FileIO, part: memoryview) -> None:
        size = self._wanted.size
        if size is not None and self._have + len(part) > size:
            raise _Unfit(self._other("", "more bytes", f"{size:,} bytes"))
        with keeping(self._store.folder):
            left = part
            while left:
                left = left[file.write(left) or 0 :]
        self._digest.update(part)
        self._have += len(part)
        self._progress(self._have)

    def _judge(self, address: str, file: FileIO) -> None:
        """Compare the hash of a whole file. Raises _Unfit, or _Broken when the joint of two answers may be at fault."""
        found = self._digest.hexdigest()
        if found == self._wanted.sha256:
            return
        doubtful = self._doubtful
        self._restart(file)
        if doubtful:
            raise _Broken("what was fetched in parts has the wrong hash")
        raise _Unfit(self._other(address, f"sha256 {found}", f"sha256 {self._wanted.sha256}"))

    def _progress(self, have: int) -> None:
        """Tell what is new; bytes that are fetched again are not."""
        if have > self._told:
            self._tell(have - self._told)
            self._told = have

    def _gone(self, address: str) -> _Unfit:
        hint = "another mirror may have it (mirrors in stoker.toml); else `stoker image lock` again"
        return _Unfit(PackageGone(f"{self._wanted.file} is not there any more ({host_of(address)})", hint=hint))

    def _failed(self, address: str, what: str, *, hint: str = _HINT) -> _Unfit:
        return _Unfit(DownloadFailed(f"{self._wanted.file} could not be fetched from {host_of(address)}: {what}", hint=hint))

    def _other(self, address: str, found: str, meant: str) -> HashMismatch:
        return HashMismatch(
            f"{self._wanted.file}{f' at {host_of(address)}' if address else ''} has {found}, and {meant} are meant: it was published again "
            "under the same name, or changed on its way here. It was not used",
            hint="another mirror may still have the right one (mirrors in stoker.toml). Before you lock the new one, find out why it changed",
        )

"""A real Chromium without a window, steered over a pipe by its DevTools protocol: what a person sees, clicks and types."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import queue
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_CLONE_NEWNET, _SIOCSIFFLAGS, _IFF_UP = 0x40000000, 0x8914, 1
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}
_KEYS = {"Enter": (13, "\r"), "Escape": (27, "")}


class Browser:
    """One page, for one port of 127.0.0.1 and nothing else.

    `trusted`: PEM certificates that are accepted as if the person had installed them; every other one is refused as always.
    """

    def __init__(self, folder: Path, port: int, *, trusted: tuple[str, ...] = ()) -> None:
        pins = ",".join(map(_pin, trusted))
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"),
            *("--window-size=1280,900", "--remote-debugging-pipe", f"--user-data-dir={folder}"),
            *([f"--ignore-certificate-errors-spki-list={pins}"] if pins else []),
        ]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The protocol wants 3 and 4, which only a shell can promise; dash cannot name descriptors above 9.
        words = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", str(PROGRAM), *options, "about:blank"]
        quiet = subprocess.DEVNULL
        self._island = Island(port)
        self._process = self._island.call(
            lambda: subprocess.Popen(words, pass_fds=(theirs_in, theirs_out), stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        """What the page itself did not catch, what it could not load, and what its scripts said of errors."""
        pages = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network"):
            self.call(f"{room}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._island.close()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, *, limit_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Call one method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + limit_s
        while True:
            said = self._next(until)
            if said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(said["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if said.get("method") == "Runtime.consoleAPICalled" and said["params"]["type"] in ("error", "assert"):
                self.errors.append(str([one.get("description") or one.get("value") for one in said["params"]["args"]]))
            if said.get("method") == "Network.loadingFailed" and not said["params"].get("canceled"):
                self.errors.append(said["params"]["errorText"])
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                result: dict[str, Any] = said["result"]
                return result

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            read = os.read(self._in, 1 << 16)
            assert read, "Chromium ended"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found

    def open(self, address: str) -> str | None:
        """Go to an address and return why it could not be shown, as `net::ERR_CERT_AUTHORITY_INVALID`; None: it could."""
        why: str | None = self.call("Page.navigate", url=address).get("errorText")
        return why

    def value(self, script: str) -> Any:
        """Return what a JavaScript expression is on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str, what: str, limit_s: float = 60) -> Any:
        """Wait until an expression is true on the page, and return it."""
        until = time.monotonic() + limit_s
        while not (found := self.value(script)):
            assert time.monotonic() < until, f"{what}: not within {limit_s:g} s; the page says: {self.text()[:2000]}; {self.errors}"
            time.sleep(0.1)
        return found

    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of the first element that a CSS selector finds."""
        found = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        box = f"(() => {{ const b = {found}; return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        x, y = self.value(box)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, keys: str) -> None:
        """Press keys together, as `Shift+Enter`."""
        *held, key = keys.split("+")
        code, text = _KEYS[key]
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": sum(_MODIFIERS[one] for one in held)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def picture(self, path: Path) -> Path:
        """Keep what is seen as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


class Island:
    """A network of its own in which one port of this machine can be reached.

    Chromium drops all that it loads whenever an interface comes or goes on its network, as they do when containers are started.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._work: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._done: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._live, daemon=True).start()
        self._server: socket.socket = self.call(self._settle)
        threading.Thread(target=self._serve, daemon=True).start()

    def call(self, work: Callable[[], Any]) -> Any:
        """Do something there, such as starting a program."""
        self._work.put(work)
        found = self._done.get(timeout=60)
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Leave: the network goes with its last program."""
        self._server.close()
        self._work.put(None)

    def _live(self) -> None:
        # A thread can have a network of its own, and what it starts has it, too.
        while (work := self._work.get()) is not None:
            try:
                self._done.put(work())
            except BaseException as error:
                self._done.put(error)

    def _settle(self) -> socket.socket:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network of its own")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
        return socket.create_server(("127.0.0.1", self._port), backlog=128)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                theirs, _ = self._server.accept()
                threading.Thread(target=self._join, args=(theirs,), daemon=True).start()

    def _join(self, theirs: socket.socket) -> None:
        with contextlib.suppress(OSError), theirs, socket.create_connection(("127.0.0.1", self._port), timeout=60) as ours:
            ours.settimeout(None)
            back = threading.Thread(target=_pour, args=(ours, theirs), daemon=True)
            back.start()
            _pour(theirs, ours)
            back.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while read := source.recv(1 << 16):
            target.sendall(read)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _pin(certificate: str) -> str:
    """Return the hash of a certificate's public key as Chromium wants it."""
    public = subprocess.run(["openssl", "x509", "-noout", "-pubkey"], input=certificate, capture_output=True, text=True, check=True).stdout
    lines = public.replace("PUBLIC KEY", "CERTIFICATE")
    return base64.b64encode(hashlib.sha256(ssl.PEM_cert_to_DER_cert(lines)).digest()).decode()

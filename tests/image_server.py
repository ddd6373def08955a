"""A package index on this machine for the tests: real http, and every kind of trouble that a server can make."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Asked:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]


class Request(http.server.BaseHTTPRequestHandler):
    """Answers with what the server was told to; keeps connections open, as real servers do."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self.server.owner.asked.append(
            Asked(method=self.command, path=self.path, headers={key.lower(): value for key, value in self.headers.items()})
        )
        path = self.path.partition("?")[0]
        answer = self.server.owner.answers.get(path)
        if answer is None:
            self.say(404)
        else:
            answer(self)

    do_HEAD = do_GET
    do_POST = do_GET
    do_CONNECT = do_GET

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **{key.replace("_", "-"): value for key, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def start(self) -> int:
        """Return from where on the file is wanted."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


Answer = Callable[[Request], None]
Wrap = Callable[[Answer], Answer]


@dataclass
class Server:
    """What is answered at which path, and what was asked."""

    address: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def paths(self) -> list[str]:
        """Every path that was asked for, in order."""
        return [one.path for one in self.asked]


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Yield a server on a free port."""
    listener = _Listener(("127.0.0.1", 0), Request)
    owner = Server(address=f"http://127.0.0.1:{listener.server_address[1]}")
    listener.owner = owner
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


# --- kinds of answers ---------------------------------------------------------------------------------------------------


def whole(content: bytes) -> Answer:
    """A good server, which knows ranges."""

    def answer(request: Request) -> None:
        begin = request.start()
        if begin > len(content):
            request.say(416, Content_Range=f"bytes */{len(content)}")
        elif "Range" in request.headers:
            request.say(206, content[begin:], Content_Range=f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            request.say(200, content, Content_Type="application/octet-stream")

    return answer


def without_ranges(content: bytes) -> Answer:
    """A server that sends all of it, whatever is asked for."""
    return lambda request: request.say(200, content)


def breaking_off(content: bytes, after: int, *, times: int, ranges: bool = True) -> Answer:
    """A server that closes the connection after so many bytes, the first times that it is asked."""
    left = [times]

    def answer(request: Request) -> None:
        if left[0] == 0:
            return (whole(content) if ranges else without_ranges(content))(request)
        left[0] -= 1
        begin = request.start() if ranges else 0
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        request.wfile.write(content[begin : begin + after])
        request.wfile.flush()
        request.close_connection = True

    return answer


def first(statuses: list[int], then: Answer, **headers: str) -> Answer:
    """A server that says these statuses before it answers well."""
    left = list(statuses)
    return lambda request: request.say(left.pop(0), b"sorry", **headers) if left else then(request)


def status(code: int) -> Answer:
    """A server that says this, always."""
    return lambda request: request.say(code, b"<html>no</html>", Content_Type="text/html")


def redirect(target: str) -> Answer:
    """A server that sends one elsewhere."""
    return lambda request: request.say(302, b"over there", Location=target)


def page(text: str, kind: str = "text/html") -> Answer:
    """A page, packed if the client takes that."""

    def answer(request: Request) -> None:
        body = text.encode()
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            request.say(200, gzip.compress(body), Content_Type=kind, Content_Encoding="gzip")
        else:
            request.say(200, body, Content_Type=kind)

    return answer


def trickling(content: bytes, step: int, pause_s: float) -> Answer:
    """A server that sends a few bytes now and then."""

    def answer(request: Request) -> None:
        begin = request.start()
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(content) - begin))
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        for place in range(begin, len(content), step):
            request.wfile.write(content[place : place + step])
            request.wfile.flush()
            time.sleep(pause_s)

    return answer


def with_login(user: str, password: str, then: Answer) -> Answer:
    """A server that wants a login."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return lambda request: then(request) if request.headers.get("Authorization") == wanted else request.say(401, WWW_Authenticate="Basic")


# --- wheels and indexes -------------------------------------------------------------------------------------------------


def tiny_wheel(name: str, version: str, *, requires: tuple[str, ...] = (), tag: str = "py3-none-any", body: str = "") -> tuple[str, bytes]:
    """Return the file name and the bytes of a real wheel, the same ones each time."""
    stem = f"{name.replace('-', '_')}-{version}"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{name.replace('-', '_')}.py": f"VERSION = {version!r}\n{body}",
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}\n")
    files[f"{stem}.dist-info/RECORD"] = "".join([*rows, f"{stem}.dist-info/RECORD,,\n"])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{stem}-{tag}.whl", out.getvalue()


def sha256(content: bytes) -> str:
    """Return the hash as a lock writes it."""
    return hashlib.sha256(content).hexdigest()


def offer_index(server: Server, wheels: dict[str, bytes], *, kind: str = "json", under: str = "/simple", wrap: Wrap = lambda answer: answer) -> str:
    """Have the server be a Simple API with these wheels (`json`, or `html` with hashes), and return its address."""
    projects: dict[str, list[str]] = {}
    for file, content in wheels.items():
        projects.setdefault(re.sub(r"[-_.]+", "-", file.partition("-")[0]).lower(), []).append(file)
        server.answers[f"{under}/files/{file}"] = wrap(whole(content))
    for project, files in projects.items():
        if kind == "json":
            rows = [{"filename": one, "url": f"../files/{one}", "hashes": {"sha256": sha256(wheels[one])}, "size": len(wheels[one])} for one in files]
            text = json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": rows})
            server.answers[f"{under}/{project}/"] = wrap(page(text, "application/vnd.pypi.simple.v1+json"))
        else:
            rows_html = "".join(f'<a href="../files/{one}#sha256={sha256(wheels[one])}">{one}</a><br>' for one in files)
            server.answers[f"{under}/{project}/"] = wrap(page(f"<!DOCTYPE html><html><body>{rows_html}</body></html>"))
    return f"{server.address}{under}"


def write_folder(folder: Path, wheels: dict[str, bytes]) -> Path:
    """Write wheels side by side into a folder (find-links)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in wheels.items():
        (folder / file).write_bytes(content)
    return folder

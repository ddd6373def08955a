"""Advisories of OSV: matched from its file, asked of a server, and never mistaken for "nothing" when there was no answer."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ReportBroken, ScanIncomplete
from stoker.image import advisories
from stoker.image.advisories import Package, ask_server, read_file


def python(name: str, version: str) -> Package:
    """A Python package to look up."""
    return Package(kind="pypi", name=name, version=version, ecosystem="PyPI", asked=name, asked_version=version.partition("+")[0])


def debian(name: str, version: str, source: str | None = None) -> Package:
    """A Debian package to look up."""
    return Package(kind="deb", name=name, version=version, ecosystem="Debian:13", asked=source or name, asked_version=version)


def record(identity: str, name: str, *events: dict[str, str], ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    """An advisory."""
    affected = {"package": {"name": name, "ecosystem": ecosystem}, "ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}
    return {"id": identity, "modified": "2026-11-01T00:00:00Z", "affected": [affected], **more}


def export(path: Path, *records: Any) -> Path:
    """OSV's file of an ecosystem."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, one in enumerate(records):
            archive.writestr(f"{number}.json", one if isinstance(one, (str, bytes)) else json.dumps(one))
    return path


def ids(found: advisories.Found) -> list[str]:
    """The names of what was found."""
    return [one.id for one in found.vulnerabilities]


FIXED_IN_2 = record("A", "jinja2", {"introduced": "0"}, {"fixed": "2.0"})


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], ["0.dev1", "1.0", "2.0rc1", "1.9.9+local"], ["2.0", "2.0.0", "2.0.post1", "3"]),
        ([{"introduced": "1.0"}, {"last_affected": "1.5"}], ["1.0", "1.5", "1.5.0"], ["0.9", "1.0rc1", "1.5.1", "1.5.post1"]),
        ([{"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.1"}], ["1.1", "2.0"], ["1.2", "1.9", "2.1"]),
        ([{"fixed": "2.1"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "1.0"}], ["1.1", "2.0"], ["1.2", "1.9", "2.1"]),
        ([{"introduced": "0"}], ["0.1", "99"], []),
        ([{"introduced": "1.0"}, {"limit": "2.0"}], ["1.5"], ["2.0", "2.5"]),
        ([{"introduced": "0"}, {"limit": "*"}], ["1.5"], []),
        ([], [], ["1.0"]),
    ],
)
def test_ranges(events, inside, outside, tmp_path):
    path = export(tmp_path / "all.zip", record("A", "jinja2", *events))
    for version in inside:
        assert ids(read_file(path, [python("jinja2", version)])) == ["A"], version
    for version in outside:
        assert ids(read_file(path, [python("jinja2", version)])) == [], version


def test_versions_by_name(tmp_path):
    named = {"id": "B", "modified": "2", "affected": [{"package": {"name": "Jinja_2", "ecosystem": "PyPI"}, "versions": ["1.0.0", "1.1"]}]}
    path = export(tmp_path / "all.zip", named)
    assert ids(read_file(path, [python("jinja-2", "1.0")])) == ["B"]
    assert ids(read_file(path, [python("jinja-2", "1.2")])) == []


def test_what_is_told(tmp_path):
    told = record(
        "GHSA-x",
        "jinja2",
        {"introduced": "0"},
        {"fixed": "2.11.3"},
        {"introduced": "3.0"},
        {"fixed": "3.1.4"},
        aliases=["CVE-2024-1"],
        summary="  two\nlines ",
        database_specific={"severity": "MODERATE"},
    )
    (found,) = read_file(export(tmp_path / "all.zip", told), [python("jinja2", "3.1.3")]).vulnerabilities
    assert (found.id, found.aliases, found.fixed, found.severity, found.summary) == ("GHSA-x", ("CVE-2024-1",), "3.1.4", "medium", "two lines")


def test_what_was_taken_back_and_what_is_another_packages_is_left_out(tmp_path):
    path = export(
        tmp_path / "all.zip",
        record("A", "jinja2", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
        record("B", "jinja2", {"introduced": "0"}, ecosystem="npm"),
        record("C", "jinja", {"introduced": "0"}),
        {"id": "D", "modified": "1", "affected": [{"package": {"name": "jinja2", "ecosystem": "PyPI"}, "ranges": [{"type": "GIT", "events": []}]}]},
    )
    found = read_file(path, [python("jinja2", "1.0")])
    assert ids(found) == []
    assert found.ecosystems == {"PyPI", "npm"}
    assert found.newest == "2026-11-01T00:00:00Z"


def test_debian_is_matched_by_source_and_release(tmp_path):
    path = export(
        tmp_path / "all.zip",
        record("DSA-1", "openssl", {"introduced": "0"}, {"fixed": "3.5.1-1+deb13u1"}, ecosystem="Debian:13", upstream=["CVE-1"]),
        record("DSA-2", "openssl", {"introduced": "0"}, {"fixed": "9"}, ecosystem="Debian:12"),
    )
    package = debian("libssl3t64", "3.5.1-1", "openssl")
    (found,) = read_file(path, [package]).vulnerabilities
    assert (found.package, found.id, found.aliases, found.fixed) == ("libssl3t64", "DSA-1", ("CVE-1",), "3.5.1-1+deb13u1")
    assert ids(read_file(path, [debian("libssl3t64", "3.5.1-1+deb13u1", "openssl")])) == []


def test_a_version_that_cannot_be_compared_is_said(tmp_path):
    path = export(tmp_path / "all.zip", record("A", "jinja2", {"introduced": "0"}, {"fixed": "2.0"}))
    assert read_file(path, [python("jinja2", "2004d")]).unjudged == ("jinja2 2004d: A",)
    path = export(tmp_path / "2.zip", record("A", "jinja2", {"introduced": "0"}, {"fixed": "2004d"}))
    assert read_file(path, [python("jinja2", "1.0")]).unjudged == ("jinja2 1.0: A",)


@pytest.mark.parametrize(
    "records",
    [(), ("no json",), ("[]",), ("{", FIXED_IN_2), (b"\xff\xfe",), ("[" * 100_000,)],
    ids=["empty", "text", "list", "half", "bytes", "deep"],
)
def test_a_file_that_cannot_be_read_in_full_is_refused(records, tmp_path):
    with pytest.raises(ReportBroken):
        read_file(export(tmp_path / "all.zip", *records), [python("jinja2", "1.0")])


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "all.zip").write_bytes(b"PK garbage")
    for path in (tmp_path / "all.zip", tmp_path / "missing.zip", tmp_path):
        with pytest.raises(ReportBroken):
            read_file(path, [])


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(advisories, "_MOST_RECORD_BYTES", 10_000)
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.json", "[" + " " * 50_000_000 + "]")
    with pytest.raises(ReportBroken, match="too large"):
        read_file(path, [])


# --- a server -------------------------------------------------------------------------------------------------------


class Server:
    """An OSV server that knows a few advisories, or misbehaves."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, list[str]] = {}
        self.pages = 1
        self.status = 200
        self.text: str | None = None
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(question)
                self.reply(json.dumps({"results": [outer.result(one) for one in question["queries"]]}))

            def do_GET(self) -> None:
                found = outer.known.get(self.path.rpartition("/")[2])
                self.reply(json.dumps(found or {}), 200 if found else 404)

            def reply(self, text: str, status: int = 200) -> None:
                data = (text if outer.text is None else outer.text).encode()
                self.send_response(outer.status if outer.status != 200 else status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def result(self, query: dict[str, Any]) -> dict[str, Any]:
        found = self.answers.get(f"{query['package']['name']} {query['version']}", [])
        page = int(query.get("page_token", 1))
        rows = [{"id": name} for number, name in enumerate(found) if number % self.pages == page - 1]
        return {**({"vulns": rows} if rows else {}), **({"next_page_token": str(page + 1)} if page < self.pages else {})}


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    monkeypatch.setenv("STOKER_OSV", server.address)
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.mark.parametrize("pages", [1, 2])
def test_a_server_is_asked(server, pages):
    server.pages = pages
    server.known = {name: {**FIXED_IN_2, "id": name, "summary": "text"} for name in ("GHSA-a", "GHSA-b")}
    server.answers = {"jinja2 1.0": ["GHSA-a", "GHSA-b"]}
    found = ask_server([python("jinja2", "1.0+cu126"), python("torch", "2.13.0")])
    assert ids(found) == ["GHSA-a", "GHSA-b"]
    assert [(one.version, one.fixed) for one in found.vulnerabilities] == [("1.0+cu126", "2.0")] * 2
    assert server.asked[0]["queries"][0] == {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "1.0"}


def test_many_packages_are_asked_in_parts(server, monkeypatch):
    monkeypatch.setattr(advisories, "_AT_ONCE", 2)
    ask_server([python(f"p{number}", "1") for number in range(5)])
    assert [len(question["queries"]) for question in server.asked] == [2, 2, 1]


def test_nothing_found_is_an_answer(server):
    assert ids(ask_server([python("jinja2", "3.0")])) == []


@pytest.mark.parametrize("status", [500, 403, 404])
def test_a_refusal_is_no_answer(server, status):
    server.status = status
    with pytest.raises(ScanIncomplete, match=str(status)):
        ask_server([python("jinja2", "3.0")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>please log in</html>",
        "[]",
        "{}",
        '{"results": []}',
        '{"results": [1]}',
        '{"results": [{"vulns": 1}]}',
        '{"results": [{"vulns": [{}]}]}',
    ],
)
def test_a_strange_answer_is_no_answer(server, text):
    server.text = text
    with pytest.raises(ScanIncomplete):
        ask_server([python("jinja2", "3.0")])


def test_pages_without_end_are_no_answer(server):
    server.pages = 10**9
    with pytest.raises(ScanIncomplete, match="no end"):
        ask_server([python("jinja2", "3.0")])


def test_an_advisory_that_cannot_be_read_is_no_answer(server):
    server.answers = {"jinja2 1.0": ["GHSA-a"]}
    with pytest.raises(ScanIncomplete, match="404"):
        ask_server([python("jinja2", "1.0")])


def test_a_name_that_would_lead_elsewhere_is_no_answer(server):
    server.answers = {"jinja2 1.0": ["../../etc/passwd"]}
    with pytest.raises(ScanIncomplete, match="name"):
        ask_server([python("jinja2", "1.0")])


def test_no_server_is_no_answer(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ScanIncomplete, match="could not be looked up"):
        ask_server([python("jinja2", "1.0")], address="http://127.0.0.1:9")

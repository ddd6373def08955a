"""Fetching into the store, against a server on this machine that makes every kind of trouble."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import CacheUnwritable, DiskFull, DownloadFailed, HashMismatch, PackageGone, StokerError
from stoker.image import download
from stoker.image.fetching import Wanted, fetch
from stoker.image.store import Store
from stoker.image.web import Web
from tests import image_server as servers
from tests.image_server import Server

CONTENT = random.Random(1).randbytes(3_000_000)
SHA = servers.sha256(CONTENT)


@pytest.fixture
def server() -> Iterator[Server]:
    with servers.serving() as one:
        yield one


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses; and no proxy of this machine between a test and its server."""
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0.01)
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def wanted(*addresses: str, file: str = "thing-1-py3-none-any.whl", sha256: str = SHA, size: int | None = len(CONTENT)) -> Wanted:
    return Wanted(file=file, sha256=sha256, size=size, addresses=addresses)


def fetched(store: Store, one: Wanted) -> bytes:
    return fetch([one], store)[one.sha256].read_bytes()


def refusal(store: Store, one: Wanted) -> StokerError:
    with pytest.raises(StokerError) as caught:
        fetch([one], store)
    assert store.file(one.sha256) is None, "a refused file must not be in the store"
    return caught.value


# --- what goes well -----------------------------------------------------------------------------------------------------


def test_a_file_comes_whole_and_is_not_asked_for_again(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.whole(CONTENT)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert server.paths() == ["/thing"]
    assert not list((store.folder / "partial").iterdir())


def test_the_progress_adds_up_from_the_calling_thread(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.breaking_off(CONTENT, 1_500_000, times=1, ranges=False)
    told: list[tuple[int, int]] = []
    fetch([wanted(f"{server.address}/thing")], store, advance=lambda count: told.append((count, threading.get_ident())))
    fetch([wanted(f"{server.address}/thing")], store, advance=lambda count: told.append((count, threading.get_ident())))
    assert sum(count for count, _ in told) == 2 * len(CONTENT), "bytes that were fetched twice count once, a file that is there counts, too"
    assert all(count >= 0 for count, _ in told)
    assert {thread for _, thread in told} == {threading.get_ident()}


def test_many_files_come_over_few_connections_and_the_same_one_once(server: Server, store: Store) -> None:
    contents = {f"/f{number}": bytes([number]) * 1000 for number in range(50)}
    server.answers.update({path: servers.whole(content) for path, content in contents.items()})
    ones = [wanted(server.address + path, sha256=servers.sha256(content), size=1000) for path, content in contents.items()]
    paths = fetch([*ones, *ones], store)
    assert {path.read_bytes() for path in paths.values()} == set(contents.values())
    assert sorted(server.paths()) == sorted(contents)


def test_a_size_that_is_not_known_before(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.whole(CONTENT)
    assert fetched(store, wanted(f"{server.address}/thing", size=None)) == CONTENT


def test_a_body_in_chunks(server: Server, store: Store) -> None:
    def answer(request: servers.Request) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for place in range(0, len(CONTENT), 70_000):
            part = CONTENT[place : place + 70_000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        request.wfile.write(b"0\r\n\r\n")

    server.answers["/thing"] = answer
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert fetched(Store(store.folder / "other"), wanted(f"{server.address}/thing", size=None)) == CONTENT


def test_an_empty_file(server: Server, store: Store) -> None:
    server.answers["/empty"] = servers.whole(b"")
    assert fetched(store, wanted(f"{server.address}/empty", sha256=servers.sha256(b""), size=0)) == b""


def test_files_of_this_machine(tmp_path: Path, store: Store) -> None:
    (tmp_path / "a thing.whl").write_bytes(CONTENT)
    assert fetched(store, wanted(str(tmp_path / "a thing.whl"))) == CONTENT
    assert fetched(Store(tmp_path / "2"), wanted((tmp_path / "a thing.whl").as_uri())) == CONTENT
    assert isinstance(refusal(Store(tmp_path / "3"), wanted(str(tmp_path / "none.whl"))), PackageGone)
    assert isinstance(refusal(Store(tmp_path / "4"), wanted(str(tmp_path))), DownloadFailed)


# --- what breaks off ----------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.breaking_off(CONTENT, 1_200_000, times=2)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert [one.headers.get("range") for one in server.asked] == [None, "bytes=1200000-", "bytes=2400000-"]


def test_a_server_without_ranges_starts_over(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.breaking_off(CONTENT, 1_200_000, times=2, ranges=False)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT


def test_a_server_that_never_gets_far_is_given_up(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.breaking_off(CONTENT, 0, times=100)
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert isinstance(error, DownloadFailed)
    assert "broke off after 0 bytes of 3,000,000" in error.message
    assert len(server.asked) == 5


def test_what_was_fetched_before_is_used(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.whole(CONTENT)
    store.partial(SHA).write_bytes(CONTENT[:1_000_000])
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert server.asked[0].headers["range"] == "bytes=1000000-"


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"more", b"x" * len(CONTENT), CONTENT[:-1] + b"x"], ids=["wrong", "long", "whole", "end"])
@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["size", "none"])
def test_a_wrong_beginning_is_thrown_away(server: Server, store: Store, left: bytes, size: int | None) -> None:
    server.answers["/thing"] = servers.whole(CONTENT)
    store.partial(SHA).write_bytes(left)
    assert fetched(store, wanted(f"{server.address}/thing", size=size)) == CONTENT


def test_a_beginning_that_is_the_whole_needs_no_server(store: Store) -> None:
    store.partial(SHA).write_bytes(CONTENT)
    assert fetched(store, wanted("http://127.0.0.1:9/thing")) == CONTENT


def test_another_part_than_the_one_asked_for(server: Server, store: Store) -> None:
    def answer(request: servers.Request) -> None:
        if request.start():
            request.say(206, CONTENT[5:], Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            request.say(200, CONTENT)

    server.answers["/thing"] = answer
    store.partial(SHA).write_bytes(CONTENT[:1000])
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT


def test_a_file_that_changes_between_two_answers(server: Server, store: Store) -> None:
    other = random.Random(2).randbytes(len(CONTENT))
    answers = [servers.breaking_off(other, 1_500_000, times=1), servers.whole(CONTENT), servers.whole(CONTENT)]
    server.answers["/thing"] = lambda request: answers.pop(0)(request)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT


def test_a_slow_trickle_is_given_up(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_WATCHED_S", 0.2)
    monkeypatch.setattr(download, "_STEP_S", 0.05)
    monkeypatch.setattr(download, "_ATTEMPTS", 2)
    server.answers["/thing"] = servers.trickling(CONTENT, 2, 0.02)
    started = time.monotonic()
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert isinstance(error, DownloadFailed)
    assert "came in" in error.message
    assert time.monotonic() - started < 5
    assert 0 < store.partial(SHA).stat().st_size < 1000, "what came is kept"


def test_a_server_that_says_nothing(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    server.answers["/thing"] = lambda request: time.sleep(3)
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert "no answer in time" in error.message


# --- what is no good ----------------------------------------------------------------------------------------------------


def test_a_file_published_again_under_the_same_name(server: Server, store: Store) -> None:
    other = random.Random(2).randbytes(len(CONTENT))
    server.answers["/thing"] = servers.whole(other)
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert isinstance(error, HashMismatch)
    assert SHA in error.message
    assert servers.sha256(other) in error.message
    assert "thing-1-py3-none-any.whl" in error.message
    server.answers["/thing"] = servers.whole(CONTENT)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT, "nothing of the wrong one was kept"


@pytest.mark.parametrize("other", [CONTENT[:-1], CONTENT + b"x"], ids=["shorter", "longer"])
def test_another_length_is_refused_before_it_is_fetched(server: Server, store: Store, other: bytes) -> None:
    server.answers["/thing"] = servers.whole(other)
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert isinstance(error, HashMismatch)
    assert f"{len(other):,} bytes" in error.message


def test_a_body_that_does_not_end(server: Server, store: Store) -> None:
    def answer(request: servers.Request) -> None:
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        while True:
            request.wfile.write(CONTENT)

    server.answers["/thing"] = answer
    assert isinstance(refusal(store, wanted(f"{server.address}/thing")), HashMismatch)


def test_a_page_instead_of_a_wheel(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.page("<html>Please log in</html>")
    error = refusal(store, wanted(f"{server.address}/thing", size=None))
    assert isinstance(error, DownloadFailed)
    assert "a page (text/html)" in error.message


def test_a_proxy_that_packs(server: Server, store: Store) -> None:
    server.answers["/thing"] = lambda request: request.say(200, CONTENT, Content_Encoding="gzip")
    assert "packed it (gzip)" in refusal(store, wanted(f"{server.address}/thing")).message


@pytest.mark.parametrize(
    ("code", "kind", "asked"),
    [
        (404, PackageGone, 1),
        (410, PackageGone, 1),
        (403, DownloadFailed, 1),
        (401, DownloadFailed, 1),
        (500, DownloadFailed, 5),
        (503, DownloadFailed, 5),
    ],
)
def test_a_status(server: Server, store: Store, code: int, kind: type[StokerError], asked: int) -> None:
    server.answers["/thing"] = servers.status(code)
    error = refusal(store, wanted(f"{server.address}/thing"))
    assert type(error) is kind
    assert kind is PackageGone or f"status {code}" in error.message
    assert len(server.asked) == asked


def test_a_server_that_recovers(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.first([500, 503, 429, 502], servers.whole(CONTENT))
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT


def test_a_server_that_asks_to_wait(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.first([429], servers.whole(CONTENT), Retry_After="1")
    started = time.monotonic()
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("bad", [servers.status(404), servers.status(403), servers.whole(CONTENT[::-1]), servers.page("<html>login</html>")])
def test_the_next_address_is_tried(server: Server, store: Store, bad: servers.Answer) -> None:
    server.answers.update({"/bad": bad, "/good": servers.whole(CONTENT)})
    assert fetched(store, wanted(f"{server.address}/bad", f"{server.address}/good")) == CONTENT


def test_the_weightiest_refusal_is_told(server: Server, store: Store) -> None:
    server.answers.update({"/other": servers.whole(CONTENT[::-1])})
    assert isinstance(refusal(store, wanted(f"{server.address}/none", f"{server.address}/other")), HashMismatch)


def test_nobody_listens(store: Store) -> None:
    error = refusal(store, wanted("http://127.0.0.1:9/thing"))
    assert isinstance(error, DownloadFailed)
    assert "127.0.0.1:9" in error.message
    assert "refused" in error.message


def test_no_address_at_all(store: Store) -> None:
    assert isinstance(refusal(store, wanted()), PackageGone)


# --- redirects, logins, proxies -----------------------------------------------------------------------------------------


def test_redirects_are_followed_and_loops_are_not(server: Server, store: Store) -> None:
    server.answers.update({"/a": servers.redirect("b"), "/b": servers.redirect(f"{server.address}/c"), "/c": servers.whole(CONTENT)})
    assert fetched(store, wanted(f"{server.address}/a")) == CONTENT
    server.answers["/loop"] = servers.redirect("/loop")
    assert "redirected" in refusal(Store(store.folder / "2"), wanted(f"{server.address}/loop")).message


def test_a_redirect_to_a_file_of_this_machine_is_refused(server: Server, store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    server.answers["/a"] = servers.redirect((tmp_path / "secret").as_uri())
    assert isinstance(refusal(store, wanted(f"{server.address}/a")), DownloadFailed)


def test_a_login_is_sent_and_never_shown(server: Server, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["/thing"] = servers.with_login("anna", "s3cret", servers.whole(CONTENT))
    with_login = server.address.replace("://", "://anna:s3cret@")
    assert fetched(store, wanted(f"{with_login}/thing")) == CONTENT
    for code in (403, 404, 500):
        server.answers[f"/{code}"] = servers.status(code)
        error = refusal(Store(store.folder / str(code)), wanted(f"{with_login}/{code}"))
        assert "s3cret" not in error.message + error.hint + repr(error.__cause__)
    assert "s3cret" not in "".join(capsys.readouterr())
    records = b"".join(path.read_bytes() for path in store.folder.rglob("*.json"))
    assert b"s3cret" not in records


def test_a_login_stays_with_its_host(server: Server, store: Store) -> None:
    with servers.serving() as other:
        other.answers["/thing"] = servers.whole(CONTENT)
        server.answers["/thing"] = servers.redirect(f"{other.address}/thing")
        assert fetched(store, wanted(server.address.replace("://", "://anna:s3cret@") + "/thing")) == CONTENT
        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers


def test_a_login_of_the_index_serves_its_files(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.with_login("anna", "s3cret", servers.whole(CONTENT))
    web = Web(os.environ, {server.address: ("anna", "s3cret")})
    assert fetch([wanted(f"{server.address}/thing")], store, web=web)


def test_a_login_of_netrc(server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password s3cret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answers["/thing"] = servers.with_login("anna", "s3cret", servers.whole(CONTENT))
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT


def test_a_proxy_is_used_with_its_login_and_where_it_should_not_it_is_not(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serving() as proxy:
        proxy.answers["http://files.invalid/thing"] = servers.whole(CONTENT)
        monkeypatch.setenv("http_proxy", proxy.address.replace("://", "://bob:pw@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetched(store, wanted("http://files.invalid/thing")) == CONTENT
        assert proxy.asked[0].headers["proxy-authorization"].startswith("Basic ")
        assert proxy.asked[0].headers["host"] == "files.invalid"
        server.answers["/thing"] = servers.whole(CONTENT)
        assert fetched(Store(store.folder / "2"), wanted(f"{server.address}/thing")) == CONTENT
        assert len(proxy.asked) == 1


def test_a_proxy_that_refuses_the_tunnel(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serving() as proxy:
        monkeypatch.setenv("https_proxy", proxy.address.replace("://", "://bob:pw@"))
        monkeypatch.setattr(download, "_ATTEMPTS", 1)
        proxy.answers["files.invalid:443"] = servers.status(407)
        error = refusal(store, wanted("https://files.invalid/thing"))
        assert "407" in error.message
        assert "pw" not in error.message.replace("://", "")


# --- the machine --------------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_anything_is_fetched(server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.image.fetching.free_bytes", lambda folder: 1000)
    assert isinstance(refusal(store, wanted(f"{server.address}/thing")), DiskFull)
    assert not server.asked


def test_a_cache_that_is_no_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnwritable):
        fetch([wanted(f"{server.address}/thing")], Store(tmp_path / "file" / "store"))


FETCHER = """
import sys
from pathlib import Path
from stoker.errors import StokerError
from stoker.image.fetching import Wanted, fetch
from stoker.image.store import Store
address, sha, size, folder = sys.argv[1:]
try:
    print(fetch([Wanted(file="thing", sha256=sha, size=int(size), addresses=(address,))], Store(Path(folder)))[sha])
except KeyboardInterrupt:
    sys.exit(130)
"""


def fetcher(server: Server, store: Store) -> subprocess.Popen[bytes]:
    arguments = [f"{server.address}/thing", SHA, str(len(CONTENT)), str(store.folder)]
    return subprocess.Popen([sys.executable, "-c", FETCHER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_partial(store: Store, size: int) -> None:
    deadline = time.monotonic() + 20
    partial = store.partial(SHA)
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size >= size):
        time.sleep(0.02)
    assert partial.stat().st_size >= size


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_fetch_goes_on_where_it_was(server: Server, store: Store, signal_number: signal.Signals) -> None:
    server.answers["/thing"] = servers.trickling(CONTENT, 100_000, 0.3)
    process = fetcher(server, store)
    wait_for_partial(store, 200_000)
    process.send_signal(signal_number)
    started = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal_number)
    assert store.file(SHA) is None
    before = store.partial(SHA).stat().st_size
    server.answers["/thing"] = servers.whole(CONTENT)
    assert fetched(store, wanted(f"{server.address}/thing")) == CONTENT
    assert server.asked[-1].headers["range"] == f"bytes={before}-"


def test_two_processes_fetch_a_file_once(server: Server, store: Store) -> None:
    server.answers["/thing"] = servers.trickling(CONTENT, 300_000, 0.05)
    processes = [fetcher(server, store) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1
    assert server.paths() == ["/thing"]
    assert store.file(SHA)


def test_one_bad_file_ends_the_others_and_keeps_what_they_have(server: Server, store: Store) -> None:
    server.answers.update({"/thing": servers.trickling(CONTENT, 100_000, 0.2), "/bad": servers.status(404)})
    bad = wanted(f"{server.address}/bad", sha256="0" * 64, size=10)
    started = time.monotonic()
    with pytest.raises(PackageGone):
        fetch([wanted(f"{server.address}/thing"), bad], store)
    assert time.monotonic() - started < 3
    assert not [thread for thread in threading.enumerate() if thread.name == "stoker-fetch"]
    assert store.partial(SHA).stat().st_size < len(CONTENT)

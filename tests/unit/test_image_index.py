"""Where the files of a lock lie: pages of indexes in every form, mirrors, folders; and what is said when they are gone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import DownloadFailed, HashMismatch, PackageGone, StokerError
from stoker.image.fetching import fetch_wheels
from stoker.image.index import Index, find_files, find_indexes, login_table
from stoker.image.lock import Wheel
from stoker.image.pages import flat_offers, project_offers, read_page
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.image.web import Web, masked
from tests import image_server as servers
from tests.image_server import Server, sha256, tiny_wheel

WHEELS = dict([tiny_wheel("alpha", "1.0"), tiny_wheel("alpha", "2.0"), tiny_wheel("beta-two", "1.0")])
ALPHA = "alpha-1.0-py3-none-any.whl"


@pytest.fixture
def server() -> Iterator[Server]:
    with servers.serving() as one:
        yield one


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine, and no uv."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr("stoker.image.pages.time.sleep", lambda seconds: None)
    monkeypatch.setattr("stoker.image.fetching.find_uv", _no_uv)


def _no_uv(environ: object) -> None:
    raise DownloadFailed("no uv", hint="")


def wheel(file: str = ALPHA, *, content: bytes | None = None, index: str | None = None) -> Wheel:
    content = WHEELS[file] if content is None else content
    name, version = file.split("-")[:2]
    return Wheel(name=name.replace("_", "-"), version=version, file=file, sha256=sha256(content), size=len(content), index=index, variants=("cli",))


def found(wheels: list[Wheel], *addresses: str, flat: bool = False) -> dict[str, list[str]]:
    offers = find_files(wheels, [Index(address=address, flat=flat) for address in addresses], Web(os.environ))
    return {one.file: [offer.address for offer in offers[one.sha256]] for one in wheels}


def refusal(wheels: list[Wheel], *indexes: Index) -> StokerError:
    with pytest.raises(StokerError) as caught:
        find_files(wheels, indexes, Web(os.environ))
    return caught.value


@pytest.mark.parametrize("kind", ["json", "html"])
def test_an_index_is_asked_once_for_each_project(server: Server, kind: str) -> None:
    address = servers.offer_index(server, WHEELS, kind=kind)
    wheels = [wheel(file) for file in WHEELS]
    assert found(wheels, address) == {file: [f"{address}/files/{file}"] for file in WHEELS}
    assert sorted(server.paths()) == ["/simple/alpha/", "/simple/beta-two/"]
    assert server.asked[0].headers["accept-encoding"] == "gzip"


def test_a_slash_at_the_end_of_an_address(server: Server) -> None:
    address = servers.offer_index(server, WHEELS)
    assert found([wheel()], f"{address}/") == found([wheel()], address)


def test_the_next_index_is_asked_for_what_is_missing_only(server: Server) -> None:
    one = servers.offer_index(server, {ALPHA: WHEELS[ALPHA]}, under="/one")
    two = servers.offer_index(server, WHEELS, under="/two")
    other = "beta_two-1.0-py3-none-any.whl"
    assert found([wheel(), wheel(other)], one, two) == {ALPHA: [f"{one}/files/{ALPHA}"], other: [f"{two}/files/{other}"]}
    assert sorted(server.paths()) == ["/one/alpha/", "/one/beta-two/", "/two/beta-two/"]


def test_the_locked_bytes_at_another_index_win_over_other_bytes_at_the_first(server: Server) -> None:
    one = servers.offer_index(server, {ALPHA: b"republished"}, under="/one")
    two = servers.offer_index(server, WHEELS, under="/two")
    assert found([wheel()], one, two) == {ALPHA: [f"{two}/files/{ALPHA}"]}


def test_a_wheel_published_again(server: Server) -> None:
    address = servers.offer_index(server, {ALPHA: b"republished"})
    error = refusal([wheel()], Index(address=address))
    assert isinstance(error, HashMismatch)
    assert sha256(b"republished") in error.message
    assert sha256(WHEELS[ALPHA]) in error.message
    assert "127.0.0.1" in error.message


def test_a_wheel_published_again_where_the_index_tells_only_sizes(server: Server) -> None:
    server.answers["/simple/alpha/"] = servers.page(
        json.dumps({"files": [{"filename": ALPHA, "url": "x", "hashes": {}, "size": 3}]}), "application/vnd.pypi.simple.v1+json"
    )
    error = refusal([wheel()], Index(address=f"{server.address}/simple"))
    assert isinstance(error, HashMismatch)
    assert "3 bytes" in error.message


def test_a_wheel_that_is_gone(server: Server) -> None:
    address = servers.offer_index(server, {"alpha-2.0-py3-none-any.whl": b"x"})
    error = refusal([wheel(), wheel("beta_two-1.0-py3-none-any.whl")], Index(address=address))
    assert isinstance(error, PackageGone)
    assert ALPHA in error.message
    assert "beta_two" in error.message
    assert "127.0.0.1" in error.message


def test_gone_is_not_said_when_an_index_did_not_answer(server: Server) -> None:
    address = servers.offer_index(server, {})
    error = refusal([wheel()], Index(address=address), Index(address="http://127.0.0.1:9/simple"))
    assert isinstance(error, DownloadFailed)
    assert "not every index answered" in error.message
    assert "127.0.0.1:9" in error.message


def test_an_index_that_does_not_answer_is_passed_over_when_another_has_it(server: Server) -> None:
    address = servers.offer_index(server, WHEELS)
    assert found([wheel()], "http://127.0.0.1:9/simple", address)


@pytest.mark.parametrize("code", [401, 403, 500])
def test_an_index_that_refuses(server: Server, code: int) -> None:
    server.answers["/simple/alpha/"] = servers.status(code)
    error = refusal([wheel()], Index(address=f"{server.address}/simple"))
    assert isinstance(error, DownloadFailed)
    assert f"status {code}" in error.message


def test_an_index_that_recovers(server: Server) -> None:
    address = servers.offer_index(server, WHEELS)
    server.answers["/simple/alpha/"] = servers.first([500, 502], server.answers["/simple/alpha/"])
    assert found([wheel()], address)


@pytest.mark.parametrize("body", ["{", "[]", '{"files": [{}]}', '{"files": 3}', "\x00\xff"])
def test_json_that_is_none(server: Server, body: str) -> None:
    server.answers["/simple/alpha/"] = servers.page(body, "application/vnd.pypi.simple.v1+json")
    assert isinstance(refusal([wheel()], Index(address=f"{server.address}/simple")), DownloadFailed)


def test_packed_nonsense(server: Server) -> None:
    server.answers["/simple/alpha/"] = lambda request: request.say(200, b"\x1f\x8bnonsense", Content_Encoding="gzip")
    assert isinstance(refusal([wheel()], Index(address=f"{server.address}/simple")), DownloadFailed)


def test_a_page_of_links_as_people_write_them() -> None:
    page = b"""<html><head><base href="/pool/"></head><body>
        <a href="a-1-py3-none-any.whl#sha256=%b">a</a> <A HREF='../b%%2Bc-1-py3-none-any.whl?x=1#md5=1'>b</a> <a>none</a> <a href="c.tar.gz">c</a>
        <a href="https://other.invalid/d-1-py3-none-any.whl" data-yanked="">d</a>""" % (b"a" * 64)
    offers = read_page(page, "text/html", "http://here.invalid/links.html")
    assert [(one.file, one.address, one.sha256) for one in offers] == [
        ("a-1-py3-none-any.whl", "http://here.invalid/pool/a-1-py3-none-any.whl", "a" * 64),
        ("b+c-1-py3-none-any.whl", "http://here.invalid/b%2Bc-1-py3-none-any.whl?x=1", None),
        ("d-1-py3-none-any.whl", "https://other.invalid/d-1-py3-none-any.whl", None),
    ]


# --- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_wheels(tmp_path: Path) -> None:
    folder = servers.write_folder(tmp_path / "my wheels", WHEELS)
    assert {one.file for one in flat_offers(folder.as_uri(), Web(os.environ))} == set(WHEELS)
    store = Store(tmp_path / "store")
    paths = fetch_wheels([wheel(file) for file in WHEELS], store, mirrors=Mirrors(pypi=str(folder)), environ=os.environ)
    assert {path.read_bytes() for path in paths.values()} == set(WHEELS.values())
    with pytest.raises(HashMismatch):
        fetch_wheels([wheel(content=bytes(len(WHEELS[ALPHA])))], store, mirrors=Mirrors(pypi=str(folder)), environ=os.environ)


def test_an_index_in_a_folder(tmp_path: Path) -> None:
    servers.write_folder(tmp_path / "files", WHEELS)
    (tmp_path / "simple/alpha").mkdir(parents=True)
    (tmp_path / "simple/alpha/index.html").write_text(f'<a href="../../files/{ALPHA}#sha256={sha256(WHEELS[ALPHA])}">x</a>')
    servers.write_folder(tmp_path / "simple/beta-two", WHEELS)
    web, address = Web(os.environ), (tmp_path / "simple").as_uri()
    assert [one.file for one in project_offers(address, "alpha", web)] == [ALPHA]
    assert {one.file for one in project_offers(address, "beta-two", web)} == set(WHEELS), "a folder without a page is a list of files"
    assert project_offers(address, "gamma", web) == []
    store = Store(tmp_path / "store")
    assert fetch_wheels([wheel()], store, mirrors=Mirrors(pypi=address), environ=os.environ)


def test_a_mirror_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StokerError):
        fetch_wheels([wheel()], Store(tmp_path / "store"), mirrors=Mirrors(pypi=str(tmp_path / "none")), environ=os.environ)


# --- which indexes ------------------------------------------------------------------------------------------------------


def test_the_mirror_of_the_specification_is_asked_and_nothing_else() -> None:
    environ = {"UV_DEFAULT_INDEX": "http://uv.invalid/simple", "PIP_EXTRA_INDEX_URL": "http://pip.invalid/simple"}
    indexes = find_indexes(Mirrors(pypi="http://mine.invalid/simple", torch="http://mine.invalid/whl/"), environ, None, names=["cu126"])
    assert indexes == (Index(address="http://mine.invalid/whl/cu126", name="cu126"), Index(address="http://mine.invalid/simple"))


def test_without_uv_the_variables_and_pip_are_read() -> None:
    environ = {
        "UV_DEFAULT_INDEX": "main=http://uv.invalid/simple",
        "UV_INDEX": "a=http://a.invalid/simple http://b.invalid/simple",
        "UV_FIND_LINKS": "/srv/wheels",
        "PIP_EXTRA_INDEX_URL": "http://pip.invalid/simple",
        "PIP_FIND_LINKS": "/opt/more",
        "PIP_CONFIG_FILE": os.devnull,
    }
    assert [(one.address, one.flat) for one in find_indexes(Mirrors(), environ, None)] == [
        ("http://uv.invalid/simple", False),
        ("http://a.invalid/simple", False),
        ("http://b.invalid/simple", False),
        ("file:///srv/wheels", True),
        ("http://pip.invalid/simple", False),
        ("file:///opt/more", True),
    ]
    assert (
        find_indexes(Mirrors(), {"PIP_INDEX_URL": "http://pip.invalid/simple", "PIP_CONFIG_FILE": os.devnull}, None)[0].address
        == "http://pip.invalid/simple"
    )


def test_an_index_of_torch_is_asked_for_its_own_wheels_only(server: Server) -> None:
    own = servers.offer_index(server, {ALPHA: WHEELS[ALPHA]}, under="/whl/cu126")
    default = servers.offer_index(server, WHEELS)
    other = "beta_two-1.0-py3-none-any.whl"
    indexes = [Index(address=own, name="cu126"), Index(address=default)]
    offers = find_files([wheel(index="cu126"), wheel(other)], indexes, Web(os.environ))
    assert offers[sha256(WHEELS[ALPHA])][0].address.startswith(own)
    assert "/whl/cu126/beta-two/" not in server.paths()


def test_an_index_of_torch_that_only_uv_knows_says_so_without_uv() -> None:
    error = refusal([wheel(index="cu126")], Index(address="", name="cu126"))
    assert isinstance(error, DownloadFailed)
    assert "cu126" in error.message
    assert "mirrors.torch" in error.message


# --- logins -------------------------------------------------------------------------------------------------------------


def test_the_login_of_an_index_fetches_its_files_and_is_never_shown(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = servers.offer_index(server, WHEELS, wrap=lambda answer: servers.with_login("anna", "s3cret", answer))
    secret = address.replace("://", "://anna:s3cret@")
    store = Store(tmp_path / "store")
    assert fetch_wheels([wheel()], store, mirrors=Mirrors(pypi=secret), environ=os.environ)
    wrong = address.replace("://", "://anna:wr0ng@")
    with pytest.raises(DownloadFailed) as caught:
        fetch_wheels([wheel("alpha-2.0-py3-none-any.whl")], store, mirrors=Mirrors(pypi=wrong), environ=os.environ)
    said = caught.value.message + caught.value.hint + "".join(capsys.readouterr())
    assert "wants a login" in said
    assert "wr0ng" not in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h/x", "http://***@h/x"),
        ("https://tok3n@h:8/x y http://u:p%40@k", "https://***@h:8/x y http://***@k"),
        ("https://h/x?X-Signature=abc&t=1 failed", "https://h/x failed"),
        ("(https://h/x?sig=1)", "(https://h/x)"),
        ("https://u:p@ss@h/x", "https://***@h/x"),
        ("file:///a@b/c", "file:///a@b/c"),
        ("me@example and http://h/a@b", "me@example and http://h/a@b"),
    ],
)
def test_what_is_shown_of_an_address(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_the_logins_of_indexes() -> None:
    environ = {"UV_INDEX": "my-own=https://named/x other=https://other/x", "UV_INDEX_MY_OWN_USERNAME": "anna", "UV_INDEX_MY_OWN_PASSWORD": "a/b@c"}
    indexes = [Index(address="https://u:p%40@H:8/x"), Index(address="https://k/x"), Index(address="")]
    assert login_table(indexes, environ) == {"https://h:8": ("u", "p@"), "https://named": ("anna", "a/b@c")}


def test_a_login_for_https_is_not_sent_over_plain_http(server: Server) -> None:
    server.answers["/thing"] = servers.status(404)
    host = server.address.removeprefix("http://")
    for scheme, sent in (("https", False), ("http", True)):
        with Web(os.environ, {f"{scheme}://{host}": ("anna", "s3cret")}).open(f"{server.address}/thing"):
            pass
        assert ("authorization" in server.asked[-1].headers) is sent

"""A notebook is found, asked and opened only when it is the one that was started."""

from __future__ import annotations

import http.server
import shutil
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import BadValue, LaunchUnfit, MountRefused, NotReady
from stoker.launch import notebook, own_certificate
from stoker.launch.containers import Container
from stoker.launch.ending import Ending
from stoker.launch.gpus import NONE
from stoker.launch.own_certificate import read_own
from stoker.launch.request import Account, Limits, Port, Request
from stoker.launch.session import Session
from stoker.launch.up import Up
from stoker.launch.waiting import wait_for
from stoker.start import certificate
from tests.conftest import need

TOKEN = "a-token_of.enough+letters"


@dataclass
class Keeper:
    """An engine that tells what the test says."""

    told: Container | None
    log: str = ""
    inside: tuple[str, ...] = ("false",)
    name: str = "podman"
    calls: list[str] = field(default_factory=list)

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        return (self.told,) if self.told else ()

    def log_text(self, container: Container, *, lines: int | None) -> str:
        self.calls.append("log")
        return self.log

    def exec_session(self, container: Container, words: Sequence[str], **_: Any) -> Session:
        self.calls.append("exec")
        return Session(words=self.inside)

    def ending(self, container: Container) -> Ending:
        return Ending(code=container.exit_code, log_tail=self.log)


@dataclass
class Server:
    """Something that answers with TLS."""

    port: int
    asked: list[tuple[str, str | None]]
    status: dict[str, int]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    need(shutil.which("openssl") is not None, "openssl")
    folder = tmp_path / "home/.stoker/notebook"
    folder.mkdir(parents=True)
    (folder / "token").write_text(TOKEN)
    certificate._make(folder / "tls.pem", ("localhost", "127.0.0.1"))
    return tmp_path / "home"


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    servers = []

    def started(pem: Path) -> Server:
        asked: list[tuple[str, str | None]] = []
        status = {"now": 200}

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers["Authorization"]))
                right = self.headers["Authorization"] == f"token {TOKEN}"
                self.send_response(status["now"] if right else 403)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Server(port=server.server_address[1], asked=asked, status=status)

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def up(home: Path | None, port: int, *, started: bool = True, **others: Any) -> Up:
    container = Container(
        id="1234",
        name="cnn-notebook",
        engine="podman",
        container="stoker-cnn-notebook",
        kind="notebook",
        image="i",
        state="running",
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(Port(host=port, inside=8888),),
        project=None,
        home=home,
        grace_s=10,
        gpus="none",
        command=(),
        labels={},
    )
    keeper = Keeper(told=container, **others)
    return Up(container=container, keeper=keeper, started=started)  # type: ignore[arg-type]


def test_the_address_opens_what_answers_to_the_token(home: Path, serve: Callable[[Path], Server]) -> None:
    server = serve(home / ".stoker/notebook/tls.pem")
    running = up(home, server.port)
    found = notebook.wait(running, None)
    assert found.address == f"https://127.0.0.1:{server.port}/lab?token=a-token_of.enough%2Bletters"
    assert server.asked == [("/api/status", f"token {TOKEN}")]
    told = subprocess.run(
        ["openssl", "x509", "-in", home / ".stoker/notebook/tls.pem", "-noout", "-fingerprint", "-sha256"], capture_output=True, text=True
    ).stdout
    assert found.fingerprint in told
    assert TOKEN not in repr(found)


def test_a_certificate_that_is_not_its_own_never_gets_the_token(
    home: Path, serve: Callable[[Path], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "_STRANGE_S", 0.2)
    certificate._make(tmp_path / "other.pem", ("localhost", "127.0.0.1"))
    server = serve(tmp_path / "other.pem")
    with pytest.raises(NotReady, match="not its own"):
        notebook.wait(up(home, server.port), None)
    assert server.asked == []


def test_a_certificate_that_was_mounted_is_found_inside(home: Path, serve: Callable[[Path], Server], tmp_path: Path) -> None:
    certificate._make(tmp_path / "mounted.pem", ("localhost", "127.0.0.1"))
    server = serve(tmp_path / "mounted.pem")
    running = up(home, server.port, started=False, inside=("cat", str(tmp_path / "mounted.pem")))
    assert notebook.wait(running, None).token == TOKEN


def test_it_waits_for_token_port_and_answer(home: Path, serve: Callable[[Path], Server]) -> None:
    server = serve(home / ".stoker/notebook/tls.pem")
    server.status["now"] = 503
    (home / ".stoker/notebook/token").rename(home / "later")

    def go_on() -> None:
        time.sleep(0.3)
        (home / "later").rename(home / ".stoker/notebook/token")
        time.sleep(0.3)
        server.status["now"] = 200

    threading.Thread(target=go_on).start()
    assert notebook.wait(up(home, server.port), None).token == TOKEN
    assert len(server.asked) > 1


def test_a_notebook_with_another_token_is_one_error(home: Path, serve: Callable[[Path], Server]) -> None:
    server = serve(home / ".stoker/notebook/tls.pem")
    (home / ".stoker/notebook/token").write_text("another-token-of-length")
    with pytest.raises(NotReady, match="refuses the token"):
        notebook.wait(up(home, server.port), None)


def test_without_a_home_there_is_no_token_here() -> None:
    with pytest.raises(NotReady, match="without a home"):
        notebook.wait(up(None, 1), None)


def test_one_that_died_says_why_with_its_last_lines(home: Path) -> None:
    dead = up(home, 1, log="error: this image has no JupyterLab  [service-unfit]\n")
    assert isinstance(dead.keeper, Keeper)
    dead.keeper.told = replace(dead.container, state="exited", exit_code=55)
    with pytest.raises(NotReady, match="no JupyterLab"):
        wait_for(dead, lambda: None)
    dead.keeper.told = None
    with pytest.raises(NotReady, match="removed while it started"):
        wait_for(dead, lambda: None)


def test_one_that_never_answers_is_said_when_time_is_up(home: Path) -> None:
    with pytest.raises(NotReady, match=r"did not answer within 0\.2 s\nstill reading"):
        wait_for(up(home, 1, log="still reading\n"), lambda: None, patience_s=0.2)


def test_who_stops_waiting_is_told_that_it_goes_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for(up(home, 1), interrupted)
    assert "cnn-notebook goes on starting" in capsys.readouterr().err


def test_one_without_a_port_cannot_be_asked(home: Path) -> None:
    running = up(home, 1)
    without = replace(running, container=replace(running.container, ports=()))
    with pytest.raises(LaunchUnfit, match="publishes no port"):
        notebook.wait(without, None)


def test_the_browser_is_given_a_file_and_not_the_token(home: Path, serve: Callable[[Path], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    found = notebook.wait(up(home, serve(home / ".stoker/notebook/tls.pem").port), None)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert notebook.open_page(found) is True
    (address,) = opened
    assert address.startswith("file:///")
    assert "token" not in address
    page = Path(address.removeprefix("file://"))
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert f'url={found.address}"' in page.read_text()


# --- a certificate of the person's own -------------------------------------------------------------------------------


def own(folder: Path, names: str, *more: str) -> tuple[Path, Path]:
    need(shutil.which("openssl") is not None, "openssl")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x", "-addext", f"subjectAltName={names}"]
    files = ["-keyout", folder / "own.key", "-out", folder / "own.crt"]
    subprocess.run(["openssl", "req", "-x509", "-days", "30", *curve, *files, *(more or ("-nodes",))], check=True, capture_output=True)
    return folder / "own.crt", folder / "own.key"


REQUEST = Request(
    name="n",
    kind="notebook",
    image="i",
    command=("notebook",),
    project=None,
    home=None,
    gpus=NONE,
    limits=Limits(memory_bytes=None, cpus=None, shm_bytes=None, pids=None),
    account=Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=0, host_gid=0),
)


def test_a_certificate_of_ones_own_is_mounted_and_its_names_answered_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.launch.reach.names", lambda address: ("vm", "10.1.2.3") if address == "0.0.0.0" else ())
    given = read_own(*own(tmp_path, "DNS:gpu1.example.org,DNS:*.example.org,IP:192.0.2.7"))
    assert given.names == ("gpu1.example.org", "192.0.2.7")
    status = given.key.stat()
    mine = replace(REQUEST, account=replace(REQUEST.account, host_uid=status.st_uid), ports=(Port(host=1, inside=8888, address="0.0.0.0"),))
    done = notebook.complete(mine, given)
    assert [(mount.source, mount.target, mount.writable) for mount in done.mounts] == [
        (tmp_path / "own.crt", "/run/stoker/tls.crt", False),
        (tmp_path / "own.key", "/run/stoker/tls.key", False),
    ]
    assert dict(done.fixed)["STOKER_NAMES"] == "gpu1.example.org 192.0.2.7 vm 10.1.2.3"
    assert notebook._host("0.0.0.0", given) == "gpu1.example.org"
    assert notebook._host("127.0.0.1", given) == "127.0.0.1"
    assert notebook.complete(replace(mine, ports=(Port(host=1, inside=8888),)), None).fixed == ()


def test_a_certificate_of_ones_own_is_the_one_that_counts(home: Path, serve: Callable[[Path], Server], tmp_path: Path) -> None:
    crt, key = own(tmp_path, "DNS:gpu1.example.org")
    (tmp_path / "both.pem").write_bytes(key.read_bytes() + crt.read_bytes())
    server = serve(tmp_path / "both.pem")
    assert notebook.wait(up(home, server.port), read_own(crt, key)).token == TOKEN


def test_a_certificate_that_cannot_serve_is_refused_before_the_start(tmp_path: Path) -> None:
    crt, key = own(tmp_path, "DNS:a")
    (tmp_path / "other").mkdir()
    _, other = own(tmp_path / "other", "DNS:a")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "locked").mkdir()
    locked = own(tmp_path / "locked", "DNS:a", "-passout", "pass:secret")
    for pair in ((crt, other), (crt, tmp_path / "text"), (tmp_path / "text", key), (tmp_path / "none", key), locked):
        with pytest.raises(BadValue, match="cannot be used"):
            read_own(*pair)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    crt, key = own(tmp_path, "DNS:a")
    for name in ("index", "serial"):
        (tmp_path / name).write_text("" if name == "index" else "01")
    lines = ("[ca]", "default_ca=x", "[x]", f"dir={tmp_path}", "database=$dir/index", "serial=$dir/serial", "policy=p", "default_md=sha256", "[p]")
    (tmp_path / "ca.cnf").write_text("\n".join([*lines, "CN=supplied"]))
    subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=a", "-out", tmp_path / "request"], check=True, capture_output=True)
    days = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    files = ["-config", tmp_path / "ca.cnf", "-keyfile", key, "-in", tmp_path / "request", "-out", crt, "-outdir", tmp_path]
    subprocess.run(["openssl", "ca", "-selfsign", "-batch", "-notext", *days, *files], check=True, capture_output=True)
    with pytest.raises(BadValue, match="expired"):
        read_own(crt, key)


def test_a_key_that_the_container_could_not_read_is_refused(tmp_path: Path) -> None:
    crt, key = own(tmp_path, "DNS:a")
    key.chmod(0o600)
    given = read_own(crt, key)
    stranger = replace(REQUEST.account, host_uid=key.stat().st_uid + 1, host_gid=key.stat().st_gid + 1)
    with pytest.raises(MountRefused, match=r"own\.key cannot be read by uid"):
        own_certificate.need_readable(given, stranger)

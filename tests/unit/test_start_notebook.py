"""JupyterLab of an image: the token stays in a file, the certificate has the right names, and other hosts are refused."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from stoker.errors import ServiceUnfit
from stoker.start import certificate, notebook
from stoker.start.certificate import find_certificate, server_names
from stoker.start.choice import Choice
from stoker.start.home import Person
from stoker.start.image import ImageStack
from stoker.start.panel import DATA
from tests.conftest import need

GIVEN = "0123456789abcdef0123456789abcdef"
CPU = ImageStack(name="cpu", torch="2.13.0", cuda=None)


@pytest.fixture(autouse=True)
def nothing_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "CERTIFICATE", tmp_path / "none.crt")
    monkeypatch.setattr(certificate, "KEY", tmp_path / "none.key")
    monkeypatch.setattr(notebook, "TOKEN", tmp_path / "none")
    monkeypatch.setattr(notebook.tempfile, "tempdir", str(tmp_path))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = notebook.token_file({}, tmp_path)
    token = path.read_text()
    assert len(token) >= 32
    assert mode(path) == 0o600
    path.chmod(0o660)
    assert notebook.token_file({}, tmp_path).read_text() == token
    assert mode(path) == 0o600


@pytest.mark.parametrize("variable", ["STOKER_TOKEN_FILE", "JUPYTER_TOKEN"])
def test_a_given_token_is_taken_without_its_line_break(variable: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text(GIVEN + "\n")
    path = notebook.token_file({variable: str(tmp_path / "given") if variable.endswith("FILE") else GIVEN}, tmp_path)
    assert path.read_text() == GIVEN
    assert mode(path) == 0o600
    assert not (tmp_path / "token").exists()


@pytest.mark.parametrize("text", ["", "short", "a b" * 10, "ö" * 20, "x" * 20 + "\ny"])
def test_what_is_no_token_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text(text)
    with pytest.raises(ServiceUnfit, match="at least 16") as caught:
        notebook.token_file({"STOKER_TOKEN_FILE": str(tmp_path / "given")}, tmp_path)
    assert not text or text not in caught.value.message


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnfit, match="cannot be read"):
        notebook.token_file({"STOKER_TOKEN_FILE": str(tmp_path / "nowhere")}, tmp_path)


@pytest.fixture
def with_jupyter(tmp_path: Path) -> Path:
    """The folder of an image's stacks, one of which has JupyterLab."""
    need(shutil.which("openssl") is not None, "openssl")
    program = tmp_path / "cpu/bin/jupyter-lab"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def someone(home: Path, uid: int = 1000) -> Person:
    return Person(uid=uid, name="stoker", home=home, shell="/bin/bash")


def test_the_token_is_in_no_argument_and_no_variable(with_jupyter: Path) -> None:
    who, choice = someone(with_jupyter), Choice(stack=CPU, why="")
    found = notebook.service({"JUPYTER_TOKEN": GIVEN, "STOKER_NAMES": "gpu1.example.org"}, who, choice, stacks=with_jupyter)
    assert GIVEN not in " ".join([*found.command, *found.environment.values()])
    assert Path(found.environment["JUPYTER_TOKEN_FILE"]).read_text() == GIVEN
    assert {"--ServerApp.local_hostnames=gpu1.example.org", "--ServerApp.local_hostnames=localhost"} <= set(found.command)
    assert not [word for word in found.command if "remote" in word]
    with pytest.raises(ServiceUnfit, match="as root"):
        notebook.service({}, someone(with_jupyter, uid=0), choice, stacks=with_jupyter)
    with pytest.raises(ServiceUnfit, match="the stack cu130 of this image has no JupyterLab"):
        notebook.service({}, who, Choice(stack=ImageStack(name="cu130", torch=None, cuda=None), why=""), stacks=with_jupyter)


def test_jupyter_is_told_why_there_is_no_gpu_and_else_left_as_it_is(with_jupyter: Path) -> None:
    def variables(no_gpu: str | None) -> dict[str, str]:
        choice = Choice(stack=CPU, why="", without_gpu=no_gpu)
        return dict(notebook.service({"JUPYTER_PATH": "/mine"}, someone(with_jupyter), choice, stacks=with_jupyter).environment)

    without = variables("no driver is loaded")
    assert without["JUPYTER_PATH"] == f"/mine:{DATA}"
    assert (Path(without["JUPYTER_CONFIG_PATH"].split(":")[-1]) / "labconfig/page_config.json").is_relative_to(with_jupyter / ".stoker/notebook")
    assert {name: value for name, value in variables(None).items() if name != "JUPYTER_TOKEN_FILE"} == {"JUPYTER_PATH": "/mine"}


def test_an_address_that_is_named_may_be_asked_for() -> None:
    assert notebook._hosts(("127.0.0.1", "::1", "localhost")) == ["--ServerApp.local_hostnames=localhost"]
    assert notebook._hosts(("192.0.2.7", "localhost")) == ["--ServerApp.local_hostnames=localhost", "--ServerApp.allow_remote_access=True"]


# --- names and certificates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "given", "names"),
    [
        ("0123456789ab", "", ()),
        ("gpu1", "", ("gpu1",)),
        ("gpu1", "a.example.org, 192.0.2.7 gpu1", ("a.example.org", "192.0.2.7", "gpu1")),
        ("gpu1", "2001:db8::1", ("2001:db8::1", "gpu1")),
        ("odd host", "", ()),
    ],
)
def test_the_names_of_a_container(host: str, given: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate.socket, "gethostname", lambda: host)
    assert server_names({"STOKER_NAMES": given}) == (*names, "localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize("given", ["a;b", "-x", "a,DNS:*", "a..b", "x" * 64, "http://a"])
def test_what_is_no_name_is_refused(given: str) -> None:
    with pytest.raises(ServiceUnfit, match="STOKER_NAMES"):
        server_names({"STOKER_NAMES": given})


def test_a_certificate_is_made_kept_and_made_anew_for_another_name(tmp_path: Path) -> None:
    need(shutil.which("openssl") is not None, "openssl")
    names = ("gpu1.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1")
    first = find_certificate({}, tmp_path, names)
    assert mode(first.key) == 0o600
    told = subprocess.run(["openssl", "x509", "-in", first.certificate, "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    for text in (
        "DNS:gpu1.example.org",
        "IP Address:192.0.2.7",
        "DNS:localhost",
        "IP Address:0:0:0:0:0:0:0:1",
        "CA:FALSE",
        "TLS Web Server Authentication",
    ):
        assert text in told
    assert find_certificate({}, tmp_path, names) == first
    assert find_certificate({}, tmp_path, ("localhost",)) == first
    other = find_certificate({}, tmp_path, ("another.example.org", *names))
    assert other.fingerprint != first.fingerprint
    assert os.listdir(tmp_path) == ["tls.pem"]


def test_a_certificate_that_is_cut_off_is_made_anew(tmp_path: Path) -> None:
    need(shutil.which("openssl") is not None, "openssl")
    (tmp_path / "tls.pem").write_text("-----BEGIN CERTIFICATE-----\nMII")
    found = find_certificate({}, tmp_path, ("localhost",))
    assert found.fingerprint
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.certificate, found.key)


def test_a_mounted_certificate_is_used_or_refused(tmp_path: Path) -> None:
    need(shutil.which("openssl") is not None, "openssl")
    own = find_certificate({}, tmp_path, ("localhost",)).certificate
    mounted = {"STOKER_TLS_CERTIFICATE_FILE": str(own), "STOKER_TLS_KEY_FILE": str(own)}
    assert find_certificate(mounted, tmp_path, ("elsewhere.example.org",)).certificate == own
    for broken in ({**mounted, "STOKER_TLS_KEY_FILE": str(tmp_path / "none")}, {"STOKER_TLS_CERTIFICATE_FILE": str(own)}):
        with pytest.raises(ServiceUnfit, match="cannot be used"):
            find_certificate(broken, tmp_path, ("localhost",))


def test_a_key_with_a_password_is_refused_at_once(tmp_path: Path) -> None:
    need(shutil.which("openssl") is not None, "openssl")
    own = find_certificate({}, tmp_path, ("localhost",)).certificate
    locked = tmp_path / "locked"
    subprocess.run(["openssl", "ec", "-in", own, "-aes256", "-passout", "pass:x", "-out", locked], capture_output=True, check=True)
    with pytest.raises(ServiceUnfit, match="password"):
        find_certificate({"STOKER_TLS_CERTIFICATE_FILE": str(own), "STOKER_TLS_KEY_FILE": str(locked)}, tmp_path, ("localhost",))

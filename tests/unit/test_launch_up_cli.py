"""`stoker up`: one line on stdout, talk on stderr, the token nowhere but in the address."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.cli.up import start
from stoker.launch import notebook, ssh
from stoker.launch.containers import Container
from stoker.launch.keys import Keys, PublicKey
from stoker.launch.notebook import Notebook
from stoker.launch.request import Port
from stoker.launch.service import Order
from stoker.launch.ssh import Box
from stoker.launch.ssh_config import Included
from stoker.launch.ssh_entries import Entry
from stoker.launch.up import Up

TOKEN = "the-token-of-this-notebook"
ADDRESS = f"https://127.0.0.1:8888/lab?token={TOKEN}"
KEY = PublicKey(line="ssh-ed25519 AAAA me", identity=Path("/k"), here=True)


def running(kind: str, address: str = "127.0.0.1") -> Up:
    container = Container(
        id="1",
        name=f"cnn-{kind}",
        engine="podman",
        container=f"stoker-cnn-{kind}",
        kind=kind,
        image="i",
        state="running",
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(Port(host=8888, inside=8888, address=address),),
        project=Path("/p"),
        home=Path("/h"),
        grace_s=10,
        gpus="none",
        command=(),
        labels={},
    )
    return Up(container=container, keeper=None, started=True)  # type: ignore[arg-type]


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Order]:
    """What was ordered; every start succeeds."""
    given: list[Order] = []

    def brought(order: Order, *_: object, **__: object) -> Up:
        given.append(order)
        return running(order.service.kind, order.wanted.listen or "127.0.0.1")

    def box(up: Up, keys: Keys) -> Box:
        entry = Entry(
            name="cnn-ssh", engine="podman", address="127.0.0.1", port=2222, user="stoker", host_key="ssh-ed25519 AAAA", identities=(Path("/k"),)
        )
        return Box(entry=entry, included=Included(config=Path("/c"), obstacle=None), started=True)

    found = Notebook(name="cnn-notebook", host="127.0.0.1", port=8888, token=TOKEN, fingerprint="AB:CD", started=True)
    monkeypatch.setattr("stoker.cli.up.notebook.bring_up_as_wanted", brought)
    monkeypatch.setattr("stoker.cli.up.ssh.bring_up_as_wanted", brought)
    monkeypatch.setattr("stoker.cli.up.ssh.find_keys", lambda named: Keys(found=(KEY,), lacking=False))
    monkeypatch.setattr(notebook, "wait", lambda up, own: found)
    monkeypatch.setattr(ssh, "wait", box)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.chdir(tmp_path)
    return given


def stoker(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_notebook_is_one_address(orders: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    assert stoker("up", "notebook", "--port", "9000", "--no-check") == 0
    told = capsys.readouterr()
    assert told.out == f"{ADDRESS}\n"
    assert TOKEN not in told.err
    assert "AB:CD" in told.err
    (order,) = orders
    assert (order.service.kind, order.wanted.port, order.check) == ("notebook", 9000, False)


def test_a_notebook_as_json(orders: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    assert stoker("up", "notebook", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["address"], told["page"], told["token"], told["name"]) == (ADDRESS, "https://127.0.0.1:8888/lab", TOKEN, "cnn-notebook")


def test_who_can_reach_it_is_said(orders: list[Order], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert stoker("up", "notebook") == 0
    assert "it listens" not in capsys.readouterr().err
    assert stoker("up", "notebook", "--listen", "0.0.0.0") == 0
    assert "it listens on 0.0.0.0:8888: everybody who reaches this machine" in capsys.readouterr().err
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.9 50000 192.0.2.7 22")
    monkeypatch.setenv("USER", "ann")
    assert stoker("up", "notebook") == 0
    assert "`ssh -NL 8888:127.0.0.1:8888 ann@192.0.2.7`" in capsys.readouterr().err


def test_options_that_come_too_late_are_said(
    orders: list[Order], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody shall believe in a limit that is not there."""
    (tmp_path / "stoker.toml").write_text("[launch]\npids = 100\n")
    there = replace(running("notebook"), started=False)
    monkeypatch.setattr("stoker.cli.up.notebook.bring_up_as_wanted", start.bring_up_as_wanted)
    monkeypatch.setattr(start, "bring_up", lambda order, on_line: there)
    assert stoker("up", "notebook", "--engine", "podman", "--memory", "4g", "-v", "/srv:/srv", "--project", str(tmp_path)) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "cnn-notebook runs already, and -v, --memory count when it is started only: `stoker stop cnn-notebook` first" in said
    assert "--pids" not in said
    monkeypatch.setattr(start, "bring_up", lambda order, on_line: replace(there, started=True))
    assert stoker("up", "notebook", "--engine", "podman", "--memory", "4g") == 0
    assert "runs already" not in capsys.readouterr().err


def test_open_without_a_browser_is_said(orders: list[Order], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert stoker("up", "notebook", "--open") == 0
    assert "no browser here" in capsys.readouterr().err


def test_ssh_is_one_command(orders: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    assert stoker("up", "ssh") == 0
    assert capsys.readouterr().out == "ssh stoker-cnn-ssh\n"
    assert stoker("up", "ssh", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["port"], told["user"]) == (["ssh", "stoker-cnn-ssh"], 2222, "stoker")


def test_a_configuration_that_could_not_be_changed_still_gives_a_command(
    orders: list[Order], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_SSH_FOLDER", "/f")
    entry = Entry(name="cnn-ssh", engine="podman", address="127.0.0.1", port=2222, user="stoker", host_key="k", identities=())
    box = Box(entry=entry, included=Included(config=Path("/c"), obstacle="read-only"), started=True)
    monkeypatch.setattr(ssh, "wait", lambda up, keys: box)
    assert stoker("up", "ssh") == 0
    told = capsys.readouterr()
    assert told.out == "ssh -F /f/stoker.conf stoker-cnn-ssh\n"
    assert "/c could not be made to include its entry (read-only)" in told.err
    assert "none of the keys that may log in is on this machine" in told.err


def test_a_certificate_without_its_key_is_a_wrong_command_line(orders: list[Order], capsys: pytest.CaptureFixture[str]) -> None:
    assert stoker("up", "notebook", "--cert", "/c.pem") == 2
    assert "--cert and --key belong together" in capsys.readouterr().err
    assert orders == []

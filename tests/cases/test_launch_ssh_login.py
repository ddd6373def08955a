"""`up ssh` against a real sshd: the entry that is written logs in, and only to the machine whose key it was written for."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.errors import LaunchUnfit, NotReady
from stoker.launch import ssh, ssh_entries
from stoker.launch.containers import Container
from stoker.launch.keys import find_keys
from stoker.launch.ports import next_free
from stoker.launch.request import Port
from stoker.launch.session import Session
from stoker.launch.up import Up
from stoker.start import ssh as inside
from tests.conftest import need

UID = 12346
NAME = "trainer"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Keeper:
    """An engine that runs what the test started."""

    name = "podman"

    def __init__(self, container: Container) -> None:
        self.container = container

    def containers(self, *, everything: bool) -> tuple[Container, ...]:
        return (self.container,)

    def log_text(self, container: Container, *, lines: int | None) -> str:
        return ""

    def exec_session(self, container: Container, words: object, **_: object) -> Session:
        return Session(words=("echo", NAME))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that another user may enter, unlike pytest's own folder."""
    need(SSHD is not None and shutil.which("ssh") is not None, "openssh-server and openssh-client")
    need(os.getuid() == 0, "root, to become another user")
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        monkeypatch.setenv("STOKER_SSH_FOLDER", f"{place}/.ssh")
        monkeypatch.setenv("XDG_DATA_HOME", f"{place}/share")
        for name in ("SUDO_UID", "SSH_AUTH_SOCK"):
            monkeypatch.delenv(name, raising=False)
        yield Path(place)


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[[str], int]]:
    """Starts the sshd of an image with the host key of a home; returns its port."""
    running: list[subprocess.Popen[bytes]] = []

    def started(home: str) -> int:
        state = folder / home / inside.STATE
        state.mkdir(parents=True)
        key = inside._host_key(state)
        os.chown(key, UID, UID)
        port = next_free(23000)
        text = inside.configuration(user=NAME, host_key=key, keys=ssh.keys_file("cnn-ssh"), environment={}, port=port)
        (folder / f"{home}.conf").write_text(text)
        (folder / "passwd").write_text(f"{Path('/etc/passwd').read_text()}{NAME}:x:{UID}:{UID}::{folder}:/bin/sh\n")
        (folder / "shadow").write_text(f"{NAME}:*:19000::::::\n")
        mounted = f"mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/shadow /etc/shadow"
        become = f"exec setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs --bounding-set=-all {SSHD} -f {folder}/{home}.conf -D -e"
        running.append(subprocess.Popen(["unshare", "-m", "sh", "-c", f"{mounted} && {become}"], stderr=subprocess.DEVNULL))
        return port

    yield started
    for process in running:
        process.kill()
        process.wait()


def up(folder: Path, port: int, *, started: bool = True) -> Up:
    container = Container(
        id="1",
        name="cnn-ssh",
        engine="podman",
        container="stoker-cnn-ssh",
        kind="ssh",
        image="i",
        state="running",
        exit_code=None,
        created=None,
        started=None,
        ended=None,
        ports=(Port(host=port, inside=2222),),
        project=None,
        home=folder / "home",
        grace_s=10,
        gpus="none",
        command=(),
        labels={},
    )
    return Up(container=container, keeper=Keeper(container), started=started)  # type: ignore[arg-type]


def login(box: ssh.Box, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the person types, with this folder in the place of `~/.ssh`."""
    command = ["ssh", "-F", str(folder / ".ssh/config"), "-o", "BatchMode=yes", *box.command[1:], *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def write_keys(named: list[Path]) -> None:
    path = ssh.keys_file("cnn-ssh")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key.line}\n" for key in find_keys(named).all()))


def test_the_entry_logs_in(folder: Path, serve: Callable[[str], int]) -> None:
    write_keys([])
    box = ssh.wait(up(folder, serve("home")), find_keys([]))
    done = login(box, folder, "id", "-u")
    assert (done.returncode, done.stdout.strip()) == (0, str(UID)), done.stderr
    (folder / "file").write_text("some text")
    scp = ["scp", "-q", "-F", str(folder / ".ssh/config"), str(folder / "file"), f"{box.entry.host}:{folder}/copy"]
    assert subprocess.run(scp, capture_output=True, timeout=30).returncode == 0
    assert (folder / "copy").read_text() == "some text"
    assert (folder / "copy").stat().st_uid == UID


def test_a_key_that_only_the_agent_has_logs_in(folder: Path, serve: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    told = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    names = dict(part.split("=", 1) for part in told.replace("\n", ";").split(";") if "=" in part)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", names["SSH_AUTH_SOCK"])
        # sshd hangs up after three wrong ones.
        for number in range(5):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / f"k{number}"], check=True)
            subprocess.run(["ssh-add", "-q", folder / f"k{number}"], check=True)
        (folder / "last.pub").write_text((folder / "k4.pub").read_text())
        write_keys([folder / "last.pub"])
        box = ssh.wait(up(folder, serve("home")), find_keys([folder / "last.pub"]))
        assert login(box, folder, "true").returncode == 0
    finally:
        os.kill(int(names["SSH_AGENT_PID"]), 15)


def test_another_machine_on_that_port_is_not_trusted(folder: Path, serve: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_STRANGE_S", 0.3)
    write_keys([])
    port = serve("home")
    box = ssh.wait(up(folder, port), find_keys([]))
    other = serve("other")
    with pytest.raises(NotReady, match="a host key that is not its own"):
        ssh.wait(up(folder, other), find_keys([]))
    ssh_entries.add(replace(box.entry, port=other))
    until = time.monotonic() + 20
    while (done := login(box, folder, "true")).returncode == 255 and "refused" in done.stderr and time.monotonic() < until:
        time.sleep(0.05)
    assert "Host key verification failed" in done.stderr


def test_a_box_that_runs_already_keeps_its_keys(folder: Path, serve: Callable[[str], int]) -> None:
    write_keys([])
    port = serve("home")
    first = ssh.wait(up(folder, port), find_keys([]))
    again = ssh.wait(up(folder, port, started=False), find_keys([]))
    assert again.entry == first.entry
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "stranger"], check=True)
    with pytest.raises(LaunchUnfit, match="runs already, for other keys"):
        ssh.wait(up(folder, port, started=False), find_keys([folder / "stranger.pub"]))


def test_what_takes_connections_but_is_no_sshd_is_not_ready(folder: Path) -> None:
    write_keys([])
    (folder / "home" / inside.STATE).mkdir(parents=True)
    inside._host_key(folder / "home" / inside.STATE)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        threading.Thread(target=lambda: proxy.accept()[0].close(), daemon=True).start()
        assert ssh._Door(up=up(folder, proxy.getsockname()[1])).answer() is None


def test_forgetting_takes_all_of_it_away(folder: Path, serve: Callable[[str], int]) -> None:
    write_keys([])
    box = ssh.wait(up(folder, serve("home")), find_keys([]))
    assert ssh.forget("cnn-ssh") is True
    assert ssh.forget("cnn-ssh") is False
    assert not ssh.keys_file("cnn-ssh").exists()
    assert "cnn-ssh" not in (folder / ".ssh/stoker.conf").read_text() + (folder / ".ssh/stoker_known_hosts").read_text()
    assert login(box, folder, "true").returncode == 255


def test_what_a_dry_run_prints_does_the_same(folder: Path) -> None:
    need(shutil.which("ssh-keygen") is not None, "openssh-client")
    (folder / ".ssh").mkdir()
    (folder / ".ssh/authorized_keys").write_text(f'ssh-ed25519 {"A" * 68} it\'s "me" $HOME\n')
    keys = find_keys([])
    for _ in range(2):
        for command in ssh.keys_commands("cnn-ssh", keys):
            subprocess.run(["sh", "-c", shlex.join(command.words)], check=True, timeout=30)
    pasted = ssh.keys_file("cnn-ssh").read_text().splitlines()
    assert sorted(pasted) == sorted(key.line for key in keys.all())
    assert len(pasted) == 2
    for command in ssh.keys_commands("cnn-ssh", find_keys([folder / ".ssh/authorized_keys"])):
        subprocess.run(["sh", "-c", shlex.join(command.words)], check=True, timeout=30)
    assert ssh.keys_file("cnn-ssh").read_text() == (folder / ".ssh/authorized_keys").read_text()

"""`stoker up ssh`: `ssh stoker-NAME` as people and editors type it, with the key and with nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need
from tests.image_engines import Engine, free_port, wait_for
from tests.launch_engines import Desk, desk_at

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

OWN_CONFIG = "# by hand\nHost far\n    HostName far.example.org\n"
ALONE = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


@dataclass(frozen=True, kw_only=True)
class Box:
    """An SSH box, and a person whose ~/.ssh is where OpenSSH looks for it: it asks the account, not HOME."""

    desk: Desk
    said: str
    """What `stoker up ssh` printed."""

    def command(self, *words: str) -> list[str]:
        """Return a command that runs where this person's account has this person's home."""
        accounts = self.desk.folder / "passwd"
        rows = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        changed = [[*row[:5], str(self.desk.person), *row[6:]] if row[2] == str(os.getuid()) else row for row in rows]
        accounts.write_text("".join(":".join(row) + "\n" for row in changed))
        return ["unshare", "--mount", "sh", "-c", f'mount --bind {accounts} /etc/passwd && exec "$@"', "sh", *words]

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a command of OpenSSH."""
        command = self.command(*words)
        return subprocess.run(command, env=self.desk.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

    def ssh(self, *words: str, options: tuple[str, ...] = (), host: str = "stoker-box") -> subprocess.CompletedProcess[str]:
        """Type `ssh`."""
        return self.type("ssh", *ALONE, *options, host, *words)

    def settings(self, host: str = "stoker-box") -> dict[str, str]:
        """Return what OpenSSH makes of all configuration files."""
        return dict(line.split(" ", 1) for line in self.type("ssh", "-G", host).stdout.splitlines())

    @property
    def bare(self) -> tuple[str, ...]:
        """Options that lead to the box without the person's configuration, and with no key."""
        found = self.settings()
        anybody = ("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.desk.folder}/any", "-o", "IdentitiesOnly=yes")
        return ("-F", "none", "-p", found["port"], "-l", found["user"], "-o", "HostName=127.0.0.1", *anybody)


@pytest.fixture(scope="module")
def box(engine: Engine) -> Iterator[Box]:
    need(shutil.which("ssh") is not None and os.geteuid() == 0, "ssh, and root to have a home of its own")
    with desk_at(engine, named="whales") as desk:
        folder = desk.person / ".ssh"
        folder.mkdir(mode=0o700)
        (folder / "config").write_text(OWN_CONFIG)
        done = desk.stoker("up", "ssh", "--image", engine.image, "--name", "box")
        yield Box(desk=desk, said=done.stdout)


def test_the_key_opens_and_files_are_the_callers(box: Box) -> None:
    assert box.said == "ssh stoker-box\n"
    done = box.ssh("id -u; pwd; echo x > /workspace/made; echo $PATH; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs'")
    assert done.returncode == 0, done.stderr
    uid, folder, path, *status = done.stdout.split("\n")
    assert uid == str(box.desk.uid)
    assert folder in ("/workspace", "/home/stoker")
    assert "/opt/stoker/bin" in path
    assert {line.split()[1] for line in status if line} == {"0000000000000000", "1"}
    assert (box.desk.project / "made").stat().st_uid == box.desk.uid


def test_the_host_is_known_before_the_first_login(box: Box) -> None:
    done = box.ssh("true", options=("-o", "StrictHostKeyChecking=yes"))
    assert (done.returncode, done.stderr) == (0, "")
    unknown = box.ssh("true", options=("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={box.desk.folder}/nobody"))
    assert "verification failed" in unknown.stderr


def test_neither_password_nor_root_nor_another_key(box: Box) -> None:
    password = ("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive")
    assert "Permission denied (publickey)" in box.ssh("true", options=password).stderr
    assert "Permission denied (publickey)" in box.ssh("true", options=("-l", "root")).stderr
    other = box.desk.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    assert "Permission denied (publickey)" in box.ssh("true", options=(*box.bare, "-i", str(other))).stderr


def test_files_go_both_ways(box: Box) -> None:
    sent = box.desk.folder / "sent"
    sent.write_bytes(os.urandom(300_000))
    assert box.type("scp", *ALONE, str(sent), "stoker-box:/workspace/there").returncode == 0
    assert (box.desk.project / "there").read_bytes() == sent.read_bytes()
    assert (box.desk.project / "there").stat().st_uid == box.desk.uid
    back = box.desk.folder / "back"
    assert box.type("scp", *ALONE, "stoker-box:/workspace/there", str(back)).returncode == 0
    assert back.read_bytes() == sent.read_bytes()
    assert "there" in box.type("sh", "-c", "echo 'ls /workspace' | sftp -o BatchMode=yes stoker-box").stdout


def test_a_terminal(box: Box) -> None:
    done = box.ssh("tty", options=("-tt",))
    assert done.stdout.split()[:1] == ["/dev/pts/0"], done.stderr


def test_a_port_is_forwarded_out_and_none_in(box: Box) -> None:
    port = free_port()
    serve = "cd /workspace && echo through > page && exec timeout 60 python3 -m http.server --bind 127.0.0.1 8000"
    words = box.command("ssh", *ALONE, "-L", f"127.0.0.1:{port}:127.0.0.1:8000", "stoker-box", serve)
    quiet = subprocess.DEVNULL
    tunnel = subprocess.Popen(words, env=box.desk.environment, stdin=quiet, stdout=quiet, stderr=quiet)
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def page() -> bytes:
        try:
            with directly.open(f"http://127.0.0.1:{port}/page", timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    try:
        assert wait_for(page, "the forwarded page", 30) == b"through\n"
    finally:
        tunnel.terminate()
        tunnel.wait()
    refused = box.ssh("true", options=("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"))
    assert "remote port forwarding failed" in refused.stderr


def test_what_editors_read(box: Box) -> None:
    """VS Code lists the hosts of ~/.ssh/config and of what it includes."""
    found = box.settings()
    assert (found["hostname"], found["user"]) == ("127.0.0.1", f"user{box.desk.uid}")
    assert int(found["port"]) > 1024
    assert found["stricthostkeychecking"] in ("yes", "true")
    assert box.settings("far")["hostname"] == "far.example.org"
    own = (box.desk.person / ".ssh/config").read_text()
    assert own.endswith(OWN_CONFIG)
    assert own.count("Include") == 1


def test_it_listens_on_this_machine_only(box: Box) -> None:
    assert {port["address"] for port in box.desk.rows()["box"]["ports"]} == {"127.0.0.1"}


def test_stopped_it_lets_nobody_in_and_started_again_it_is_the_same_host(box: Box) -> None:
    port = int(box.settings()["port"])
    box.desk.stoker("stop", "box")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=3):
        pass
    box.desk.stoker("up", "ssh", "--image", box.desk.engine.image, "--name", "box")
    assert box.ssh("true", options=("-o", "StrictHostKeyChecking=yes")).returncode == 0


def test_two_boxes_and_one_of_them_removed(engine: Engine) -> None:
    need(shutil.which("ssh") is not None and os.geteuid() == 0, "ssh, and root to have a home of its own")
    with desk_at(engine, uid=1000) as desk:
        for name in ("one", "two"):
            desk.stoker("up", "ssh", "--image", engine.image, "--name", name)
        mine = Box(desk=desk, said="")
        assert [mine.ssh("id -un", host=f"stoker-{name}").stdout for name in ("one", "two")] == ["stoker\n", "stoker\n"]
        desk.stoker("rm", "--force", "one")
        assert mine.ssh("true", host="stoker-one").returncode == 255
        assert "stoker-one" not in (desk.person / ".ssh/stoker.conf").read_text()
        assert mine.ssh("true", host="stoker-two").returncode == 0

"""sshd as an ordinary user with the configuration of an image: who may log in, and what a login finds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.start import ssh
from tests.conftest import need

UID = 12345
NAME = "trainer"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
ENVIRONMENT = {"PATH": "/opt/stoker/bin:/usr/bin:/bin", "STOKER_STACK_CHOSEN": "cu126", "NCCL_DEBUG": 'a "b" c\\d #e', "HF_TOKEN": "secret"}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A running sshd."""

    folder: Path
    port: int

    def login(self, command: str, *options: str, key: str = "id", name: str = NAME) -> subprocess.CompletedProcess[str]:
        known = ["-F", "none", "-o", f"UserKnownHostsFile={self.folder}/known", "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"]
        alone = ["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i", str(self.folder / key), *options]
        words = ["ssh", "-p", str(self.port), *known, *alone, f"{name}@127.0.0.1", command]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    need(SSHD is not None and shutil.which("ssh") is not None, "openssh-server and openssh-client")
    need(os.getuid() == 0, "root, to become another user")
    assert SSHD is not None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # Not pytest's own folder: only root may enter that one. Writable for all, as volumes of Kubernetes may be.
        folder.chmod(0o777)
        for name in ("id", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        key = ssh._host_key(folder)
        os.chown(key, UID, UID)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text = ssh.configuration(
            user=NAME, host_key=key, keys=folder / "id.pub", environment=ssh.passed_on({**ENVIRONMENT, "HOME": str(folder)}), port=port
        )
        (folder / "sshd_config").write_text(text)
        (folder / "passwd").write_text(f"{Path('/etc/passwd').read_text()}{NAME}:x:{UID}:{UID}::{folder}:/bin/sh\n")
        (folder / "shadow").write_text(f"{NAME}:*:19000::::::\n")
        # The account exists for this process only.
        mounted = f"mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/shadow /etc/shadow"
        become = f"exec setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs --bounding-set=-all {SSHD} -f {folder}/sshd_config"
        checked = subprocess.run(["unshare", "-m", "sh", "-c", f"{mounted} && {become} -t"], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
        with open(folder / "log", "w") as log:
            running = subprocess.Popen(["unshare", "-m", "sh", "-c", f"{mounted} && {become} -D -e"], stderr=log)
        try:
            until = time.monotonic() + 20
            while "Server listening" not in (folder / "log").read_text():
                assert running.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield Box(folder=folder, port=port)
        finally:
            running.terminate()
            running.wait()


def test_a_login_has_the_containers_environment_and_no_secret(box: Box) -> None:
    done = box.login("id -u; env")
    assert done.returncode == 0, done.stderr
    uid, *lines = done.stdout.splitlines()
    assert uid == str(UID)
    assert {"PATH=/opt/stoker/bin:/usr/bin:/bin", "STOKER_STACK_CHOSEN=cu126", 'NCCL_DEBUG=a "b" c\\d #e'} <= set(lines)
    assert "secret" not in done.stdout


def test_only_the_key_opens(box: Box) -> None:
    assert "Permission denied (publickey)" in box.login("id", key="stranger").stderr
    password = box.login("id", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive")
    assert "Permission denied (publickey)" in password.stderr
    assert box.login("id", name="root").returncode == 255
    assert box.login("true").returncode == 0


def test_files_can_be_copied(box: Box) -> None:
    done = box.login("sftp", "-s")
    assert done.returncode == 0, done.stderr


def test_a_key_that_is_taken_away_is_refused_at_once(box: Box) -> None:
    keys = (box.folder / "id.pub").read_text()
    (box.folder / "id.pub").write_text((box.folder / "stranger.pub").read_text())
    try:
        assert box.login("true").returncode == 255
        assert box.login("true", key="stranger").returncode == 0
    finally:
        (box.folder / "id.pub").write_text(keys)


def test_nothing_is_forwarded_from_outside_in(box: Box) -> None:
    assert "remote port forwarding failed" in box.login("true", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1").stderr

"""sshd of an image: its configuration, what logins are told, and the host key."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.errors import ServiceUnfit
from stoker.start import ssh
from stoker.start.choice import Choice
from stoker.start.home import Person
from stoker.start.image import ImageStack
from tests.conftest import need

CPU = Choice(stack=ImageStack(name="cpu", torch="2.13.0", cuda=None), why="")
HARDENED = """\
UsePAM no
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
StrictModes yes
PermitUserEnvironment no
X11Forwarding no
AllowAgentForwarding no
AllowTcpForwarding local
GatewayPorts no
PermitTunnel no
MaxAuthTries 3
LoginGraceTime 20
ClientAliveInterval 60
LogLevel VERBOSE
HostKeyAlgorithms ssh-ed25519
KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256
Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
RequiredRSASize 3072
Subsystem sftp internal-sftp
PidFile none
AllowUsers stoker
Port 2222
"""


def written(environment: dict[str, str]) -> list[str]:
    text = ssh.configuration(user="stoker", host_key=Path("/h/key"), keys=Path("/run/stoker/authorized keys"), environment=environment)
    return text.splitlines()


def test_the_configuration_is_hardened() -> None:
    lines = written({})
    assert not set(HARDENED.splitlines()) - set(lines)
    names = [line.split()[0] for line in lines]
    assert len(names) == len(set(names)), "sshd takes the first of two: the second would be a lie"
    assert 'HostKey "/h/key"' in lines
    assert 'AuthorizedKeysCommand /usr/bin/cat "/run/stoker/authorized keys"' in lines
    assert not [line for line in lines if line.startswith("SetEnv")]


def test_variables_stand_in_one_line_quoted() -> None:
    told = [line for line in written({"A": 'two words "quoted" \\ #', "B": "x\ny", "C": ""}) if line.startswith("SetEnv")]
    assert told == ['SetEnv "A=two words \\"quoted\\" \\\\ #" "C="']


def test_logins_get_a_list_and_no_secrets() -> None:
    public = {
        "PATH": "/p",
        "STOKER_STACK_CHOSEN": "cu130",
        "OMP_NUM_THREADS": "2",
        "STOKER_THREADS": "2",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NCCL_DEBUG": "INFO",
    }
    secret = {
        "HF_TOKEN": "x",
        "WANDB_API_KEY": "x",
        "NVIDIA_API_KEY": "x",
        "NCCL_TOKEN": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "https_proxy": "http://me:pw@x",
    }
    assert ssh.passed_on({**public, **secret, "RANDOM": "1"}) == dict(sorted(public.items()))
    assert "RANDOM" in ssh.passed_on({"RANDOM": "1", "STOKER_SSH_ENVIRONMENT": "RANDOM OTHER"})


def fails(environment: dict[str, str], who: Person, monkeypatch: pytest.MonkeyPatch) -> ServiceUnfit:
    monkeypatch.setattr(ssh, "PROGRAM", "/bin/true")
    monkeypatch.setattr(ssh, "KEYS", who.home / "mounted")
    with pytest.raises(ServiceUnfit) as caught:
        ssh.service(environment, who, CPU)
    return caught.value


def someone(home: Path, **changes: object) -> Person:
    return Person(**{"uid": 1000, "name": "stoker", "home": home, "shell": "/bin/bash", **changes})  # type: ignore[arg-type]


def test_it_is_refused_where_it_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "started as root" in fails({}, someone(tmp_path, uid=0, name="root"), monkeypatch).message
    assert "uid 77, for which" in fails({}, someone(tmp_path, uid=77, name=None), monkeypatch).message
    none = fails({}, someone(tmp_path), monkeypatch)
    assert f"there is no {tmp_path}/mounted and no {tmp_path}/.ssh/authorized_keys" in none.message
    assert ":ro" in none.hint
    (tmp_path / "empty").touch()
    assert "holds no public key" in fails({"STOKER_AUTHORIZED_KEYS_FILE": str(tmp_path / "empty")}, someone(tmp_path), monkeypatch).message
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "is a private key" in fails({"STOKER_AUTHORIZED_KEYS_FILE": str(tmp_path / "private")}, someone(tmp_path), monkeypatch).message
    monkeypatch.setattr(ssh, "PROGRAM", "/nowhere/sshd")
    with pytest.raises(ServiceUnfit, match="this image has no sshd"):
        ssh.service({}, someone(tmp_path), CPU)


def test_the_host_key_is_made_once(tmp_path: Path) -> None:
    need(shutil.which("ssh-keygen") is not None, "ssh-keygen")
    path = ssh._host_key(tmp_path)
    made = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # As Kubernetes leaves it, and with a public half that a crash cut off.
    path.chmod(0o660)
    path.with_suffix(".pub").write_text("ssh-ed")
    assert ssh._host_key(tmp_path).read_bytes() == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (ssh._fingerprints(path.with_suffix(".pub")) or "").startswith("SHA256:")
    assert sorted(os.listdir(tmp_path)) == ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]


def test_two_containers_on_one_volume_have_one_host_key(tmp_path: Path) -> None:
    need(shutil.which("ssh-keygen") is not None, "ssh-keygen")
    code = "import sys; from pathlib import Path; from stoker.start.ssh import _host_key; print(_host_key(Path(sys.argv[1])).read_text())"
    source = str(Path(ssh.__file__).parents[2])
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}, text=True) for _ in range(4)]
    told = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(told) == 1
    assert "PRIVATE KEY" in told.pop()


def test_a_broken_host_key_is_an_error(tmp_path: Path) -> None:
    need(shutil.which("ssh-keygen") is not None, "ssh-keygen")
    (tmp_path / "ssh_host_ed25519_key").write_text("garbage")
    with pytest.raises(ServiceUnfit, match="cannot be used"):
        ssh._host_key(tmp_path)

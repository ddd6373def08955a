"""`~/.ssh`: entries that come and go, and everything else in it byte for byte as it was."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.launch import ssh_entries
from stoker.launch.caller import Caller
from stoker.launch.ssh_entries import Entry
from tests.conftest import need

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+rVv1hB0xLmmMbCJLIcTVqCJ5XzY2xVl0vF3c1w0aA"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "a b" / ".ssh"
    monkeypatch.setenv("STOKER_SSH_FOLDER", str(place))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return place


def entry(name: str = "cnn-ssh", **others: object) -> Entry:
    plain = Entry(
        name=name, engine="podman", address="127.0.0.1", port=2222, user="stoker", host_key=KEY, identities=(Path("/home/a b/50%/id_ed25519"),)
    )
    return replace(plain, **others)  # type: ignore[arg-type]


def asked(folder: Path, host: str) -> dict[str, str]:
    """What ssh itself makes of the configuration."""
    need(shutil.which("ssh") is not None, "openssh-client")
    done = subprocess.run(["ssh", "-G", "-F", str(folder / "config"), host], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_finds_the_container_by_its_name(folder: Path) -> None:
    assert ssh_entries.add(entry()).obstacle is None
    told = asked(folder, "stoker-cnn-ssh")
    assert (told["hostname"], told["port"], told["user"]) == ("127.0.0.1", "2222", "stoker")
    assert told["userknownhostsfile"] == str(folder / "stoker_known_hosts")
    assert (told["stricthostkeychecking"], told["hostkeyalias"]) == ("true", "stoker-cnn-ssh")
    # Tokens are expanded when ssh connects.
    assert told["identityfile"] == "/home/a b/50%%/id_ed25519"
    assert (folder / "stoker_known_hosts").read_text() == f"stoker-cnn-ssh {KEY}\n"
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()} == {"0o600"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("proxy", ["ProxyCommand nc -X connect gate 22", "ProxyJump gate"])
def test_what_the_person_says_for_all_hosts_does_not_lead_astray(folder: Path, proxy: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config").write_text(f"Host *\n  {proxy}\n  User bob\n  Port 99\n  StrictHostKeyChecking no\n")
    ssh_entries.add(entry())
    told = asked(folder, "stoker-cnn-ssh")
    assert (told["user"], told["port"], told["stricthostkeychecking"]) == ("stoker", "2222", "true")
    assert not {"proxyjump", "proxycommand"} & set(told)
    assert {"proxyjump", "proxycommand"} & set(asked(folder, "elsewhere"))


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"Host a\n  User b\n",
        b"Host a\r\n  User b\r\n",
        b"Host a\n  User b",
        b"\n\n# \xff\xfe not UTF-8\nHost *\n\tUser x\r\n",
        b"Host a\n  Include ~/.ssh/stoker.conf\n",
        b"Match exec true\nInclude stoker.conf\n",
        b"# Include ~/.ssh/stoker.conf\n",
    ],
)
def test_everything_else_is_kept_byte_for_byte(folder: Path, before: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "config").write_bytes(before)
    (folder / "config").chmod(0o640)
    ssh_entries.add(entry())
    after = (folder / "config").read_bytes()
    assert after.endswith(before)
    added = after[: len(after) - len(before)]
    assert added.split(b" ", 1)[0] == b"Include"
    assert added.count(b"\n") == 1
    assert added.endswith(b"\r\n") == (b"\r\n" in before.split(b"a", 2)[-1] and before.startswith(b"Host a\r"))
    assert stat.S_IMODE((folder / "config").stat().st_mode) == 0o640
    assert asked(folder, "stoker-cnn-ssh")["port"] == "2222"
    ssh_entries.add(entry("other"))
    assert (folder / "config").read_bytes() == after


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The account's real place for it, in another home."""
    monkeypatch.delenv("STOKER_SSH_FOLDER", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = Caller(uid=os.getuid(), gid=os.getgid(), home=tmp_path)
    monkeypatch.setattr("stoker.launch.caller.caller", lambda: here)
    monkeypatch.setattr("stoker.launch.ssh_config.caller", lambda: here)
    return tmp_path / ".ssh"


def test_the_line_fits_dotfiles_of_many_machines_unless_home_is_another(own_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ssh_entries.add(entry())
    assert (own_folder / "config").read_text() == "Include ~/.ssh/stoker.conf\n"
    # ssh looks in the account's home, and takes HOME for `~`.
    monkeypatch.setenv("HOME", "/elsewhere")
    ssh_entries.add(entry())
    assert (own_folder / "config").read_text() == f"Include {own_folder}/stoker.conf\nInclude ~/.ssh/stoker.conf\n"


@pytest.mark.parametrize("line", ["Include ~/.ssh/stoker.conf", "include=stoker.conf", 'Include other.conf "~/.ssh/stoker.conf"'])
def test_a_line_that_includes_it_already_is_enough(own_folder: Path, line: str) -> None:
    folder = own_folder
    folder.mkdir(parents=True)
    (folder / "config").write_text(f"# mine\n{line}\nHost a\n")
    ssh_entries.add(entry())
    assert (folder / "config").read_text() == f"# mine\n{line}\nHost a\n"


def test_a_link_among_dotfiles_stays_a_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "ssh_config").write_text("Host a\n")
    (folder / "config").symlink_to(dotfiles / "ssh_config")
    ssh_entries.add(entry())
    assert (folder / "config").is_symlink()
    assert (dotfiles / "ssh_config").read_text().endswith('stoker.conf"\nHost a\n')
    (folder / "config").unlink()
    (folder / "config").symlink_to(dotfiles / "not there yet")
    ssh_entries.add(entry())
    assert (dotfiles / "not there yet").read_text().startswith("Include ")


def test_a_read_only_file_keeps_its_mode(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config").write_text("Host a\n")
    (folder / "config").chmod(0o400)
    assert ssh_entries.add(entry()).obstacle is None
    assert stat.S_IMODE((folder / "config").stat().st_mode) == 0o400


def test_a_configuration_that_cannot_be_changed_is_said_and_left(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config").symlink_to(tmp_path / "no such folder" / "config")
    included = ssh_entries.add(entry())
    assert included.obstacle is not None
    assert included.config == folder / "config"
    (folder / "config").unlink()
    (folder / "config").mkdir()
    assert ssh_entries.add(entry()).obstacle is not None
    # ssh -F stoker.conf is then what works.
    done = subprocess.run(["ssh", "-G", "-F", str(folder / "stoker.conf"), "stoker-cnn-ssh"], capture_output=True, text=True)
    assert "port 2222" in done.stdout


def test_an_entry_replaces_the_older_one_of_its_name_only(folder: Path) -> None:
    ssh_entries.add(entry("a"))
    ssh_entries.add(entry("a.b"))
    ssh_entries.add(entry("a", port=2223))
    assert asked(folder, "stoker-a")["port"] == "2223"
    assert asked(folder, "stoker-a.b")["port"] == "2222"
    assert (folder / "stoker.conf").read_text().count("Host stoker-a\n") == 1
    assert (folder / "stoker_known_hosts").read_text().count("\n") == 2


def test_an_entry_is_forgotten_with_its_key(folder: Path) -> None:
    ssh_entries.add(entry("a"))
    ssh_entries.add(entry("b"))
    assert ssh_entries.forget("a") is True
    assert ssh_entries.forget("a") is False
    assert "stoker-a" not in (folder / "stoker.conf").read_text() + (folder / "stoker_known_hosts").read_text()
    assert asked(folder, "stoker-b")["port"] == "2222"


def test_forgetting_makes_nothing_where_there_was_nothing(folder: Path) -> None:
    assert ssh_entries.forget("a") is False
    assert ssh_entries.clean(ssh_entries.written(), [], ["podman"]) == ()
    assert not folder.exists()


def test_only_what_is_known_to_be_gone_is_cleaned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh_entries.add(entry("lives"))
    ssh_entries.add(entry("gone"))
    ssh_entries.add(entry("docker-silent", engine="docker"))
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    ssh_entries.add(entry("elsewhere"))
    monkeypatch.undo()
    monkeypatch.setenv("STOKER_SSH_FOLDER", str(folder))
    assert ssh_entries.clean(ssh_entries.written(), ["lives"], ["podman"]) == ("gone",)
    kept = (folder / "stoker.conf").read_text()
    assert [name for name in ("lives", "gone", "docker-silent", "elsewhere") if f"Host stoker-{name}\n" in kept] == [
        "lives",
        "docker-silent",
        "elsewhere",
    ]


def test_a_box_that_was_started_while_the_engines_were_asked_keeps_its_entry(folder: Path) -> None:
    for name in ("old", "new"):
        before = ssh_entries.written()
        ssh_entries.add(entry(name))
        assert ssh_entries.clean(before, [], ["podman"]) == ()
    assert ssh_entries.clean(ssh_entries.written(), ["new"], ["podman"]) == ("old",)
    assert "Host stoker-new\n" in (folder / "stoker.conf").read_text()


def test_what_cannot_be_taken_away_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ssh_entries.add(entry("a"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert ssh_entries.forget("a") is False
    assert "stays in" in capsys.readouterr().err
    assert "Host stoker-a\n" in (folder / "stoker.conf").read_text()


def _add_many(folder: Path, first: str) -> None:
    os.environ["STOKER_SSH_FOLDER"] = str(folder)
    for number in range(8):
        ssh_entries.add(entry(f"{first}{number}"))


def test_many_at_once_lose_nothing(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config").write_text("Host mine\n")
    writers = [multiprocessing.get_context("fork").Process(target=_add_many, args=(folder, letter)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    text = (folder / "stoker.conf").read_text()
    assert sum(f"Host stoker-{letter}{number}\n" in text for letter in "abcd" for number in range(8)) == 32
    assert (folder / "config").read_text().count("Include") == 1
    assert (folder / "config").read_text().endswith("Host mine\n")


_KILLED = """
import os, signal, sys
from pathlib import Path
from stoker.launch import ssh_entries
from stoker.launch.caller import Caller
from stoker.launch.ssh_entries import Entry
steps, real = int(sys.argv[1]), os.replace
def counted(*a, **k):
    global steps
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps -= 1
    real(*a, **k)
os.replace = counted
ssh_entries.add(Entry(name="n", engine="podman", address="127.0.0.1", port=1, user="u", host_key="ssh-ed25519 A", identities=()))
"""


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_killed_anywhere_it_leaves_all_of_it_or_nothing(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True)
    (folder / "config").write_text("Host mine\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _KILLED, str(steps)], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "config").read_text() == "Host mine\n"
    ssh_entries.add(entry("after"))
    assert sorted(path.name for path in folder.iterdir()) == ["config", "stoker.conf", "stoker_known_hosts"]
    assert asked(folder, "stoker-after")["port"] == "2222"
    assert (folder / "config").read_text().endswith("Host mine\n")


def test_under_sudo_the_files_are_the_persons(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(os.getuid() == 0, "root, to become another user")
    uid = 65534
    open_to_all = Path("/tmp") / f"stoker-test-{os.getpid()}"
    open_to_all.mkdir()
    try:
        os.chown(open_to_all, uid, uid)
        monkeypatch.setenv("STOKER_SSH_FOLDER", str(open_to_all / ".ssh"))
        monkeypatch.setenv("SUDO_UID", str(uid))
        (tmp_path / "secret").write_text("root's")
        tmp_path.chmod(0o700)
        ssh_entries.add(entry())
        assert {path.stat().st_uid for path in (open_to_all / ".ssh").iterdir()} == {uid}
        assert (os.geteuid(), os.getegid()) == (0, 0)
        # A link that leads to a file of root's is not followed with root's rights.
        (open_to_all / ".ssh/config").unlink()
        (open_to_all / ".ssh/config").symlink_to(tmp_path / "secret")
        assert ssh_entries.add(entry()).obstacle is not None
        assert (tmp_path / "secret").read_text() == "root's"
    finally:
        shutil.rmtree(open_to_all)

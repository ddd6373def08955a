"""Which public keys may log in to an SSH box."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import DataMissing, ProgramMissing, RunFolderUnwritable, UsageError
from stoker.launch.keys import find_keys, make_key
from tests.conftest import need


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need(shutil.which("ssh-keygen") is not None, "openssh-client")
    place = tmp_path / ".ssh"
    monkeypatch.setenv("STOKER_SSH_FOLDER", str(place))
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return place


def made(path: Path, *options: str) -> str:
    """Make a key pair and return the public line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "me", "-f", path, *(options or ("-t", "ed25519"))], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need(shutil.which("ssh-agent") is not None, "openssh-client")
    told = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    names = dict(part.split("=", 1) for part in told.replace("\n", ";").split(";") if "=" in part)
    monkeypatch.setenv("SSH_AUTH_SOCK", names["SSH_AUTH_SOCK"])
    yield
    os.kill(int(names["SSH_AGENT_PID"]), 15)


def test_the_persons_own_keys_may_log_in(folder: Path) -> None:
    line = made(folder / "id_ed25519")
    (folder / "broken.pub").write_bytes(b"\xff\xfe nothing")
    # A colleague's, for whatever purpose.
    (folder / "colleague.pub").write_text(made(folder.parent / "colleague"))
    (folder / "only.pub").write_text('command="backup" ' + made(folder.parent / "backup") + "\n")
    assert [(key.line, key.identity) for key in find_keys([]).found] == [(line, folder / "id_ed25519")]


def test_keys_that_sshd_refuses_are_left_out(folder: Path) -> None:
    made(folder / "id_rsa", "-t", "rsa", "-b", "2048")
    assert find_keys([]).found == ()
    strong = made(folder / "id_rsa3", "-t", "rsa", "-b", "3072")
    assert [key.line for key in find_keys([]).found] == [strong]
    with pytest.raises(UsageError, match="fewer than 3072 bits"):
        find_keys([folder / "id_rsa.pub"])


def test_the_agents_keys_may_log_in_and_none_counts_twice(folder: Path, agent: None) -> None:
    both = made(folder / "id_ed25519")
    only = made(folder.parent / "away", "-t", "ecdsa")
    subprocess.run(["ssh-add", "-q", folder / "id_ed25519", folder.parent / "away"], check=True)
    found = {key.line: key.identity for key in find_keys([]).found}
    assert found == {both: folder / "id_ed25519", only: None}


def test_a_dead_agent_is_no_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    assert find_keys([]).found == ()


def test_what_is_named_counts_alone(folder: Path) -> None:
    made(folder / "id_ed25519")
    line = made(folder.parent / "other")
    for name in ("other.pub", "other"):
        (key,) = find_keys([folder.parent / name]).found
        assert (key.line, key.identity) == (line, folder.parent / "other")


def test_what_is_named_wrongly_is_one_error(folder: Path) -> None:
    folder.mkdir()
    made(folder / "id")
    (folder / "id.pub").unlink()
    (folder / "text.pub").write_text("hello\n")
    with pytest.raises(DataMissing, match=r"nothing\.pub cannot be read"):
        find_keys([folder / "nothing.pub"])
    with pytest.raises(DataMissing, match=r"id\.pub cannot be read"):
        find_keys([folder / "id"])
    with pytest.raises(UsageError, match="no public key"):
        find_keys([folder / "text.pub"])


def test_a_key_is_made_once(folder: Path) -> None:
    first = make_key()
    assert first.line.startswith("ssh-ed25519 ")
    assert stat.S_IMODE((folder / "stoker_ed25519").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert make_key() == first
    assert [(key.body, key.identity) for key in find_keys([]).found] == [(first.body, folder / "stoker_ed25519")]
    assert sorted(path.name for path in folder.iterdir()) == ["stoker_ed25519", "stoker_ed25519.pub"]


def test_two_at_once_make_one_key(folder: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made_keys = pool.starmap(make_key, [()] * 4)
    assert len({key.body for key in made_keys}) == 1


def test_who_may_log_in_to_this_machine_may_log_in_to_the_box(folder: Path, agent: None) -> None:
    laptop, forwarded = made(folder.parent / "laptop"), made(folder.parent / "forwarded")
    subprocess.run(["ssh-add", "-q", folder.parent / "forwarded"], check=True)
    folder.mkdir()
    (folder / "authorized_keys").write_text(f'# mine\n{laptop}\nfrom="10.0.0.1" {made(folder.parent / "restricted")}\n{forwarded}\n')
    keys = find_keys([])
    assert {key.line: key.here for key in keys.found} == {laptop: False, forwarded: True}
    assert not keys.lacking
    assert [key.line for key in find_keys([folder / "authorized_keys"]).found] == [laptop, forwarded]


def test_a_key_of_this_machine_is_made_where_only_others_may_log_in(folder: Path) -> None:
    laptop = made(folder.parent / "laptop")
    folder.mkdir()
    (folder / "authorized_keys").write_text(laptop)
    keys = find_keys([])
    assert keys.lacking
    assert not (folder / "stoker_ed25519").exists()
    assert [key.here for key in keys.all()] == [False, True]
    assert find_keys([]).lacking is False


def test_without_the_openssh_client_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_keys([]).lacking
    with pytest.raises(ProgramMissing, match="ssh-keygen"):
        make_key()
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_said(folder: Path) -> None:
    folder.write_text("a file in its place")
    with pytest.raises(RunFolderUnwritable):
        make_key()

"""The environment in a container: threads, PATH, home; and what the entry point makes of its words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from stoker.errors import DiskFull, ProgramMissing, RunFolderUnwritable, UsageError
from stoker.start import __main__ as entry
from stoker.start import home
from stoker.start.choice import Choice
from stoker.start.environment import prepared
from stoker.start.home import Person, own_folder, person, put_once
from stoker.start.image import ImageStack
from stoker.start.services import Service
from stoker.start.threads import VARIABLES, thread_settings

WHO = Person(uid=1000, name="stoker", home=Path("/home/stoker"), shell="/usr/bin/zsh")
CPU = Choice(stack=ImageStack(name="cpu", torch="2.13.0", cuda=None), why="")


def test_a_limit_sets_every_library() -> None:
    assert thread_settings(3, 64, {}) == {**dict.fromkeys(VARIABLES, "3"), "STOKER_THREADS": "3"}


@pytest.mark.parametrize(
    ("cores", "given"),
    [
        # torchrun gives its processes one thread each only where nobody has set a number.
        (64, {}),
        (3, {"OMP_NUM_THREADS": "8"}),
    ],
)
def test_without_a_limit_or_against_a_wish_nothing_is_set(cores: int, given: dict[str, str]) -> None:
    assert thread_settings(cores, 64, given) == {}


def test_a_wish_for_one_library_is_kept() -> None:
    found = thread_settings(3, 64, {"MKL_NUM_THREADS": "1"})
    assert "MKL_NUM_THREADS" not in found
    assert found["OPENBLAS_NUM_THREADS"] == "3"


def test_the_environment_keeps_what_the_person_set() -> None:
    given = {"PATH": "/usr/bin:/opt/stoker/bin:/bin", "USER": "me", "OMP_NUM_THREADS": "1", "JUPYTER_PATH": "/mine", "MINE": "1"}
    found = prepared(given, stack="cu126", who=WHO, cores=2, machine_cores=8)
    assert found["PATH"] == "/opt/stoker/bin:/usr/bin:/bin:/opt/stoker/cu126/bin"
    assert found["JUPYTER_PATH"] == "/opt/stoker/share/jupyter:/mine"
    assert (found["USER"], found["LOGNAME"], found["SHELL"], found["HOME"]) == ("me", "stoker", "/usr/bin/zsh", "/home/stoker")
    assert (found["OMP_NUM_THREADS"], found["MINE"], found["STOKER_STACK_CHOSEN"]) == ("1", "1", "cu126")
    assert "STOKER_STACK" not in found
    again = prepared(found, stack="cu126", who=WHO, cores=2, machine_cores=8)
    assert again == found


def test_an_empty_environment_is_enough() -> None:
    found = prepared({}, stack="cpu", who=Person(uid=4711, name=None, home=Path("/tmp/home-4711"), shell="/bin/bash"), cores=2, machine_cores=2)
    assert found["PATH"] == "/opt/stoker/bin:/usr/local/bin:/usr/bin:/bin:/opt/stoker/cpu/bin"
    assert (found["USER"], found["LANG"]) == ("stoker", "C.UTF-8")


# --- home -----------------------------------------------------------------------------------------------------------


def test_a_home_that_can_be_written_to_is_used(tmp_path: Path) -> None:
    assert person({"HOME": str(tmp_path)}).home == tmp_path


def test_a_read_only_home_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere: the answer of the system is what is faked.
    monkeypatch.setattr(home.os, "access", lambda path, mode: False)
    found = person({"HOME": "/read-only"}, temporary=tmp_path).home
    assert found == tmp_path / f"home-{os.getuid()}"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_a_trap_in_tmp_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.os, "access", lambda path, mode: False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"home-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert person({"HOME": "/read-only"}, temporary=tmp_path).home == Path("/read-only")


def test_a_uid_without_an_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home.os, "getuid", lambda: 987654)
    found = person({"HOME": str(tmp_path)})
    assert (found.name, found.uid, found.shell) == (None, 987654, "/bin/bash")


def test_what_is_secret_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o777)
    assert stat.S_IMODE(own_folder(tmp_path / "a").stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderUnwritable, match="cannot be made"):
        own_folder(tmp_path / "file/inside")


def test_zsh_finds_the_images_settings_where_the_home_has_none(tmp_path: Path) -> None:
    who = Person(uid=1000, name="stoker", home=tmp_path / "home", shell="/usr/bin/zsh")
    who.home.mkdir()

    def folder(zsh: Path, **given: str) -> str | None:
        return prepared(given, stack="cpu", who=who, cores=1, machine_cores=1, zsh=zsh).get("ZDOTDIR")

    assert folder(tmp_path) == str(tmp_path)
    assert folder(tmp_path, ZDOTDIR="/mine") == "/mine"
    assert folder(tmp_path / "an image without zsh") is None
    (who.home / ".zshrc").touch()
    assert folder(tmp_path) is None
    assert os.listdir(who.home) == [".zshrc"], "nothing is written into a home, which may be the host's"


# --- the entry point's words ----------------------------------------------------------------------------------------


def commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    for name in entry.SERVICES:
        made = Service(command=[f"run-{name}"], environment={})

        def service(environment: object, who: object, choice: object, made: Service = made) -> Service:
            return made

        monkeypatch.setattr(f"{entry.SERVICES[name]}.service", service)
    return [list(service.command) for service in entry._services(words, {}, WHO, CPU)]


@pytest.mark.parametrize(
    ("words", "started"),
    [
        (["python", "train.py", "sshd"], [["python", "train.py", "sshd"]]),
        (["notebook"], [["run-notebook"]]),
        (["notebook", "--ServerApp.port=9000"], [["run-notebook", "--ServerApp.port=9000"]]),
        (["notebook", "sshd"], [["run-notebook"], ["run-sshd"]]),
        (["sshd", "notebook", "sshd"], [["run-sshd"], ["run-notebook"]]),
    ],
)
def test_words_are_services_or_a_program(words: list[str], started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands(words, monkeypatch) == started


def test_an_option_for_one_of_two_services_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'--port=1': which of notebook and sshd is it for"):
        commands(["notebook", "sshd", "--port=1"], monkeypatch)


def test_a_full_disk_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def service(*facts: object) -> Service:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stoker.start.ssh.service", service)
    with pytest.raises(DiskFull, match="/home/stoker"):
        entry._service("sshd", [], {}, WHO, CPU)


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_two_containers_decides(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").write_text("mine")
    if not links:
        monkeypatch.setattr(home.os, "link", lambda made, path: (_ for _ in ()).throw(PermissionError()))
    put_once(tmp_path / "made", tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "mine"
    if links:
        (tmp_path / "made").unlink()
        (tmp_path / "made").write_text("another's")
        put_once(tmp_path / "made", tmp_path / "kept")
        assert (tmp_path / "kept").read_text() == "mine"


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_environment", lambda who: (dict(os.environ), CPU))
    with pytest.raises(ProgramMissing, match="no-such-program cannot be started: No such file"):
        entry._start(["no-such-program"])

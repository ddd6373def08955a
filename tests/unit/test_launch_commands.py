"""Requests as commands of podman and docker: the very words, for every option; and the text of them, pasted into shells.

`STOKER_TEST_REWRITE=1 pytest tests/unit/test_launch_commands.py` writes the golden files anew; look at the difference.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stoker.errors import LaunchUnfit, MountRefused
from stoker.launch.command import Command, Option
from stoker.launch.engine import Engine
from stoker.launch.engines import render
from stoker.launch.gpus import read_gpus
from tests.conftest import need
from tests.launch_requests import BARE, CASES, DOCKER, GPU, PODMAN, SSH, STRANGER, cases, changed, mounts

GOLDEN = Path(__file__).parent / "launch_commands"
ALL = [(engine, name) for engine in ("podman", "docker") for name in cases(engine)]
QUOTED = ("run-words-to-quote", "run-characters-of-terminals", "path-with-colon", "path-with-comma", "gpus-list", "everything")
# Words that the two terminals' shells must give back unharmed.
HOSTILE = ("a b", "it's", '"', "$HOME `id` $(id)", "a\nb", "\x1b[31m\x07", "\\n", "*", "", "!x", "-x", "#c", "\udcff\udcfe0", "é", "~", "a\\'\x01b")


def rendered(engine: str, name: str) -> Command:
    return render(*cases(engine)[name])


@pytest.mark.parametrize(("engine", "name"), ALL)
def test_the_command_is_the_golden_one(engine: str, name: str) -> None:
    path = GOLDEN / engine / f"{name}.sh"
    text = rendered(engine, name).explained() + "\n"
    if os.environ.get("STOKER_TEST_REWRITE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), "no golden file: STOKER_TEST_REWRITE=1 writes it"
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_there_are_golden_files_for_40_requests_and_no_others(engine: str) -> None:
    found = {path.stem for path in (GOLDEN / engine).iterdir()}
    assert found == set(cases(engine))
    assert len(found) >= 40


SHELLS = ("bash --norc", "zsh -f")
"""Those that read our quotation of control characters."""


def pasted(text: str, shell: str, folder: Path) -> list[bytes]:
    """The words with which the engine is called when a text is typed into a shell: zsh knows no comments there, and both give `!` a meaning."""
    program, *options = shell.split()
    need(shutil.which(program) is not None, program)
    fakes = folder / "bin"
    fakes.mkdir()
    for name in ("podman", "docker", "sh"):
        # `sh` stands before the engine, for what must be there first: here it does nothing.
        (fakes / name).write_text("#!/bin/bash\n" + ("exit 0\n" if name == "sh" else "printf '%s\\0' \"$@\"\n"))
        (fakes / name).chmod(0o755)
    environment = {"PATH": f"{fakes}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    words = [program, *options, "-i", "-s"]
    done = subprocess.run(words, input=os.fsencode(f"{text}\n"), capture_output=True, env=environment, cwd=folder, timeout=30, start_new_session=True)
    assert done.returncode == 0, done.stderr
    assert b"not found" not in done.stderr
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("explained", [False, True])
@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, name in ALL if name in QUOTED])
def test_the_text_pasted_into_bash_is_the_command(engine: str, name: str, explained: bool, tmp_path: Path) -> None:
    command = rendered(engine, name)
    text = command.explained() if explained else command.text()
    assert pasted(text, "bash --norc", tmp_path) == [os.fsencode(word) for word in command.argv[1:]]


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_words_come_through_shells(shell: str, tmp_path: Path) -> None:
    why = "it's; a `reason` $(exit 3) (of !x !! many"
    command = Command(program=("podman", "run"), options=(Option(words=("--name", "x\ny"), why=why),), image="i", words=HOSTILE)
    expected = [os.fsencode(word) for word in ("run", "--name", "x\ny", "i", *HOSTILE)]
    for number, text in enumerate((command.text(), command.explained())):
        (tmp_path / str(number)).mkdir()
        assert pasted(text, shell, tmp_path / str(number)) == expected


def test_an_explanation_is_comment_but_for_the_command() -> None:
    command = Command(
        program=("podman", "run"), options=(Option(words=("--env", "A=1\nEXPLAINED\nrm -rf /"), why="w"),), image="i", words=("a\nb\u2028c",)
    )
    first, *comments, mark = command.explained().removesuffix(command.text()).splitlines()
    assert (first, mark) == (": <<'EXPLAINED'", "EXPLAINED")
    assert comments
    assert all(line.startswith("# ") for line in comments)
    assert command.explained().endswith(command.text())


def test_nothing_printed_moves_the_cursor() -> None:
    command = Command(program=("podman", "run"), options=(), image="i", words=("\x1b]0;title\x07", "\u202eright to left", "\x9b2J"))
    assert all(letter.isprintable() or letter == "\n" for letter in command.explained())
    command.explained().encode()


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("gpus")])
def test_podman_never_hears_of_gpus(name: str) -> None:
    words = rendered("podman", name).argv
    assert not [word for word in words if word.startswith("--gpus")]
    assert [word for word in words if word.startswith("nvidia.com/gpu=")]


def test_podman_before_cdi_says_so_instead_of_starting_without_a_gpu() -> None:
    old = dataclasses.replace(PODMAN, version=(4, 0, 3))
    with pytest.raises(LaunchUnfit, match=r"podman 4\.0\.3 .*CDI"):
        render(changed(BARE, gpus=read_gpus("0")), old)
    assert render(BARE, old)


def test_podman_without_names_for_numbers_starts_no_sshd_that_nobody_could_log_into() -> None:
    old = dataclasses.replace(PODMAN, version=(3, 4, 4))
    with pytest.raises(LaunchUnfit, match=r"podman 3\.4\.4 .*uid 12345"):
        render(changed(BARE, **SSH, account=STRANGER), old)
    assert "--passwd-entry" not in render(changed(BARE, **SSH, account=dataclasses.replace(STRANGER, keep_id=True)), old).argv
    assert render(changed(BARE, **SSH), old)


def test_dockers_list_has_quotes_of_its_own() -> None:
    command = render(changed(BARE, gpus=read_gpus(f"0,{GPU}")), DOCKER)
    assert command.argv[command.argv.index("--gpus") + 1] == f'"device=0,{GPU}"'
    assert f"--gpus '\"device=0,{GPU}\"'" in command.text()


@pytest.mark.parametrize("engine", [PODMAN, DOCKER], ids=lambda engine: engine.name)
def test_two_things_at_one_place_are_refused(engine: Engine) -> None:
    with pytest.raises(MountRefused, match="/workspace"):
        render(changed(BARE, mounts=mounts("/else -> /workspace/")), engine)


def test_names_that_podman_cannot_mount_are_refused() -> None:
    with pytest.raises(MountRefused, match="colon and a comma"):
        render(changed(BARE, mounts=mounts("/data/a:b,c -> /data")), PODMAN)
    assert 'type=bind,"source=/data/a:b,c",target=/data,readonly' in render(changed(BARE, mounts=mounts("/data/a:b,c -> /data")), DOCKER).argv
    for engine in (PODMAN, DOCKER):
        with pytest.raises(MountRefused, match="line break"):
            render(changed(BARE, mounts=mounts("/data/a\nb -> /data")), engine)


@pytest.mark.parametrize(("engine", "name"), ALL)
def test_it_is_safe_by_default(engine: str, name: str) -> None:
    request, _ = cases(engine)[name]
    words = rendered(engine, name).argv
    line = " ".join(words)
    assert "--cap-drop ALL" in line
    assert "--security-opt no-new-privileges" in line
    assert ("--read-only" in words) is not request.writable
    assert "--pull=never" in words
    for never in ("--privileged", "--ipc", "--network", "--pid ", "--pid=", ".sock", "--cap-add", "unconfined"):
        assert never not in line
    assert f"--user {request.account.uid}:{request.account.gid}" in line


def test_values_of_variables_are_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for engine in ("podman", "docker"):
        assert "hf_secret" not in rendered(engine, "environment").explained()


def test_what_stands_before_makes_home_and_account_and_can_be_run_again(tmp_path: Path) -> None:
    account = dataclasses.replace(STRANGER, files=tmp_path / "it's here/accounts", host_uid=os.getuid(), host_gid=os.getgid())
    command = render(changed(BARE, account=account, home=tmp_path / "a home"), DOCKER)
    for _ in range(2):
        for one in (*command.home, *command.before):
            subprocess.run(one.words, check=True, umask=0o077)
    assert (tmp_path / "a home").stat().st_mode & 0o777 == 0o700
    passwd, group = sorted((tmp_path / "it's here/accounts").iterdir(), reverse=True)
    assert passwd.read_text().splitlines()[-1] == "ada:*:12345:100:ada:/home/stoker:/bin/bash"
    assert group.read_text().splitlines()[-1] == "ada:x:100:"
    assert {path.stat().st_mode & 0o777 for path in (passwd, group)} == {0o644}
    # A second start leaves them alone: other containers have them mounted.
    assert len(passwd.read_text().splitlines()) == 5


def test_a_home_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    command = render(changed(BARE, home=tmp_path), PODMAN)
    subprocess.run(command.home[0].words, check=True)
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_podmans_account_is_no_file() -> None:
    command = render(changed(BARE, account=STRANGER, home=None), PODMAN)
    assert (command.home, command.before) == ((), ())
    assert command.argv[command.argv.index("--passwd-entry") + 1] == "ada:*:12345:100:ada:/home/stoker:/bin/bash"

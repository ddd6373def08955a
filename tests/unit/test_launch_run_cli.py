"""`stoker run` as it is typed, with a written-down podman."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.errors import NameTaken
from tests.fakes.engine import ID, PROGRAM, ROW, Fake


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake(tmp_path / "engine")
    found.has_image()
    project = tmp_path / "pets"
    project.mkdir(mode=0o777)
    project.chmod(0o777)
    monkeypatch.chdir(project)
    for name, value in {"STOKER_CACHE": tmp_path / "cache", "STOKER_HOME": tmp_path / "kept", "STOKER_HOST_ROOT": tmp_path / "root"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("STOKER_ENGINE", raising=False)
    monkeypatch.setenv("PATH", f"{found.folder}:/usr/bin:/bin")
    return found


def typed(*words: str) -> int:
    """The exit status of `stoker run WORDS`."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_in_the_background_the_name_goes_to_stdout(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.does("made")
    assert typed("-d", "--engine", "podman", "--image", "x", "--", "sleep", "9") == 0
    said = capsys.readouterr()
    assert said.out == "pets-run\n"
    assert "stoker logs -f pets-run" in said.err
    last = (fake.folder / "calls").read_text().splitlines()
    assert any(line.startswith("run --cidfile") and line.endswith(" x sleep 9") for line in last)


def test_json_names_what_was_started(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.does("made")
    assert typed("-d", "--json", "--engine", "podman", "--image", "x", "--", "true") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["id"], said["state"]) == ("pets-run", ID, "running")


def test_one_that_ended_at_once_is_said_and_has_its_status(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.does("made", State="exited", ExitCode=9, ExitedAt=4e9)
    assert typed("-d", "--engine", "podman", "--image", "x", "--", "true") == 9
    assert "pets-run has ended already" in capsys.readouterr().err


def test_the_programs_own_options_are_its_own(fake: Fake) -> None:
    fake.does("made; exit 5", State="exited", ExitCode=5, ExitedAt=4e9)
    assert typed("--engine", "podman", "--image", "x", "python", "train.py", "--name", "theirs", "-d") == 5
    run = next(line for line in (fake.folder / "calls").read_text().splitlines() if line.startswith("run"))
    assert run.endswith(" x python train.py --name theirs -d")
    assert "--name stoker-pets-run " in run


@pytest.mark.parametrize("option", ["--dry-run", "--explain", "--json"])
def test_a_dry_run_starts_nothing_and_makes_nothing(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert typed("--dry-run", option, "--engine", "podman", "--image", "x", "--", "true") == 0
    out = capsys.readouterr().out
    assert "stoker-pets-run" in out
    if option == "--json":
        assert json.loads(out)["command"][1] == "run"
    assert not any(call.startswith("run") for call in fake.calls)
    assert not (tmp_path / "kept").exists()


def test_an_error_of_a_check_refuses_and_no_check_does_not_look(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.does("made")
    (fake.folder / "image").unlink()
    assert typed("--engine", "podman", "--image", "x", "--", "true") == 78
    assert "podman has no image x" in capsys.readouterr().err
    assert not any(call.startswith("run") for call in fake.calls)
    assert typed("--no-check", "--engine", "podman", "--image", "x", "--", "true") == 0


def test_a_run_asks_for_names_only_where_one_may_be_taken(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.does("made")
    words = ("--engine", "podman", "--image", "x")
    assert typed(*words, "--", "true") == 0
    assert "ps" not in [call.split()[0] for call in fake.calls]
    (fake.folder / "calls").unlink()
    assert typed("-d", *words, "--", "true") == 0
    (fake.folder / "calls").unlink()
    # Now there is one of that name.
    assert typed("-d", *words, "--", "true") == 0
    assert "ps" in [call.split()[0] for call in fake.calls]
    assert "run stoker-pets-run-2" in fake.calls
    assert capsys.readouterr().out == "pets-run\npets-run-2\n"


@pytest.mark.parametrize("options", [["--dry-run"], ["--explain"], ["-p", "8080"]])
def test_where_the_answer_shows_names_are_asked_for(fake: Fake, options: list[str]) -> None:
    fake.does("made")
    assert typed(*options, "--engine", "podman", "--image", "x", "--", "true") == 0
    assert "ps" in [call.split()[0] for call in fake.calls]


@pytest.mark.parametrize("detach", [["-d"], []])
def test_a_name_that_was_chosen_and_that_only_the_engine_knows_is_said_the_same_way(
    fake: Fake, capsys: pytest.CaptureFixture[str], detach: list[str]
) -> None:
    # Somebody emptied the cache folder, or another account of this machine started it.
    (fake.folder / "ps").write_text(json.dumps([json.loads(json.dumps(ROW).replace("NAME", "night"))]))
    fake.does("echo 'the container name \"stoker-night\" is already in use' >&2; exit 125")
    assert typed(*detach, "--name", "night", "--engine", "podman", "--image", "x", "--", "true") == NameTaken.exit_code
    said = capsys.readouterr().err
    assert "there is a running container night already (podman, running)" in said
    assert "stoker stop night; stoker rm night; or take another --name" in said


def test_an_engine_that_tells_its_version_and_nothing_else_is_said_to_be_silent(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.program.write_text(PROGRAM.replace("image) ", "image) echo 'Error: database is corrupted' >&2; exit 125 ;;\nnever) "))
    assert typed("--engine", "podman", "--image", "x", "--", "true") == 78
    said = capsys.readouterr().err
    assert "podman does not answer" in said
    assert "database is corrupted" in said
    assert "has no image" not in said


def test_without_a_program_nothing_runs(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--image", "x") == 2
    assert "no program" in capsys.readouterr().err


def test_the_help_shows_the_commands_own_options_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--help") == 0
    usage, _, out = capsys.readouterr().out.partition("Options:")
    assert "run [OPTIONS] -- PROGRAM" in usage
    assert 0 < out.index("--detach") < out.index("--publish") < out.index("--name") < out.index("--json")


def test_a_secret_reaches_no_command_line(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    fake.does('printf %s "$HF_TOKEN" > got; made')
    assert typed("-d", "--engine", "podman", "--image", "x", "-e", "HF_TOKEN", "--", "true") == 0
    assert (fake.folder / "got").read_text() == "hunter2"
    assert "hunter2" not in (fake.folder / "calls").read_text()
    assert os.environ["HF_TOKEN"] == "hunter2"


def test_a_start_imports_little() -> None:
    # `stoker run -- true` may take 0.3 s longer than the engine's own call, and each of these takes a good part of that.
    heavy = (
        "torch",
        "numpy",
        "rich",
        "asyncio",
        "concurrent.futures",
        "stoker.catalog",
        "stoker.doctor.checks",
        "stoker.doctor.facts.gpus",
        "stoker.image",
        "stoker.launch.engine_keeper",
        "stoker.launch.aftermath",
    )
    # What the first question to an engine need not wait for.
    later = ("shutil", "socket", "ctypes", "stoker.host.driver", "stoker.launch.defaults")
    code = (
        "import sys, importlib, stoker.cli.run as run\n"
        f"print([module for module in {later!r} if module in sys.modules])\n"
        "for module in run._LATER: importlib.import_module(module)\n"
        f"print([module for module in {heavy!r} if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]

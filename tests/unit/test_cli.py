"""The door: what it lists, what it imports, and how every kind of failure ends."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from stoker import __version__, cli, errors
from stoker.cli import failures
from stoker.errors import DiskFull


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BaseException]:
    """A command `train` that raises what the test puts into the list, run in an empty folder."""
    raised: list[BaseException] = []

    @click.command()
    @click.option("--recipe")
    def train(recipe: str | None) -> None:
        if raised:
            raise raised[0]

    monkeypatch.setattr(importlib, "import_module", lambda name: type("module", (), {"train": train}))
    monkeypatch.chdir(tmp_path)
    return raised


# --- what it lists and imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"]])
def test_a_quick_answer_imports_nothing_heavy(arguments: list[str]) -> None:
    code = "import atexit, json, sys\natexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\nfrom stoker.cli import main\n"
    done = subprocess.run([sys.executable, "-c", f"{code}main({arguments!r})"], capture_output=True, text=True, timeout=60)
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert "stoker.cli" in modules
    assert not modules & {"torch", "numpy", "rich", "psutil", "pynvml", "PIL", "stoker.cli.train", "stoker.environment.venv"}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown and entry.help in shown for name, entry in cli.COMMANDS.items())


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_in_the_table_is_there(name: str) -> None:
    command = cli.stoker.get_command(click.Context(cli.stoker), name)  # type: ignore[attr-defined]
    assert isinstance(command, click.Command)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["--version"]) == 0
    assert capsys.readouterr().out == f"stoker {__version__}\n"


# --- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("failing")
def test_a_command_that_succeeds() -> None:
    assert ends(["train"]) == 0


def test_a_refusal_ends_with_its_own_code(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(errors.DataMissing("nothing at /x", hint="give --data"))
    assert ends(["train"]) == 10
    out, err = capsys.readouterr()
    assert err == "error: nothing at /x  [data-missing]\n\nhint: give --data\n"
    assert out == ""


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["xyzzy"], f"There are: {', '.join(cli.COMMANDS)}."),
        (["--versoin"], "Did you mean '--version'?"),
        (["train", "--recipes", "x"], "Did you mean '--recipe'?"),
        (["train", "--recipe"], "requires an argument"),
        (["train", "too", "many"], "unexpected extra arguments"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


def test_no_command_shows_the_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends([]) == 2
    assert "Commands:" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (click.Abort(), 130), (BrokenPipeError(), 1), (SystemExit(7), 7), (SystemExit(None), 0), (SystemExit("why"), 1)],
)
def test_other_ends(failing: list[BaseException], error: BaseException, code: int, tmp_path: Path) -> None:
    failing.append(error)
    assert ends(["train"]) == code
    assert list(tmp_path.glob("stoker-bug-*")) == []


def test_a_bug_writes_a_report(failing: list[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(ZeroDivisionError("a division"))
    assert ends(["train", "--recipe", "my recipe"]) == 70
    (report,) = tmp_path.glob("stoker-bug-*.txt")
    text = report.read_text()
    assert "command stoker train --recipe 'my recipe'" in text
    assert f"stoker {__version__}" in text
    assert "click " in text
    assert "ZeroDivisionError" in text.splitlines()[-1]
    assert str(report) in capsys.readouterr().err


def test_a_bug_report_goes_to_the_temporary_folder_when_it_must(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stoker.cli import report

    monkeypatch.setattr(report, "_working_directory", lambda: tmp_path / "not there")
    monkeypatch.setattr(report.tempfile, "gettempdir", lambda: str(tmp_path))
    assert failures.ended(ValueError("x"), ["stoker"]) == 70
    assert len(list(tmp_path.glob("stoker-bug-*.txt"))) == 1


def test_a_bug_without_a_place_for_its_report_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stoker.cli import report

    monkeypatch.setattr(report, "_working_directory", lambda: tmp_path / "not there")
    monkeypatch.setattr(report.tempfile, "gettempdir", lambda: str(tmp_path / "nor here"))
    assert failures.ended(ValueError("x"), ["stoker"]) == 70
    assert "ValueError: x" in capsys.readouterr().err


def test_a_reader_that_went_away_is_not_mentioned() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "stoker", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize("words", ["--version", "resolve --gpu T4", "train --list"])
def test_a_closed_stdout_is_no_bug(words: str) -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m stoker {words} >&- <&-"], capture_output=True, text=True)
    assert done.returncode in (0, 7), done.stderr
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_no_bug() -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m stoker resolve --gpu T4 >/dev/full"], capture_output=True, text=True)
    assert done.returncode == DiskFull.exit_code
    assert "the output cannot be written" in done.stderr
    assert "bug" not in done.stderr

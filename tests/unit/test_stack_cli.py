"""`stoker stack` at the command line: the list, its JSON, a change by hand, and outside of an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoker.catalog import Card
from stoker.cli import main
from stoker.cli import stack as command
from stoker.start.driver import Seen

STACKS = [{"name": "cu130", "torch": "2.13.0", "cuda": "13.0"}, {"name": "cu126", "torch": "2.13.0", "cuda": "12.6"}]
OLD_DRIVER = Seen(driver="550.54.14", cards=(Card(name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0)),))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inside an image, whose start chose cu126."""
    (tmp_path / "etc/stoker").mkdir(parents=True)
    (tmp_path / "etc/stoker/image.json").write_text(json.dumps({"name": "lab", "machine": "x86_64", "variants": ["cli"], "stacks": STACKS}))
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    monkeypatch.setenv("STOKER_STACK_CHOSEN", "cu126")
    monkeypatch.delenv("STOKER_STACK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(command, "look", lambda: OLD_DRIVER)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["stack", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_list_marks_the_one_in_use_and_what_cannot_run(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "  cu130 (torch 2.13.0, CUDA 13.0)"
    assert "cannot use this machine's GPUs: CUDA 13 needs driver 580" in lines[1]
    assert lines[2] == "* cu126 (torch 2.13.0, CUDA 12.6)"
    assert "chosen by the start of the container" in err


def test_use_and_back(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "use", "cu130")
    assert code == 0
    assert "warning: it cannot use this machine's GPUs" in err
    assert "python is now the stack cu130" in err
    told = json.loads(run(capsys, "--json")[1])
    assert (told["stack"], told["by"], told["driver"]) == ("cu130", "`stoker stack use`", "550.54.14")
    assert [(one["name"], one["runs"]) for one in told["stacks"]] == [("cu130", False), ("cu126", True)]
    assert run(capsys, "use", "auto")[0] == 0
    assert json.loads(run(capsys, "--json")[1])["stack"] == "cu126"


def test_a_variable_that_stands_in_the_way_is_said(image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_STACK", "cu130")
    assert "STOKER_STACK=cu130 is set here and goes before it" in run(capsys, "use", "cu126")[2]


def test_a_stack_that_is_not_there(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "use", "cu128")
    assert code == 20
    assert "cu130, cu126, auto" in err


def test_outside_of_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    for words in ((), ("use", "cu126")):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert "not inside an image of Stoker" in err

"""`stoker resolve` at the command line: its words, its JSON, its exit status, on this machine and on written-down ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stoker.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["resolve", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def machine(root: Path, driver: str | None) -> None:
    """Write down a machine without a GPU that can be reached, with or without a driver."""
    (root / "proc").mkdir()
    if driver:
        (root / "sys/module/nvidia").mkdir(parents=True)
        (root / "sys/module/nvidia/version").write_text(driver + "\n")


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide nvidia-smi and NVML."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("stoker.host.machine.find_gpus", lambda: ())


def test_another_machine_prints_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--gpu", "Tesla P100-PCIE-16GB", "--driver", "580.95.05", "--python", "3.12")
    assert code == 0
    assert 'uv pip install "torch==2.14.1" "torchvision==0.29.1" --torch-backend=cu126' in out
    assert "compute capability 6.0" in out
    assert err == ""


def test_never_built_ends_with_7_and_says_the_myth(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--torch", "2.8", "--cuda", "12.1")
    assert (code, out) == (7, "")
    assert "never built for CUDA 12.1; it comes for CUDA 12.6, 12.8, 12.9" in err
    assert "ended with 2.5.1" in err
    assert "CUDA_HOME" in err
    assert 'uv pip install "torch==2.8.0" "torchvision==0.23.0"\n' in err
    assert "no-stack-fits" in err


def test_an_old_driver_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--gpu", "RTX 5090", "--driver", "550.54")
    assert code == 7
    assert "570.26" in err
    assert "with NVIDIA driver 580.95.05" in err


def test_json_holds_the_stack(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--gpu", "H100", "--driver", "580.95.05", "--python", "3.10", "--json")
    told: dict[str, Any] = json.loads(out)
    assert code == 0
    assert told["fits"] is True
    assert (told["stack"]["torch"], told["stack"]["variant"], told["stack"]["default_index"]) == ("2.14.1", "cu130", True)


def test_json_holds_the_reasons_and_ends_with_7(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--gpu", "P100", "--cuda", "13.0", "--driver", "580.95.05", "--json")
    told = json.loads(out)
    assert code == 7
    assert told["fits"] is False
    assert told["reasons"]
    assert {"rule", "text", "source", "evidence"} == set(told["reasons"][0])
    assert told["nearest"][0]["stack"]["variant"] == "cu126"
    assert told["myths"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--gpu", "RTX 6000"), 20, "RTX 6000 Ada Generation"),
        (("--gpu", ""), 20, "no GPU ''"),
        (("--gpu", "\x1b[31m"), 20, "no GPU '\\x1b[31m'"),
        (("--torch", "new"), 21, "no PyTorch version"),
        (("--cuda", "12"), 21, "no CUDA version"),
        (("--driver", "x"), 21, "no NVIDIA driver version"),
        (("--python", "3"), 21, "no Python version"),
        (("--machine", "sparc"), 21, "sparc"),
        (("--gpus", "1"), 2, "No such option"),
    ],
)
def test_bad_input_is_one_error(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str) -> None:
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_a_compute_capability_is_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--gpu", "sm_61", "--driver", "580.95.05")[1].startswith("torch 2.14.1 for CUDA 12.6")
    assert run(capsys, "--gpu", "6.1", "--driver", "580.95.05")[1].startswith("torch 2.14.1 for CUDA 12.6")


def test_this_machine_without_a_driver_is_the_cpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tools: None
) -> None:
    machine(tmp_path, None)
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    code, out, _ = run(capsys)
    assert code == 0
    assert "no NVIDIA driver or GPU" in out
    assert "for the CPU" in out


def test_this_machine_with_a_driver_and_no_gpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tools: None
) -> None:
    machine(tmp_path, "535.104.05")
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    code, out, _ = run(capsys)
    assert code == 0
    assert "driver 535.104.05, no GPU that can be reached" in out
    assert "minor-version compatible" in out

"""`stoker verify` end to end on the CPU: a quick run, a machine with a GPU that torch cannot use, small shared memory, being stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stoker.bench import read_verification
from tests.conftest import need

LIMIT_S = 540


def verify(*arguments: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "stoker", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **environment}, check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One quick run: its folder, in which `temporary` was its folder for temporary files, and what it said."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "temporary").mkdir()
    return folder, verify("--quick", "--device", "cpu", "--output", str(folder / "out"), TMPDIR=str(folder / "temporary"))


def test_a_quick_run_measures_judges_and_writes(quick: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = quick
    assert done.returncode in (0, 1), done.stderr  # 1: the machine may be busy
    found = read_verification(folder / "out/verify.json")
    assert found.exit_code == done.returncode
    assert found.checks[0].verdict == "ok"
    for name in ("compute.resnet50.fp32.channels_last", "compute.pool.fp32.channels_last", "feeding.jpeg.stoker", "compute.bandwidth.copy"):
        reading = found.readings[name]
        assert reading.value is not None
        assert reading.value > 0
        assert reading.verdict
    assert (found.readings["handshake.all_reduce"].value, found.readings["handshake.all_reduce"].failed) == (0.0, "")
    assert list((folder / "temporary").iterdir()) == []  # the photos are gone
    assert "ResNet-50" in (folder / "out/verify.html").read_text()
    for said in ("Handshake", "Feeding", "Compute", str(folder / "out/verify.html")):
        assert said in done.stdout


def with_a_small_disk(folder: str, size: str) -> tuple[str, ...]:
    """The words before a command for which `folder` is a memory disk of this size; the test is skipped where nobody may mount one."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False) if os.path.exists("/usr/bin/unshare") else None
    need(probe is not None and probe.returncode == 0, "the right to mount in a namespace of its own")
    return ("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh")


def test_a_gpu_that_torch_cannot_use_and_small_shared_memory_are_said_and_an_old_file_is_compared(
    quick: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    import torch

    need(not torch.cuda.is_available(), "a machine without a GPU")
    card = tmp_path / "root/sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    old, before = str(quick[0] / "out/verify.json"), with_a_small_disk("/dev/shm", "64m")
    done = verify("--quick", "--output", str(tmp_path), "--json", "-", "--compare", old, before=before, STOKER_HOST_ROOT=str(tmp_path / "root"))
    record = json.loads(done.stdout)  # nothing else on stdout
    assert (done.returncode, record["verdict"]) == (2, "wrong"), done.stderr
    handshake, feeding, _ = record["checks"]
    assert "this machine has an NVIDIA GPU" in handshake["sentence"]
    assert "stoker doctor --why cuda" in handshake["hint"]
    assert feeding["verdict"] == "low"
    assert "/dev/shm has 67 MB free" in feeding["sentence"]
    assert "--shm-size" in feeding["hint"]
    assert record["compared"]["versions"] == []
    assert {change["name"] for change in record["compared"]["changes"]} >= {"compute.resnet50.fp32.channels_last", "feeding.jpeg.stoker"}
    assert "Since" in (tmp_path / "verify.html").read_text()
    assert not (tmp_path / "verify.json").exists()


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    before = with_a_small_disk(str(tmp_path), "256k")
    done = verify("--quick", "--device", "cpu", "--output", str(tmp_path / "out"), before=before, TMPDIR=str(tmp_path))
    assert done.returncode == 34, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    command = [sys.executable, "-m", "stoker", "verify", "--quick", "--device", "cpu", "--output", str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)})
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("feeding"):
                break
        deadline = time.monotonic() + 60
        while not any(temporary.glob("stoker-verify-*/0003.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)  # until it writes its photos
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 128 + number, said
    assert "Traceback" not in said
    assert [path for path in temporary.iterdir() if path.name.startswith("stoker")] == []
    assert list(out.iterdir()) == []

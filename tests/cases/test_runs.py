"""Run folders under attack by real processes and file systems, and the `stoker runs` command as a person starts it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import DiskFull, RunBusy, RunFolderUnwritable
from stoker.runs import Run, all_runs
from tests.conftest import need

SOURCE = Path(__file__).resolve().parents[2] / "src"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SOURCE)}


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python with `code`."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stoker(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `stoker` and check its exit status."""
    done = subprocess.run([sys.executable, "-m", "stoker", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True)
    need(mount.returncode == 0, "the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


HOLDER = """
import sys, time
from pathlib import Path
from stoker.runs import Run
run = Run.create(Path(sys.argv[1]), run_id="mine", record={"recipe": "digits"})
print("held", flush=True)
count = 0
while True:
    count += 1
    run.update(count=count, filling="x" * 20000)
    run.log("epoch", epoch=count, step=count, filling="y" * 3000)
"""


def test_a_record_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    draws = random.Random(1)
    for attempt in range(8):
        root = tmp_path / str(attempt)
        writer = python(HOLDER, str(root))
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        run = Run.find(root, "mine")
        until = time.monotonic() + draws.uniform(0.02, 0.3)
        while time.monotonic() < until:
            assert run.record()["id"] == "mine"
        assert run.status() == "running"
        with pytest.raises(RunBusy, match=f"process {writer.pid} on"):
            run.hold()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert run.status() == "died"
        count = run.record().get("count", 0)
        epochs = [line["epoch"] for line in run.metrics("epoch")]
        assert epochs == list(range(1, len(epochs) + 1))
        assert abs(len(epochs) - count) <= 1
        run.hold()  # the lock died with its holder
        run.log("epoch", epoch=0)
        assert run.metrics("epoch")[-1]["epoch"] == 0
        run.close()


RACER = """
import sys
from pathlib import Path
from stoker.errors import StokerError
from stoker.runs import Run
sys.stdin.readline()
try:
    run = Run.create(Path(sys.argv[1]), run_id=sys.argv[2] or None, record={"recipe": "r"})
    run.log("epoch", epoch=1)
    print("won", run.id, flush=True)
    sys.stdin.readline()
except StokerError as error:
    print("lost", error.slug, flush=True)
"""


@pytest.mark.parametrize("name", ["mine", ""])
def test_two_creates_at_once(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "runs"), name]
    racers = [subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.stdout.readline().split() for racer in racers if racer.stdout is not None]
    for racer in racers:
        racer.communicate("done\n")
    won = [words[1] for words in said if words[0] == "won"]
    if name:
        assert won == ["mine"]
        assert {words[1] for words in said if words[0] == "lost"} <= {"run-busy", "usage"}
    else:
        assert len(set(won)) == 6
    assert sorted(run.id for run in all_runs(tmp_path / "runs")) == sorted(won)
    assert all(len(run.metrics()) == 1 for run in all_runs(tmp_path / "runs"))


def test_listing_while_trainings_start_does_not_make_them_busy(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    run.close()
    code = "import sys\nfrom pathlib import Path\nfrom stoker.runs import Run\nrun = Run(Path(sys.argv[1]))\nwhile True: run.holder()"
    lister = python(code, str(run.path))
    try:
        time.sleep(0.3)
        for _ in range(300):
            run.hold()
            run.close()
    finally:
        lister.kill()
        lister.communicate()


def test_a_child_that_outlives_its_parent_does_not_keep_the_run_locked(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from stoker.runs import Run
run = Run.create(Path(sys.argv[1]), run_id="mine", record={})
ready, told = os.pipe()
child = os.fork()
if child == 0:
    os.write(told, b"x")
    time.sleep(60)
os.read(ready, 1)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
    parent = python(code, str(tmp_path))
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.wait(timeout=10)
        assert Run.find(tmp_path, "mine").status() == "died"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_full_disk_leaves_the_record_and_whole_lines(mounted: Path) -> None:
    run = Run.create(mounted, run_id="mine", record={"recipe": "digits"})

    def fill() -> None:
        for count in range(1000):
            run.log("epoch", epoch=count, filling="x" * 5000)

    with pytest.raises(DiskFull):
        fill()
    lines = (run.path / "metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(len(lines)))
    with pytest.raises(DiskFull):
        run.update(filling="x" * 100_000)
    assert run.record()["recipe"] == "digits"
    assert not list(run.path.glob(".*.tmp"))
    with pytest.raises(DiskFull):
        Run.create(mounted, run_id=None, record={"filling": "x" * 300_000})
    run.close()


def test_a_read_only_folder_is_refused(mounted: Path) -> None:
    run = Run.create(mounted, run_id="mine", record={"recipe": "digits"})
    run.close()
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    for refused in (lambda: Run.create(mounted, run_id=None, record={}), lambda: Run.create(mounted / "below", run_id="x", record={}), run.hold):
        with pytest.raises(RunFolderUnwritable) as refusal:
            refused()
        assert "STOKER_RUNS" in refusal.value.hint
    assert Run.find(mounted, "mine").status() == "died"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with a finished run, one that died, and one whose record is garbage."""
    root = tmp_path / "three"
    for name, epochs in (("first", 5), ("second", 2)):
        record = {"recipe": "cifar10.small", "configuration": {"epochs": 5, "learning_rate": 0.1 * epochs}, "packages": {"torch": "2.13.0"},
                  "started": f"2026-01-0{epochs}T00:00:00+00:00", "data": {"source": "cifar10", "classes": ["a\x1b[31m", "b\udcff"]}}  # fmt: skip
        run = Run.create(root, run_id=name, record=record)
        for epoch in range(1, epochs + 1):
            run.log("epoch", epoch=epoch, step=epoch, train_loss=1 / epoch, test_accuracy=0.1 * epoch, images_per_s=12345.6, train_s=1.0)
        run.close()
    run = Run.find(root, "first")
    run.hold()
    run.update(status="done")
    run.close()
    broken = root / "third"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    return root


def test_the_list(three: Path) -> None:
    lines = stoker("runs", "--root", str(three)).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["run", "status"], ["third", "broken"], ["first", "done"], ["second", "died"]]
    assert lines[2].split()[2:6] == ["cifar10.small", "5", "50.00", "12,346"]
    assert lines[3].split()[3] == "2/5"
    found = json.loads(stoker("runs", "--json", "--root", str(three)).stdout)
    assert [(one["id"], one["status"], one["epochs"]) for one in found] == [("third", "broken", None), ("first", "done", 5), ("second", "died", 2)]


def test_no_runs_yet(tmp_path: Path) -> None:
    done = stoker("runs", "--root", str(tmp_path / "nothing"))
    assert done.stdout == ""
    assert "stoker train" in done.stderr
    assert json.loads(stoker("runs", "--root", str(tmp_path / "nothing"), "--json").stdout) == []


def test_show_report_and_compare(three: Path) -> None:
    shown = stoker("runs", "show", "first", "--root", str(three)).stdout
    assert "learning_rate  0.5" in shown
    assert "\x1b" not in shown
    assert "stoker runs report first" in shown.splitlines()[-1]
    page = stoker("runs", "report", "first", "--root", str(three)).stdout.strip()
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert stoker("runs", "show", "fir", "--root", str(three)).stdout.splitlines()[-1].endswith("report.html")
    assert json.loads(stoker("runs", "show", "second", "--json", "--root", str(three)).stdout)["status"] == "died"
    compared = stoker("runs", "compare", "first", "second", "--root", str(three)).stdout
    assert "configuration.learning_rate  0.5  0.2" in compared
    found = json.loads(stoker("runs", "--root", str(three), "compare", "first", "second", "--json").stdout)
    assert found["differences"] == [{"what": "configuration.learning_rate", "a": 0.5, "b": 0.2}]
    assert "are the same" in stoker("runs", "compare", "first", "first", "--root", str(three)).stdout


def test_refusals_have_their_codes(three: Path) -> None:
    assert "run-missing" in stoker("runs", "show", "nix", "--root", str(three), code=35).stderr
    assert "run.json" in stoker("runs", "show", "third", "--root", str(three), code=37).stderr
    assert "run-broken" in stoker("runs", "report", "third", "--root", str(three), code=37).stderr


def test_the_commands_import_neither_torch_nor_numpy(three: Path) -> None:
    code = (
        "import sys\nfrom stoker.cli.runs import runs\n"
        "for words in (['--root', sys.argv[1]], ['show', 'first', '--root', sys.argv[1]], ['compare', 'first', 'second', '--root', sys.argv[1]]):\n"
        "    runs(words, standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    out, err = python(code, str(three)).communicate(timeout=60)
    assert out.splitlines()[-1] == "[]", err

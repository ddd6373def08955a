"""`stoker boost -- PROGRAM`: the program's terminal, signals, arguments, folder and exit status are its own, whatever becomes of boost."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stoker.runner.interpreter import installing
from tests.conftest import need

STOKER = [sys.executable, "-m", "stoker", "boost"]
# A process that has something to tell, without the seconds that a training takes.
NOTED = """
import os, sys, torch
from stoker.boost.notes import NOTES, Note
def note(images=640):
    numbers = dict(batches=10, images=images, waited_s=0.25, check_plain_s=0.1, check_images=128, first_s=1.0, last_s=2.0)
    NOTES.add(Note(kind="loader", part="loader", what="DataLoader(Fake)", where="train.py:3", outcome="applied", why="known", numbers=numbers))
"""


@pytest.fixture(autouse=True)
def only_what_a_test_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith("STOKER_BOOST")]:
        monkeypatch.delenv(name)


def script(folder: Path, text: str, name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(NOTED + text)
    return path


def boosted(program: Sequence[str | Path], *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STOKER, *options, "--", *map(str, program)], capture_output=True, text=True, timeout=120, **more)


def python(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(path), *arguments]


# --- what passes through --------------------------------------------------------------------------------------------


def test_arguments_folder_input_output_and_status_are_the_programs_own(tmp_path: Path) -> None:
    path = script(tmp_path, "import json; print(json.dumps([sys.argv[1:], os.getcwd(), sys.stdin.read()])); note(); sys.exit(3)")
    arguments = ["--tier", "a b", "--", "-x", "", "--off=7", "*"]
    done = boosted(python(path, *arguments), cwd=tmp_path, input="fed\n")
    assert done.returncode == 3
    assert json.loads(done.stdout) == [arguments, str(tmp_path), "fed\n"]
    assert done.stderr.splitlines() == [
        "stoker boost: exact | 1 loader replayed | waited for data 0.25 s, making it the script's own way takes about 0.50 s of one core"
        " | 640 images, 640 images/s"
    ]


def test_boost_is_on_inside_and_nothing_is_said_about_a_program_that_trains_nothing(tmp_path: Path) -> None:
    done = boosted([sys.executable, "-c", "import torch, stoker.boost.session as s; print(s.current().request.tier)"], "--tier", "fast")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fast\n", "")


def test_modules_too(tmp_path: Path) -> None:
    script(tmp_path, "note(); print(__name__, sys.argv[1:])", "training.py")
    done = boosted([sys.executable, "-m", "training", "-m"], "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "__main__ ['-m']\n", "")


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("raise KeyError('lost')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("sys.exit('no data')", 1),
    ],
)
def test_every_end_is_as_without(tmp_path: Path, ending: str, status: int) -> None:
    path = script(tmp_path, f"note()\nprint('trained', flush=True)\n{ending}\n")
    plain = subprocess.run(python(path), capture_output=True, text=True, timeout=120)
    done = boosted(python(path), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert done.returncode == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_program_itself(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    path = script(
        tmp_path,
        f"""
import signal, time
signal.signal({int(number)}, lambda n, f: sys.exit(40 + n))
open({str(ready)!r}, "w").close()
time.sleep(60)
""",
    )
    child = subprocess.Popen([*STOKER, "--", *python(path)])
    deadline_s = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    child.send_signal(number)
    assert child.wait(30) == 40 + number


def test_a_terminal_stays_a_terminal(tmp_path: Path) -> None:
    path = script(tmp_path, "print([stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)], os.tcgetpgrp(0) == os.getpgrp())")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*STOKER, "--", *python(path)])
    said = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how a Linux terminal says that nobody is there any more
            break
        if not part:
            break
        said += part
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    assert said.decode().strip() == "[True, True, True] True"


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    path = script(tmp_path, "note()\nos.close(1); os.close(2)\nsys.exit(5)\n")
    assert boosted(python(path)).returncode == 5


# --- what it cannot run ---------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    done = boosted(["no-such-program", "--help"])
    assert done.returncode == 127
    assert done.stderr.startswith("error: there is no program no-such-program  [program-missing]\n\nhint: ")


def test_a_python_file_is_no_program(tmp_path: Path) -> None:
    path = script(tmp_path, "")
    done = boosted([path])
    assert done.returncode == 127
    assert f"stoker boost -- python {path}" in done.stderr


def test_unknown_parts_and_tiers_name_the_nearest() -> None:
    for options, like in ((["--off", "loader,alocator"], "'allocator'"), (["--tier", "fsat"], "'fast'")):
        done = boosted(["true"], *options)
        assert done.returncode == 20
        assert f"did you mean {like}" in done.stderr
    assert boosted([]).returncode == 2


def test_a_python_without_stoker_is_told_how_to_get_it_and_runs_all_the_same(tmp_path: Path) -> None:
    other = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = boosted([other / "bin/python", "-c", "print('ran')"], env=variables)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert f"{installing(f'{other}/bin/python')}, or run {sys.executable}, which has it" in done.stderr
    assert "install stoker" not in done.stderr  # by its name alone, it might be somebody else's
    assert "\n" not in done.stderr.strip()


def test_a_torch_that_opens_no_doors_is_told_of() -> None:
    done = boosted(["true"], env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert done.returncode == 0
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in done.stderr


# --- reports and children -------------------------------------------------------------------------------------------


def test_a_report_that_cannot_be_written_is_one_complaint_at_the_end(tmp_path: Path) -> None:
    path = script(tmp_path, "note(); print('trained'); sys.exit(4)")
    done = boosted(python(path), "--quiet", "--report", str(tmp_path / "nowhere/report.json"))
    assert (done.returncode, done.stdout) == (4, "trained\n")
    assert done.stderr.startswith("stoker boost: report failed (")
    assert len(done.stderr.splitlines()) == 1


def test_a_report_is_where_it_was_asked_for_though_the_program_changes_its_folder(tmp_path: Path) -> None:
    path = script(tmp_path, "note(); os.chdir('/'); print(torch.__version__)")
    done = boosted(python(path), "--quiet", "--report", "report.json", "--off", "copies", cwd=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["versions"]["torch"] == done.stdout.strip()
    assert report["request"]["off"] == ["copies"]
    assert [note["where"] for note in report["notes"] if note["kind"] == "loader"] == ["train.py:3"]
    assert report["totals"] == {
        **{"loaders_replayed": 1, "loaders_declined": 0, "images": 640, "waited_s": 0.25},
        **{"plain_s": 0.5, "images_per_s": 640.0},
    }


def test_children_have_reports_of_their_own_and_workers_say_nothing(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
import multiprocessing, subprocess
def trained(): note(11)
def served(): note(12)
if __name__ == "__main__":
    note(10)
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        for target, daemon in ((trained, False), (served, True)):
            child = context.Process(target=target, daemon=daemon, name=method)
            child.start(); child.join()
    if os.fork() == 0:
        note(13)
        sys.exit(0)
    os.wait()
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    subprocess.run([sys.executable, "-c", "import train; train.note(14)"], check=True)
""",
    )
    done = boosted(python(path), "--report", "report.json", cwd=tmp_path)
    assert done.returncode == 0
    reports = {file.name: json.loads(file.read_text()) for file in tmp_path.glob("report*.json")}
    assert reports.pop("report.json")["totals"]["images"] == 10
    assert sorted(report["totals"]["images"] for report in reports.values()) == [11, 11, 13, 14]
    assert all(name == f"report.pid{report['process']['pid']}.json" for name, report in reports.items())
    lines = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines if " 11 images" in line] == ["stoker boost (fork)", "stoker boost (spawn)"]
    assert sorted(line.split(" images")[0].split()[-1] for line in lines) == ["10", "11", "11", "13", "14"]


def test_ranks_have_reports_of_their_own_and_only_the_first_speaks(tmp_path: Path) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    need(torchrun.exists(), "torchrun")
    path = script(tmp_path, "note(int(os.environ['RANK']) + 1); print('rank', os.environ['RANK'])")
    done = boosted([torchrun, "--nproc-per-node", "2", "--standalone", path], "--report", "report.json", cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == ["0", "1", "rank", "rank"]
    assert done.stderr.count("stoker boost") == 1
    assert json.loads((tmp_path / "report.json").read_text())["totals"]["images"] == 1
    assert json.loads((tmp_path / "report.rank1.json").read_text())["totals"]["images"] == 2
    assert len(list(tmp_path.glob("report*"))) == 2


def test_explain_tells_everything_with_its_place(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        'note(); NOTES.add(Note(kind="loader", part="loader", what="DataLoader(Odd)", where="b.py:9", outcome="declined", why="Odd is odd"))',
    )
    done = boosted(python(path), "--explain", "--off", "allocator")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("stoker boost: tier exact, stoker ")
    assert lines.pop(1) == "  switched off: allocator"
    assert lines[1:4] == [
        "  loader train.py:3 DataLoader(Fake)",
        "    loader: applied: known",
        "      batches 10, images 640, waited_s 0.25, check_plain_s 0.1, check_images 128",
    ]
    assert lines[4:6] == ["  loader b.py:9 DataLoader(Odd)", "    loader: declined: Odd is odd"]
    assert "1 loader replayed, 1 declined" in lines[6]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], ["  nothing was looked at: no DataLoader was iterated in this process"]),
        (["--tier", "close"], ["  nothing was looked at: no DataLoader was iterated and no model was trained in this process"]),
        (["--off", "loader,copies"], ["  switched off: copies, loader", "  nothing was looked at: no part that looks at anything is on"]),
    ],
)
def test_explain_does_not_speak_of_what_it_could_not_see(tmp_path: Path, options: list[str], said: list[str]) -> None:
    path = script(tmp_path, "pass", "launch.py")
    lines = boosted(python(path), "--explain", *options).stderr.splitlines()
    assert lines[0].startswith("stoker boost (launch.py): tier ")
    assert lines[1 : 1 + len(said)] == said

"""`stoker diagnose` on real trainings with known traits: the right phase is named, and the training is the same as without."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.diagnosis.stacks import find_py_spy
from tests.conftest import need

VICTIM = Path(__file__).resolve().parents[1] / "scripts_diagnose" / "victim.py"
STOKER = [sys.executable, "-m", "stoker", "diagnose"]


def plain(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, str(VICTIM), *arguments], capture_output=True, text=True, timeout=300)


def diagnosed(
    folder: Path, *arguments: str, options: tuple[str, ...] = ("--seconds", "1.5"), program: tuple[str, ...] = (sys.executable, str(VICTIM))
) -> Any:
    command = [*STOKER, *options, "--output", str(folder), "--", *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def judged(folder: Path) -> dict[str, Any]:
    assert sorted(path.name for path in folder.iterdir()) == ["diagnose.html", "diagnose.json"]
    value = json.loads((folder / "diagnose.json").read_text())
    assert isinstance(value, dict)
    return value


def shares(value: dict[str, Any]) -> dict[str, float]:
    return value["observation"]["splits"][0]["shares"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("trait", ["plain", "two", "accumulate", "closure", "scaler", "broken", "evaluate", "meta"])
def test_every_number_is_the_same_as_without(tmp_path: Path, trait: str) -> None:
    without = plain("--trait", trait, "--steps", "25")
    observed = diagnosed(tmp_path / "out", "--trait", trait, "--steps", "25", options=("--seconds", "0.5"))
    assert observed.stdout == without.stdout
    assert observed.returncode == without.returncode == 0
    assert without.stdout.count("loss") >= 25
    split = judged(tmp_path / "out")["observation"]["splits"][0]
    assert sum(split["shares"].values()) == pytest.approx(1)
    assert split["steps"] >= 2
    if trait == "closure":
        assert min(split["shares"][phase] for phase in ("forward", "backward", "optimizer")) > 0.1  # taken out of the optimizer's step
    if trait == "accumulate":
        assert split["batch"] == 64


@pytest.mark.slow
def test_a_compiled_model_keeps_its_numbers_and_is_not_compiled_again(tmp_path: Path) -> None:
    need(shutil.which("g++") is not None, "g++")
    without = plain("--trait", "compiled", "--steps", "400")
    os.environ["TORCH_LOGS"] = "recompiles,graph_breaks"
    try:
        observed = diagnosed(tmp_path / "out", "--trait", "compiled", "--steps", "400", options=("--seconds", "0.5"))
    finally:
        del os.environ["TORCH_LOGS"]
    assert observed.stdout == without.stdout
    assert "ecompil" not in observed.stderr
    assert "raph break" not in observed.stderr
    assert judged(tmp_path / "out")["observation"]["splits"][0]["facts"]["compiled"] is True


@pytest.mark.parametrize(
    ("trait", "bottleneck", "fix"),
    [
        ("data", "data", "num_workers"),
        ("forward", "compute", None),
        ("optimizer", "optimizer", "Adam(fused=True)"),
        ("python", "other", "Python between"),
    ],
)
def test_the_bottleneck_is_named(tmp_path: Path, trait: str, bottleneck: str, fix: str | None) -> None:
    pause = "0.1" if trait == "python" else "0"
    done = diagnosed(tmp_path / "out", "--trait", trait, "--steps", "60", "--images", "1600", "--pause", pause)
    value = judged(tmp_path / "out")
    assert value["diagnosis"]["bottleneck"] == bottleneck, done.stderr
    named = [each for each in value["diagnosis"]["fixes"] if fix and fix in each["what"]]
    assert named or fix is None
    if trait == "data":
        # 16 pictures of 2 ms sleep each in the training process; on a loaded machine a sleep takes longer.
        split = value["observation"]["splits"][0]
        assert split["shares"]["data"] * split["step_s"] >= 0.032
        line = next(number for number, text in enumerate(VICTIM.read_text().splitlines(), 1) if "loader = DataLoader(images" in text)
        assert named[0]["where"].endswith(f"victim.py:{line}")


def test_workers_are_counted_and_seen_from_outside(tmp_path: Path) -> None:
    diagnosed(tmp_path / "out", "--trait", "data", "--workers", "2", "--steps", "150", "--images", "1600", options=("--seconds", "2"))
    value = judged(tmp_path / "out")
    assert "the loader's 2 workers give" in value["diagnosis"]["sentence"]
    workers = [use for use in value["observation"]["processes"] if use["role"] == "worker"]
    assert len(workers) >= 2
    assert all(use["cores"] < 0.6 for use in workers)  # they sleep


@pytest.mark.parametrize(
    ("trait", "status", "ended"), [("exit3", 3, "exit status 3"), ("raises", 1, "exit status 1"), ("killed", 137, "signal SIGKILL")]
)
def test_how_the_program_ends_is_how_we_end(tmp_path: Path, trait: str, status: int, ended: str) -> None:
    done = diagnosed(tmp_path / "out", "--trait", trait, "--steps", "400", "--die-at", "200", "--pause", "0.01", options=("--seconds", "60"))
    assert done.returncode == status
    assert f"The program ended while it was observed: {ended}." in done.stderr
    assert judged(tmp_path / "out")["observation"]["splits"], "what was written before the end is judged"


def test_a_program_that_never_trains_says_so(tmp_path: Path) -> None:
    done = diagnosed(tmp_path / "out", "--trait", "never")
    assert done.returncode == 0
    assert "No training step was seen" in done.stderr
    assert "torch was imported" in done.stderr
    other = diagnosed(tmp_path / "other", "-c", "echo hello", program=("sh",))
    assert (other.returncode, other.stdout) == (0, "hello\n")
    assert "no Python of the program imported torch" in other.stderr


def test_both_ranks_of_torchrun_are_joined(tmp_path: Path) -> None:
    program = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(VICTIM))
    done = diagnosed(tmp_path / "out", "--trait", "ranks", "--steps", "40", program=program)
    assert done.returncode == 0, done.stderr
    value = judged(tmp_path / "out")
    splits = value["observation"]["splits"]
    assert [split["rank"] for split in splits] == [0, 1]
    assert splits[1]["shares"]["data"] > 2 * splits[0]["shares"]["data"]
    assert splits[0]["shares"]["backward"] > splits[1]["shares"]["backward"]  # there rank 0 waits for rank 1
    assert value["diagnosis"]["bottleneck"] == "data"


def test_a_python_without_stoker_is_observed(tmp_path: Path) -> None:
    import torch

    # -S leaves out site-packages, and with it stoker; torch comes by PYTHONPATH alone. sitecustomize is imported by hand, as site would.
    packages = Path(torch.__file__).parents[1]
    code = "import sitecustomize, sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    view = tmp_path / "packages"
    view.mkdir()
    for entry in packages.iterdir():
        if "stoker" not in entry.name and not entry.name.endswith(".pth"):
            (view / entry.name).symlink_to(entry)
    os.environ["PYTHONPATH"] = str(view)
    try:
        program = (sys.executable, "-S", "-c", f"try:\n import stoker\nexcept ImportError: print('no stoker')\n{code}", str(VICTIM))
        done = diagnosed(tmp_path / "out", "--steps", "15", program=program, options=("--seconds", "0.5"))
    finally:
        del os.environ["PYTHONPATH"]
    assert done.stdout.startswith("no stoker\n"), done.stderr
    assert judged(tmp_path / "out")["observation"]["splits"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(tmp_path: Path, number: signal.Signals) -> None:
    handler = f"signal.signal({int(number)}, lambda *_: (print('caught', flush=True), sys.exit(9)))"
    code = f"import signal, sys, time\n{handler}\nprint('up', flush=True)\ntime.sleep(60)"
    command = [*STOKER, "--output", str(tmp_path / "out"), "--", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.read() == "caught\n"
        assert process.wait(30) == 9


def test_the_program_goes_on_when_we_are_killed(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = [*STOKER, "--seconds", "60", "--output", str(out), "--", sys.executable, str(VICTIM), "--steps", "300"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while log.read_text().count("loss") < 20 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
        process.wait()
        while "random" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert log.read_text().count("loss") == 300
    assert log.read_text().splitlines()[-1].startswith("random")
    assert [path.name[:4] for path in out.iterdir()] == ["raw-"]  # nothing anywhere else


def test_the_verdict_comes_while_the_program_goes_on_and_can_stop_it(tmp_path: Path) -> None:
    done = diagnosed(tmp_path / "out", "--steps", "10000000", options=("--seconds", "1", "--then", "stop"))
    assert done.returncode == 0
    assert judged(tmp_path / "out")["observation"]["ended"] is None


def test_json_on_stdout_is_alone_there(tmp_path: Path) -> None:
    done = diagnosed(tmp_path / "out", "--steps", "15", options=("--seconds", "0.5", "--json", "-"))
    assert json.loads(done.stdout)["diagnosis"]["sentence"]
    assert "loss" in done.stderr


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    command = [*STOKER, "--seconds", "0.5", "--output", str(tmp_path / "out"), "--", sys.executable, str(VICTIM), "--steps", "20"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert results[0][0] == results[1][0]
    assert judged(tmp_path / "out")["observation"]["splits"]


def test_what_cannot_be_done_is_one_clear_error(tmp_path: Path) -> None:
    def refused(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*STOKER, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert refused("--", "no-such-program")[0] == 127
    (tmp_path / "text").write_text("no program")
    assert refused("--", "./text")[0] == 127
    assert refused()[0] == 2
    assert refused("--pid", "1", "--", "python")[0] == 2
    assert refused("--pid", "4194304")[0] == 51
    assert refused("--pid", "-3")[0] == 2
    assert refused("--output", "text", "--", "true")[0] == 30
    code, said = refused("--output", "/proc/nowhere", "--", "true")
    assert code == 30
    assert "--output" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_a_running_process_is_seen_from_outside(tmp_path: Path) -> None:
    need(find_py_spy() is not None, "py-spy")
    command = [sys.executable, str(VICTIM), "--trait", "data", "--steps", "100000", "--images", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("loss")
            look = [*STOKER, "--pid", str(process.pid), "--seconds", "2", "--output", str(tmp_path / "out")]
            done = subprocess.run(look, capture_output=True, text=True, timeout=60)
            assert process.poll() is None  # it goes on
        finally:
            process.kill()
            process.stdout.close()  # type: ignore[union-attr]
    assert done.returncode == 0, done.stderr
    if "ptrace" in done.stdout:
        need(False, "leave to trace another process (CAP_SYS_PTRACE)")
    value = judged(tmp_path / "out")
    assert value["diagnosis"]["bottleneck"] == "data"
    assert shares(value)["data"] > 0.5
    assert re.search(r"\d+ % of the training thread's time waits for data", done.stdout)


def test_without_py_spy_the_processes_are_seen_and_it_says_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.diagnosis import stacks
    from stoker.diagnosis.process import observe_process
    from stoker.diagnosis.verdict import judge

    monkeypatch.setattr(stacks, "find_py_spy", lambda: None)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            seen = observe_process(process.pid, seconds=1.5, boost=False)
        finally:
            process.kill()
    assert seen.splits == ()
    assert any("pip install 'stoker[diagnose]'" in said for said in seen.blind)
    assert 0.01 < seen.processes[0].cores < 1.2
    assert "Seen from outside only" in judge(seen).sentence

"""`stoker run` and its verbs in real engines: whose files, which status, what is said at the end, and what a stopped training keeps."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from tests.conftest import need
from tests.image_engines import Engine, wait_for
from tests.launch_engines import Desk, desk_at

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

GREEDY = "x = bytearray(900 << 20); print('here')"
SHARED = """
import os
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=256 << 20)
memory.buf[:] = bytes(256 << 20)
"""
UNKILLABLE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def test_files_are_the_callers_and_the_status_is_the_programs(desk: Desk) -> None:
    script = 'id -u; id -un; pwd; cat; echo kept > "$HOME/kept"; mkdir -p runs; echo weights > runs/weights; echo talk >&2; exit 7'
    done = desk.run("--", "sh", "-c", script, said="from outside\n", status=7)
    assert done.stdout.split("\n") == [str(desk.uid), f"user{desk.uid}", "/workspace", "from outside", ""]
    assert "talk" in done.stderr
    assert (desk.project / "runs/weights").stat().st_uid == desk.uid
    assert (desk.home / "kept").stat().st_uid == desk.uid
    assert desk.home.stat().st_mode & 0o777 == 0o700
    assert desk.run("--", "cat", "/workspace/runs/weights", "/home/stoker/kept").stdout == "weights\nkept\n"
    assert desk.containers() == []


@pytest.mark.parametrize("name", ["two words, and a comma", 'a "quoted" $(id) ünï', "-v"])
def test_a_project_of_any_name(engine: Engine, name: str) -> None:
    with desk_at(engine, named=name) as desk:
        assert desk.run("--", "sh", "-c", "echo there > file; cat file").stdout == "there\n"
        assert (desk.project / "file").read_text() == "there\n"
        shown = desk.run("--dry-run", "--", "cat", "file").stdout
        done = subprocess.run(["bash", "-euc", shown], cwd=desk.project, env=desk.environment, capture_output=True, text=True)
        assert done.stdout == "there\n", (shown, done.stderr)


@pytest.mark.parametrize(("words", "status"), [(["sh", "-c", "kill -KILL $$"], 137), (["no-such-program"], 127), (["true"], 0)])
def test_how_it_ended(desk: Desk, words: list[str], status: int) -> None:
    done = desk.run("--", *words, status=status)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert desk.containers() == []


def test_data_cannot_be_written_and_the_root_neither(desk: Desk) -> None:
    data = desk.folder / "data"
    data.mkdir()
    (data / "labels").write_text("3\n")
    data.chmod(0o777)
    script = "cat /data/labels; echo 4 > /data/labels; echo x > /etc/x; echo x > /opt/stoker/x; echo ok > /tmp/x && cat /tmp/x"
    done = desk.run("--data", str(data), "--", "sh", "-c", script)
    assert done.stdout == "3\nok\n"
    assert (data / "labels").read_text() == "3\n"


def test_a_variable_goes_along_by_its_name_only(desk: Desk) -> None:
    done = desk.run("-e", "DATABASE_WORD", "--", "sh", "-c", 'echo "$DATABASE_WORD"', DATABASE_WORD="blue whale")
    assert done.stdout == "blue whale\n"
    assert "blue" not in desk.run("--dry-run", "-e", "DATABASE_WORD", "--", "true", DATABASE_WORD="blue whale").stdout
    assert "--env-file" in desk.run("-e", "DATABASE_WORD=blue", "--", "true", status=21).stderr


def test_the_printed_command_does_the_same(desk: Desk) -> None:
    """What --explain prints is pasted into a shell."""
    for option in ("--dry-run", "--explain"):
        shown = desk.run(option, "--name", "pasted", "--", "sh", "-c", "id -u; echo 'a b'").stdout
        assert desk.containers() == []
        done = subprocess.run(["bash", "-euc", shown], cwd=desk.project, env=desk.environment, capture_output=True, text=True)
        assert done.stdout == f"{desk.uid}\na b\n", (shown, done.stderr)
        desk.end()


def test_too_little_memory_is_said(desk: Desk) -> None:
    done = desk.run("--memory", "200m", "--", "python", "-c", GREEDY, status=137)
    assert "here" not in done.stdout
    reason = [line for line in done.stderr.splitlines() if "memory" in line]
    assert any("--memory" in line or "200" in line for line in reason), done.stderr
    desk.run("--memory", "200m", "-d", "--name", "greedy", "--", "python", "-c", GREEDY)
    wait_for(lambda: desk.rows()["greedy"]["state"] == "exited", "its end")
    assert desk.rows()["greedy"]["exit_code"] == 137
    assert "memory" in desk.stoker("logs", "greedy").stderr


def test_too_little_shared_memory_is_said(desk: Desk) -> None:
    done = desk.run("--shm", "64m", "--", "python", "-c", SHARED, status=135)
    assert "shared memory" in done.stderr
    assert "--shm" in done.stderr
    assert desk.run("--shm", "512m", "--", "python", "-c", SHARED).returncode == 0


def test_in_the_background(desk: Desk) -> None:
    script = "echo begun; for i in 1 2 3; do sleep 0.4; echo line $i; done; sleep 600"
    begun = desk.run("-d", "--name", "job", "--", "sh", "-c", script)
    assert "job" in begun.stdout + begun.stderr
    follower = desk.begin("logs", "-f", "job")
    row = desk.rows()["job"]
    assert (row["state"], row["kind"], row["engine"], row["project"]) == ("running", "run", desk.engine.command[0], str(desk.project))
    assert "job" in desk.stoker("ps").stdout
    desk.wait_until_it_says("job", "line 3")
    assert desk.stoker("exec", "job", "--", "sh", "-c", "id -u; exit 9", status=9).stdout == f"{desk.uid}\n"
    assert desk.stoker("exec", "-i", "job", "--", "cat", said="through\n").stdout == "through\n"
    assert desk.run("-d", "--name", "job", "--", "true", status=77).returncode == 77
    desk.stoker("stop", "job")
    out, _ = follower.communicate(timeout=30)
    assert [line for line in out.splitlines() if line] == ["begun", "line 1", "line 2", "line 3"]
    assert desk.rows()["job"]["state"] == "exited"
    assert "job" not in desk.stoker("ps").stdout
    desk.stoker("exec", "job", "--", "true", status=83)
    desk.stoker("rm", "job")
    assert desk.containers() == []
    assert "76" in str(desk.stoker("logs", "jbo", status=76).returncode)


def test_names_that_nobody_gave(desk: Desk) -> None:
    for _ in range(2):
        desk.run("-d", "--", "sleep", "600")
    assert set(desk.rows()) == {"pets-run", "pets-run-2"}
    desk.stoker("rm", "--force", "pets-run", "pets-run-2")
    assert desk.containers() == []


def test_what_ignores_sigterm_is_killed_when_the_grace_is_over(desk: Desk) -> None:
    desk.run("-d", "--name", "deaf", "--stop-timeout", "2", "--", "python", "-c", UNKILLABLE)
    desk.wait_until_it_says("deaf", "ready")
    begin_s = time.monotonic()
    desk.stoker("stop", "deaf")
    assert 1.5 < time.monotonic() - begin_s < 20
    assert desk.rows()["deaf"]["exit_code"] == 137
    said = desk.stoker("logs", "deaf").stderr
    assert "memory" not in said
    assert "stop" in said


def test_a_stopped_training_keeps_what_it_learned(desk: Desk) -> None:
    labels = json.loads(desk.engine.run("inspect", desk.engine.image).stdout)[0]["Config"]["Labels"]
    need(bool(json.loads(labels["dev.stoker.stacks"])[0]["torch"]), "an image with PyTorch")
    desk.run("-d", "--name", "learner", "--", "stoker", "train", "digits", "--set", "epochs=3000", "--set", "compile=no", "--name", "night")
    record = desk.project / "runs/night"
    wait_for(lambda: record.exists() and "epoch" in desk.stoker("logs", "learner").stdout + desk.stoker("logs", "learner").stderr, "an epoch", 90)
    stopped = desk.stoker("stop", "learner")
    assert "saved" in stopped.stdout + stopped.stderr
    assert "night" in stopped.stdout + stopped.stderr
    assert json.loads((record / "run.json").read_text())["status"] != "running"
    assert all(path.stat().st_uid == desk.uid for path in record.rglob("*"))
    row = desk.rows()["learner"]
    assert row["exit_code"] == 143
    desk.stoker("rm", "learner")
    assert (record / "run.json").exists()


def test_a_shell_with_a_terminal(desk: Desk) -> None:
    desk.run("-d", "--name", "job", "--", "sleep", "600")
    assert typed(desk, ["shell", "job"], ["tty; id -u; echo size $(stty size)", "exit 5"]) == (5, ["/dev/pts/0", str(desk.uid), "size 33 99"])
    status, said = typed(desk, ["run", "--image", desk.engine.image, "--", "sh", "-c", "tty; read a; echo got $a; exit 6"], ["hello"])
    assert (status, said) == (6, ["/dev/pts/0", "got hello"])


def test_ctrl_c_and_sigterm_reach_the_program(desk: Desk) -> None:
    script = "trap 'echo got ctrl-c; exit 3' INT; trap 'echo got sigterm; exit 4' TERM; echo got ready; while :; do sleep 0.1; done"
    words = ["run", "--image", desk.engine.image, "--", "sh", "-c", script]
    assert typed(desk, words, ["\x03"], after="got ready") == (3, ["got ready", "got ctrl-c"])
    process = desk.begin(*words)
    assert process.stdout is not None
    assert process.stdout.readline() == "got ready\n"
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("got sigterm\n", 4), err
    assert desk.containers() == []


def typed(desk: Desk, words: list[str], lines: list[str], *, after: str = "") -> tuple[int, list[str]]:
    """Type a command at a terminal of 33 rows and 99 columns, and lines when it waits after saying something.

    Return its status and those lines of what it says that are answers.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(desk.project)
        os.execve(sys.executable, [sys.executable, "-m", "stoker", *words], desk.environment | {"TERM": "dumb"})
    subprocess.run(["stty", "rows", "33", "cols", "99"], stdin=terminal, check=True)
    seen, until = "", time.monotonic() + 60
    rest = list(lines)
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        try:
            seen += os.read(terminal, 4096).decode(errors="replace") if ready else ""
        except OSError:
            break
        if not ready and rest and after in seen:
            os.write(terminal, rest.pop(0).encode() + (b"" if lines == ["\x03"] else b"\n"))
    _, status = os.waitpid(process, 0)
    kept = [line.strip().removeprefix("^C") for line in seen.splitlines()]
    answers = [line for line in kept if line.startswith(("/dev/pts", "size", "got")) or line.isdigit()]
    return os.waitstatus_to_exitcode(status), answers

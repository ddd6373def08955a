"""`--engine local` in Stoker's own environment: marks, records, limits, variables, and real small programs from start to rm."""

from __future__ import annotations

import getpass
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stoker.catalog import Card
from stoker.errors import (
    BadValue,
    EngineFailed,
    LaunchUnfit,
    LimitRefused,
    MountRefused,
    NameTaken,
    NotReady,
    ProgramMissing,
    ServiceUnfit,
    StokerError,
)
from stoker.launch import labels, reach
from stoker.launch.containers import Container
from stoker.launch.ending import why
from stoker.launch.local import folder, job, marks, means, notebook, planned, processes, starting, supervisor, variables
from stoker.launch.local.environment import Environment
from stoker.launch.local.folder import About, Ended, Folder, Started
from stoker.launch.local.job import Job
from stoker.launch.local.keeper import LocalKeeper
from stoker.launch.local.means import Means
from stoker.launch.local.processes import lives, marked, start_of, wait_until
from stoker.launch.local.seen import VANISHED
from stoker.launch.wanted import Wanted
from stoker.start.driver import Seen
from stoker.start.panel import OPTION
from tests.conftest import REPOSITORY, need

OWN = Environment(folder=Path(sys.prefix), stack=None, says="own")
LOCKED = Environment(folder=Path("/cache/local/0/cu130"), stack="cu130", says="cu130")
KEEPER = LocalKeeper()

pytestmark = pytest.mark.usefixtures("nobody_elses_jobs")


@pytest.fixture(autouse=True)
def nothing_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    yield
    for process in marked():
        if str(tmp_path) in process.environment.get(marks.FOLDER, ""):
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "My Work"
    path.mkdir()
    return path


def a_job(project: Path, *words: str, **wishes: object) -> Job:
    return job.decide(Wanted(kind="run", project=project, **wishes), command=words)  # type: ignore[arg-type]


def started(project: Path, *words: str, **wishes: object) -> Container:
    return starting.start(a_job(project, *words, **wishes), None, on_line=lambda line: None)


def ran(project: Path, *words: str, **wishes: object) -> tuple[int, list[str]]:
    told: list[str] = []
    return starting.run(a_job(project, *words, **wishes), None, on_line=told.append), told[1:]


def now(name: str = "my-work-run") -> Container:
    return next(one for one in KEEPER.containers(everything=True) if one.name == name)


def record(name: str) -> Folder:
    return next(one for one in folder.folders() if one.name == name)


# --- marks and records ----------------------------------------------------------------------------------------------


def test_labels_become_variables_and_back(project: Path) -> None:
    told = a_job(project, "x").labels
    assert marks.to_labels({**marks.of_labels(told), "PATH": "/bin", marks.ID: "0", marks.FOLDER: "/f"}) == told
    assert marks.of_labels(told)["STOKER_LAUNCH_NAME"] == "my-work-run"
    assert marks.without({**marks.of_labels(told), marks.EXEC: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


def about(**other: object) -> About:
    return About(**{"id": "1", "labels": {}, "environment": "", "command": ("x",), "folder": "/", "created": 0.0, "machine": folder.here(), **other})  # type: ignore[arg-type]


def test_of_many_that_want_a_name_one_gets_it() -> None:
    won, lost = [], []

    def try_it(number: int) -> None:
        try:
            won.append(folder.make("same", about(id=str(number))))
        except NameTaken:
            lost.append(number)

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert won[0].about == about(id=won[0].about.id)
    assert [path.name for path in folder.jobs_folder().iterdir()] == ["same"]
    assert won[0].path.stat().st_mode & 0o777 == 0o700


def test_what_was_left_half_made_is_swept_away() -> None:
    jobs = folder.jobs_folder()
    for name in (".old.1", ".young.2"):
        (jobs / name).mkdir(parents=True)
    os.utime(jobs / ".old.1", (time.time() - 3700,) * 2)
    folder.make("next", about())
    assert sorted(path.name for path in jobs.iterdir()) == [".young.2", "next"]


@pytest.mark.parametrize(
    "wrong", [{"labels": 5}, {"labels": {"a": 5}}, {"created": "x"}, {"command": "ab"}, {"command": [1]}, {"machine": None}, {"cores": 2}]
)
def test_a_record_of_other_types_counts_as_none(wrong: dict[str, object]) -> None:
    """A container that has the home can write one, and `ps` must go on."""
    made = folder.make("forged", about())
    assert made.about == about(id=made.about.id)
    (made.path / "job.json").write_text(json.dumps(asdict(about()) | wrong))
    assert made.about is None
    assert KEEPER.containers(everything=True) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"code": 1, "moment": 2, "more": 3}', "\0\0\0", '"text"'])
def test_a_record_that_is_no_record_counts_as_none(text: str) -> None:
    made = folder.make("broken", about())
    for name in ("started.json", "ended.json"):
        (made.path / name).write_text(text)
    assert made.started is None
    assert made.ended is None
    assert now("broken").state == "created"
    assert KEEPER.remove(now("broken"))
    assert not made.path.exists()


def test_a_folder_whose_description_is_broken_does_not_stop_ps() -> None:
    (folder.make("broken", about()).path / "job.json").write_text("{}")
    assert KEEPER.containers(everything=True) == ()


def test_the_description_holds_no_value_of_the_persons(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret-one")
    (tmp_path / "env").write_text("OTHER=s3cret-two\n")
    one = started(project, "sh", "-c", "test ${#MY_TOKEN}${#OTHER} = 1010 && echo both; exec sleep 60", env_file=tmp_path / "env")
    assert wait_until(lambda: KEEPER.log_text(one, lines=None) == "both\n", timeout_s=30)
    written = "".join(path.read_text() for path in record(one.name).path.iterdir())
    assert "s3cret" not in written
    for process in marked():
        assert "s3cret" not in " ".join(process.command)
    assert KEEPER.remove(one)


# --- processes ------------------------------------------------------------------------------------------------------


def a_process(root: Path, pid: int, name: str, *, state: str = "S", start: int = 77, **environment: str) -> None:
    place = root / "proc" / str(pid)
    place.mkdir(parents=True)
    stat = {"state": state, **{str(number): "0" for number in range(4, 53)}, "22": str(start), "51": "140730080034797" if environment else "0"}
    (place / "stat").write_text(f"{pid} ({name}) {' '.join(stat.values())}\n")
    (place / "environ").write_bytes(b"".join(f"{key}={value}\0".encode() for key, value in environment.items()))
    (place / "cmdline").write_bytes(b"python\0train.py\0")


def test_processes_are_found_by_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    a_process(tmp_path, 10, "a b) S 1 (c", start=5, STOKER_LAUNCH_NAME="night", STOKER_LAUNCH_ID="7")
    a_process(tmp_path, 11, "zombie", state="Z", STOKER_LAUNCH_NAME="night")
    a_process(tmp_path, 12, "other", PATH="/bin", NOTE="STOKER_LAUNCH_NAME")
    a_process(tmp_path, 13, "older", start=4, STOKER_LAUNCH_NAME="day")
    (tmp_path / "proc/14").mkdir()
    (tmp_path / "proc/meminfo").write_text("")
    assert [(one.pid, one.start, one.id, one.command) for one in marked()] == [
        (13, 4, "", ("python", "train.py")),
        (10, 5, "7", ("python", "train.py")),
    ]
    assert (start_of(10), start_of(11), start_of(99)) == (5, None, None)
    assert lives(10, 5)
    assert not lives(10, 6)


def test_a_process_that_is_becoming_another_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between execve's new memory and its new environment, /proc says that there is none.
    monkeypatch.setenv("STOKER_HOST_ROOT", str(tmp_path))
    a_process(tmp_path, 10, "sh")
    a_process(tmp_path, 11, "kernel")
    place = tmp_path / "proc/11/stat"
    place.write_text(place.read_text().replace(" S 0 0 0 0 0 0 ", " S 0 0 0 0 0 2129984 "))
    a_process(tmp_path, 12, "zombie", state="Z")
    looks = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            (tmp_path / "proc/10/environ").write_bytes(b"STOKER_LAUNCH_NAME=night\0")

    monkeypatch.setattr(processes.time, "sleep", wait)
    assert [one.pid for one in marked()] == [10]
    assert len(looks) == 3


def test_what_was_started_by_hand_with_a_mark_is_found_and_stopped() -> None:
    process = subprocess.Popen(["sleep", "100"], env={**os.environ, marks.NAME: "by-hand", "STOKER_LAUNCH_KIND": "run", "STOKER_LAUNCH_GPUS": "0"})
    try:
        assert wait_until(lambda: any(one.name == "by-hand" for one in KEEPER.containers(everything=False)), timeout_s=30)
        one = now("by-hand")
        assert (one.state, one.kind, one.gpus, one.command, one.id) == ("running", "run", "0", ("sleep", "100"), f"pid-{process.pid}")
        assert one.started is not None
        assert abs(one.started - time.time()) < 30
        with pytest.raises(LaunchUnfit, match="not started by"):
            KEEPER.log_session(one, follow=False, lines=None, timestamps=False, since=None)
        threading.Timer(0.1, process.wait).start()  # somebody has to collect it
        KEEPER.stop(one, grace_s=10)
        assert process.wait() == -signal.SIGTERM
        assert not any(one.name == "by-hand" for one in KEEPER.containers(everything=True))
    finally:
        process.kill()
        process.wait()


# --- limits ---------------------------------------------------------------------------------------------------------


def kept(root: Path, *, memory: int | None = None, cpus: float | None = None, detach: bool = False, taken: tuple[tuple[int, ...], ...] = ()) -> Means:
    return means.means(name="x", memory_bytes=memory, cpus=cpus, detach=detach, taken=taken, root=root)


def with_systemd(root: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (root / "run/systemd/system").mkdir(parents=True)
    program = root / "bin/systemd-run"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_without_a_wish_there_is_no_limit_and_no_word(tmp_path: Path) -> None:
    assert kept(tmp_path) == Means()


def test_without_systemd_a_limit_holds_for_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    found = kept(tmp_path, memory=2**30, cpus=1.5, taken=((0,), (0, 1)))
    assert (found.words, found.data_bytes, found.cores) == ((), 2**30, (2, 3))
    assert found.notes == (
        "the memory limit holds for each process by itself, not for all of them together (there is no systemd here)",
        "--cpus 1.5 became 2 whole cores (there is no systemd here)",
    )
    assert kept(tmp_path, cpus=4).cores == ()


def test_systemd_makes_a_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_systemd(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = kept(tmp_path, memory=2**30, cpus=1.5)
    assert found.words[1:] == (
        "--scope", "--quiet", "--collect", "--property=MemoryMax=1073741824", "--property=MemorySwapMax=0", "--property=CPUQuota=150%",
        "--description=stoker x", "--",
    )  # fmt: skip
    assert (found.notes, found.data_bytes, found.cores) == ((), None, ())


def test_an_ordinary_user_needs_the_controllers_and_in_the_background_lingering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_systemd(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr("getpass.getuser", lambda: "someone")
    assert "does not let ordinary users set memory here" in kept(tmp_path, memory=2**30).notes[0]
    group = tmp_path / "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("memory pids\n")
    assert kept(tmp_path, memory=2**30).words[1:3] == ("--user", "--scope")
    assert "set cpu here" in kept(tmp_path, memory=2**30, cpus=1).notes[0]
    assert f"sudo loginctl enable-linger {getpass.getuser()}" in kept(tmp_path, memory=2**30, detach=True).notes[0]
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/someone").touch()
    assert kept(tmp_path, memory=2**30, detach=True).words


def test_what_systemd_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_systemd(tmp_path, monkeypatch, "echo 'Failed to connect to bus: No medium found' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = kept(tmp_path, memory=2**30)
    assert not found.words
    assert "systemd-run says: Failed to connect to bus: No medium found" in found.notes[0]


def test_limits_reach_the_program(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, resource; print(len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_DATA)[0], os.environ['OMP_NUM_THREADS'])"
    assert ran(project, "python", "-c", code, memory="1g", cpus=1.0)[0] == 0
    assert capfd.readouterr().out == f"1 {2**30} 1\n" if len(os.sched_getaffinity(0)) > 1 else True
    code, told = ran(project, "python", "-c", "bytearray(2 * 10**9)", memory="1g")
    assert code == 1
    assert "MemoryError" in told[-1]


# --- variables ------------------------------------------------------------------------------------------------------


def told_to(one: Job, used: Environment = OWN, limits: Means | None = None, **given: str) -> dict[str, str]:
    return variables.variables(one, used, limits or Means(), given)


def test_the_environment_of_a_lock_comes_first(project: Path) -> None:
    found = told_to(a_job(project, "x"), LOCKED, PATH="/usr/bin:/cache/local/0/cu130/bin")
    assert found["PATH"] == "/cache/local/0/cu130/bin:/usr/bin"
    assert (found["VIRTUAL_ENV"], found["STOKER_STACK_CHOSEN"]) == ("/cache/local/0/cu130", "cu130")
    assert "PYTHONPATH" in variables.foreign(LOCKED)
    assert variables.foreign(OWN) == ()


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, None), ("all", None), ("none", ""), ("0,2", "0,2"), ("GPU-" + "0" * 8 + "-0000-0000-0000-" + "0" * 12, ...)]
)
def test_gpus_are_told_by_cudas_own_variable(project: Path, asked: str | None, expected: object) -> None:
    found = told_to(a_job(project, "x", gpus=asked), CUDA_VISIBLE_DEVICES="5")
    assert found.get("CUDA_VISIBLE_DEVICES") == (asked if expected is ... else expected)
    assert ("CUDA_DEVICE_ORDER" in found) is (expected is not None)


def test_what_the_person_set_is_kept(project: Path) -> None:
    found = told_to(a_job(project, "x", cpus=1.0), limits=Means(cores=(0,)), TRITON_CACHE_DIR="/mine", OMP_NUM_THREADS="7")
    assert "TRITON_CACHE_DIR" not in found
    assert "OMP_NUM_THREADS" not in found
    assert found["TORCHINDUCTOR_CACHE_DIR"].endswith("home/.cache/torchinductor")


def test_an_env_file_is_read_as_docker_does(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# remark\n\nA=1=2\n  B= x \nHERE\nNOT_HERE\nE=\n")
    assert variables.read_env_file(path, {"HERE": "yes"}) == {"A": "1=2", "B": " x ", "HERE": "yes", "E": ""}
    for text in ("=x\n", "A =1\n"):
        path.write_text(text)
        with pytest.raises(BadValue, match="line 1"):
            variables.read_env_file(path, {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadValue, match="cannot be read"):
        variables.read_env_file(path, {})


# --- decisions ------------------------------------------------------------------------------------------------------


def test_ssh_says_that_it_cannot_and_what_can(project: Path) -> None:
    with pytest.raises(LaunchUnfit, match="needs a container") as found:
        job.decide(Wanted(kind="ssh", project=project))
    assert "--engine podman" in found.value.hint
    assert "stoker shell" in found.value.hint


def test_what_means_nothing_here_is_said_with_its_consequence(project: Path) -> None:
    wishes = {"image": "x", "data": (str(project),), "volumes": ("/a:/b",), "home": "none", "shm": "1g", "pids": 5, "user": "0", "publish": ("80",)}
    notes = a_job(project, "x", restart=True, writable=False, **wishes).notes
    assert len(notes) == 10
    assert all(" means nothing without a container: " in note for note in notes)
    assert a_job(project, "x", writable=True, shm="auto").notes == ()


@pytest.mark.parametrize(
    ("wishes", "error"),
    [
        ({"name": "UPPER"}, BadValue),
        ({"name": "../x"}, BadValue),
        ({"gpus": "0:1"}, BadValue),
        ({"gpus": "first"}, BadValue),
        ({"data": ("/not/there",)}, MountRefused),
        ({"project": Path("/not/there")}, MountRefused),
        ({"memory": "many"}, BadValue),
        ({"cpus": float("nan")}, BadValue),
        ({"cpus": -1.0}, BadValue),
        ({"cpus": 1e9}, LimitRefused),
    ],
)
def test_what_cannot_be_is_refused(project: Path, wishes: dict[str, object], error: type[StokerError]) -> None:
    with pytest.raises(error):
        a_job(**{"project": project, **wishes})  # type: ignore[arg-type]


def test_runs_get_names_of_their_own_and_a_notebook_keeps_its(project: Path) -> None:
    folder.make("my-work-run", about())
    folder.make("my-work-notebook", about())
    assert a_job(project, "x").name == "my-work-run-2"
    notebook_job = job.decide(Wanted(kind="notebook", project=project), port=9999)
    assert (notebook_job.name, notebook_job.ports[0].text) == ("my-work-notebook", "127.0.0.1:9999")


# --- in the foreground ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_exit_status_is_the_programs(project: Path, script: str, code: int) -> None:
    found, told = ran(project, "sh", "-c", script)
    assert found == code
    assert bool(told) is (code != 0)
    assert folder.folders() == ()


def test_why_it_died_comes_from_what_it_wrote(project: Path) -> None:
    code, told = ran(project, "sh", "-c", "echo 'RuntimeError: unable to allocate shared memory(shm) for file' >&2; exit 1")
    assert code == 1
    assert "out of shared memory" in told[-1]


def test_a_program_that_is_not_there_leaves_nothing(project: Path) -> None:
    for act in (ran, started):
        with pytest.raises(ProgramMissing, match="nonsense: No such file"):
            act(project, "nonsense")
        assert list(folder.jobs_folder().iterdir()) == []


def test_streams_pass_through_and_what_is_left_behind_ends(project: Path, tmp_path: Path) -> None:
    seconds = f"321.{os.getpid()}"  # not another run's
    script = f"cat; echo err >&2; pwd; sleep {seconds} >/dev/null 2>&1 & exit 0"
    code = f"import sys; from tests.unit.test_launch_local import *; sys.exit(ran(Path({str(project)!r}), 'sh', '-c', {script!r})[0])"
    done = subprocess.run([sys.executable, "-c", code], input="in\n", capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"in\n{project}\n", "err\n")
    assert not [one for one in marked() if seconds in one.command]


def test_what_is_left_behind_without_our_marks_ends_too(project: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"env -i setsid sh -c 'echo $$ > {pid}; exec sleep 600' >/dev/null 2>&1 & while ! [ -s {pid} ]; do sleep 0.02; done"
    assert ran(project, "sh", "-c", script)[0] == 0
    assert start_of(int(pid.read_text())) is None


def test_what_ended_early_is_collected(project: Path) -> None:
    """Whose parent is gone is the supervisor's child, and a job of weeks would fill the table of processes with them."""
    script = """
import os, time
ended, ends = os.pipe()
if not os.fork():
    os.fork()
    os._exit(0)
os.close(ends)
os.wait()
os.read(ended, 1)  # nothing, as soon as both have ended
def left():
    rows = [open(f"/proc/{one}/stat").read().rpartition(")")[2].split() for one in os.listdir("/proc") if one.isdigit()]
    return sum(row[0] == "Z" and row[1] == str(os.getppid()) for row in rows)
for _ in range(400):
    try:
        if not left():
            print("none is left")
            break
    except OSError:
        pass
    time.sleep(0.05)
"""
    started(project, sys.executable, "-c", script)
    assert wait_until(lambda: now().state == "exited", timeout_s=30)
    assert "none is left" in KEEPER.log_text(now(), lines=None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_came_before_the_supervisor_could_hear_it_counts(project: Path, tmp_path: Path, number: int) -> None:
    begun = tmp_path / "begun"
    about = About(id="0" * 32, labels={}, environment="", command=("touch", str(begun)), folder=str(project), created=time.time())
    made = folder.make("early", about)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, supervisor.FETCHED)
    try:
        words = [sys.executable, "-m", "stoker.launch.local.supervisor", str(made.path)]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        process.send_signal(number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 128 + number
    assert made.ended is not None
    assert made.ended.code == 128 + number
    assert not begun.exists()


def test_closed_streams_are_no_reason_to_fail(project: Path, tmp_path: Path) -> None:
    code = f"import sys; from tests.unit.test_launch_local import *; sys.exit(ran(Path({str(project)!r}), 'touch', {str(tmp_path / 'done')!r})[0])"
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, code], cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def on_a_terminal(project: Path, script: str, *, send: bytes = b"", until: bytes = b"") -> tuple[int, bytes]:
    """Run a Python program as a person does, type something when it has written `until`, and return its status and what stood on the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        code = f"import sys; from tests.unit.test_launch_local import *; sys.exit(ran(Path({str(project)!r}), 'python', '-c', {script!r})[0])"
        os.execv(sys.executable, [sys.executable, "-c", code])
    screen = b""
    try:
        while True:
            screen += os.read(terminal, 4096)
            if send and until in screen:
                os.write(terminal, send)
                send = b""
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), screen


def test_on_a_terminal_it_has_one(project: Path) -> None:
    script = (
        "import os, sys; print(*map(os.isatty, (0, 1, 2)), os.get_terminal_size(1).columns > -1); sys.stderr.write('err\\n'); print(input('name? '))"
    )
    code, screen = on_a_terminal(project, script, send=b"me\n", until=b"name? ")
    assert code == 0
    assert screen.replace(b"\r\n", b"\n") == b"True True True True\nerr\nname? me\nme\n"
    assert b"\r\r" not in screen


def test_ctrl_c_reaches_the_program_once(project: Path) -> None:
    script = "import signal, sys, time\ncount = []\nsignal.signal(2, lambda *_: count.append(1))\nprint('ready', flush=True)\n"
    script += "time.sleep(0.7)\nprint('got', len(count), flush=True)\nsys.exit(5)"
    code, screen = on_a_terminal(project, script, send=b"\x03", until=b"ready")
    assert code == 5
    assert b"got 1" in screen


def test_a_killed_stoker_has_its_program_told_to_end(project: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    script = f"trap 'touch {saved}; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    code = f"from tests.unit.test_launch_local import *; ran(Path({str(project)!r}), 'sh', '-c', {script!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    assert wait_until(saved.exists, timeout_s=30)
    assert wait_until(lambda: now().state == "exited", timeout_s=30)
    assert KEEPER.remove(now())
    assert folder.folders() == ()


# --- in the background ----------------------------------------------------------------------------------------------


def test_from_start_to_rm(project: Path) -> None:
    one = started(project, "sh", "-c", "echo one; echo two; sleep 0.2; exit 4")
    assert (one.engine, one.kind, one.project, one.image) == ("local", "run", project, "own environment")
    assert wait_until(lambda: not now().running, timeout_s=30)
    ended = now()
    assert (ended.state, ended.exit_code) == ("exited", 4)
    assert KEEPER.log_text(ended, lines=None) == "one\ntwo\n"
    assert (KEEPER.log_text(ended, lines=1), KEEPER.log_text(ended, lines=0)) == ("two\n", "")
    assert KEEPER.ending(ended).code == 4
    assert KEEPER.containers(everything=False) == ()
    assert KEEPER.remove(ended)
    assert not KEEPER.remove(ended)


def test_a_name_that_is_taken(project: Path) -> None:
    one = started(project, "sleep", "100", name="night")
    with pytest.raises(NameTaken, match="night runs"):
        started(project, "sleep", "1", name="night")
    assert KEEPER.remove(one)
    with pytest.raises(LaunchUnfit, match="does not run"):
        KEEPER.exec_session(one, ["true"], interactive=False, terminal=False, environment=(), folder=None, user=None)


def test_many_at_once_get_names_of_their_own(project: Path) -> None:
    decided = [a_job(project, "sleep", "100") for _ in range(6)]
    assert {one.name for one in decided} == {"my-work-run"}
    threads = [threading.Thread(target=starting.start, args=(one, None), kwargs={"on_line": lambda line: None}) for one in decided]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = KEEPER.containers(everything=False)
    assert sorted(one.name for one in found) == ["my-work-run", *(f"my-work-run-{number}" for number in range(2, 7))]
    for one in found:
        assert one.labels[labels.NAME] == one.name
        KEEPER.remove(one)


def test_stop_lets_it_save_and_kills_what_does_not_end(project: Path) -> None:
    one = started(project, "sh", "-c", "trap '' TERM; echo ready; sleep 400 & while :; do sleep 0.05; done")
    assert wait_until(lambda: KEEPER.log_text(one, lines=None) == "ready\n", timeout_s=30)
    KEEPER.stop(one, grace_s=0)
    assert (now().state, now().exit_code) == ("exited", 137)
    assert not [process for process in marked() if process.id == one.id]


def test_a_job_goes_on_without_its_supervisor(project: Path) -> None:
    one = started(project, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    processes = record(one.name).started
    assert processes is not None
    os.kill(processes.supervisor, signal.SIGKILL)
    assert wait_until(lambda: not lives(processes.supervisor, processes.supervisor_start), timeout_s=30)
    before = len(KEEPER.log_text(one, lines=None))
    assert wait_until(lambda: len(KEEPER.log_text(one, lines=None)) > before, timeout_s=30)
    assert now().running
    KEEPER.stop(now(), grace_s=10)
    assert (now().state, now().exit_code) == ("exited", 143)


def test_an_end_that_nobody_saw(project: Path) -> None:
    one = started(project, "sleep", "100")
    processes = record(one.name).started
    assert processes is not None
    for pid in (processes.supervisor, processes.pid):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not now().running, timeout_s=30)
    assert now().exit_code == VANISHED
    assert why(KEEPER.ending(now()))
    assert KEEPER.remove(now())


def test_a_name_that_was_given_again_is_not_mistaken(project: Path) -> None:
    one = started(project, "sleep", "100", name="night")
    KEEPER.remove(one)
    other = started(project, "sleep", "100", name="night")
    KEEPER.stop(one, grace_s=0)
    assert not KEEPER.remove(replace(one, state="exited"))
    assert now("night").id == other.id
    assert now("night").running
    KEEPER.remove(other)


def of_somebody_else(other: subprocess.Popen[bytes], **changed: object) -> Started:
    """A record with the number of a process that has nothing to do with the job."""
    start = start_of(other.pid)
    assert start
    said = {"pid": other.pid, "start": start, "supervisor": other.pid, "supervisor_start": start, "moment": 0.0, "boot": folder.boot(), **changed}
    return Started(**said)  # type: ignore[arg-type]


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def test_a_job_of_another_machine_with_the_same_home(project: Path, other: subprocess.Popen[bytes]) -> None:
    made = folder.make("there", about(machine="gpu2 pid:[1]"))
    made.write(of_somebody_else(other))
    assert (now("there").state, now("there").exit_code, now("there").running) == ("on gpu2", None, False)
    for act in (lambda: KEEPER.remove(now("there")), lambda: KEEPER.stop(now("there"), grace_s=0)):
        with pytest.raises(EngineFailed, match="started on gpu2") as found:
            act()
        assert f"rm -r {made.path}" in found.value.hint
    with pytest.raises(NameTaken):
        started(project, "true", name="there")
    KEEPER.kill(now("there"), signal.SIGKILL)
    made.write(Ended(code=0, moment=1.0))
    assert now("there").state == "exited"
    assert KEEPER.remove(now("there"))
    assert other.poll() is None


@pytest.mark.parametrize("changed", [{"start": 1, "supervisor_start": 1}, {"boot": "an earlier one"}])
def test_a_number_that_is_another_processs_by_now_is_left_alone(other: subprocess.Popen[bytes], changed: dict[str, object]) -> None:
    folder.make("old", about()).write(of_somebody_else(other, **changed))
    assert (now("old").state, now("old").exit_code) == ("exited", VANISHED)
    KEEPER.stop(now("old"), grace_s=0)
    KEEPER.kill(now("old"), signal.SIGKILL)
    assert KEEPER.remove(now("old"))
    assert other.poll() is None


def test_a_job_whose_folder_was_removed_is_still_found(project: Path) -> None:
    one = started(project, "sleep", "100", name="lost")
    record("lost").remove()
    assert (now("lost").id, now("lost").state, now("lost").kind) == (one.id, "running", "run")
    KEEPER.stop(now("lost"), grace_s=5)
    assert KEEPER.containers(everything=True) == ()


def test_exec_has_the_jobs_environment_and_does_not_keep_it_running(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = started(project, "sleep", "100", gpus="0")
    monkeypatch.setenv("EXTRA", "here")
    session = KEEPER.exec_session(
        one,
        ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $EXTRA; pwd; exec sleep 100"],
        interactive=False,
        terminal=False,
        environment=["EXTRA"],
        folder=None,
        user=None,
    )
    process = subprocess.Popen(session.words, env=session.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["0 here\n", f"{project}\n"]
    KEEPER.remove(one)
    assert KEEPER.containers(everything=True) == ()
    assert process.poll() is None
    KEEPER.signal(one, session, signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
    with pytest.raises(LaunchUnfit, match="everything runs as you"):
        KEEPER.exec_session(one, ["true"], interactive=False, terminal=False, environment=(), folder=None, user="0")


def test_logs_follow_to_the_end(project: Path) -> None:
    (project / "json.py").write_text("1 / 0")
    one = started(project, "sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done")
    session = KEEPER.log_session(one, follow=True, lines=None, timestamps=False, since=None)
    done = subprocess.run(session.words, capture_output=True, text=True, timeout=30)
    assert done.stdout == "line 1\nline 2\nline 3\n"
    last = KEEPER.log_session(now(), follow=False, lines=2, timestamps=False, since=None)
    assert subprocess.run(last.words, capture_output=True, text=True, timeout=30, cwd=project).stdout == "line 2\nline 3\n"
    assert KEEPER.log_session(now(), follow=True, lines=2, timestamps=False, since=None).words[-3:] == ("2", "0", "0")
    with pytest.raises(LaunchUnfit, match="no times"):
        KEEPER.log_session(one, follow=False, lines=None, timestamps=True, since=None)


def test_a_start_that_fails_halfway_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_wait_for_begin", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        started(project, "sleep", "98")
    assert list(folder.jobs_folder().iterdir()) == []
    assert wait_until(lambda: not [one for one in marked() if "98" in one.command], timeout_s=30)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_ctrl_c_between_two_steps_of_a_start_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    def made(name: str, about: About) -> Folder:
        found = folder.make(name, about)
        os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(starting, "make", made)
    ended = threading.Event()
    threading.Thread(target=ended.wait).start()  # one that lets every signal through
    try:
        for act in (started, ran):
            with pytest.raises(kind):
                act(project, "sleep", "97")
            assert list(folder.jobs_folder().iterdir()) == []
    finally:
        ended.set()


def test_root_leaves_nothing_of_its_own_in_somebody_elses_home(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of that person could not write there any more."""
    need(os.geteuid() == 0, "root")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    with pytest.raises(MountRefused, match="belongs to uid 12345, and what is started runs as uid 0"):
        started(project, "true")
    (tmp_path / "file").touch()
    with pytest.raises(MountRefused, match="is no folder"):
        started(project, "true", home=str(tmp_path / "file"))
    monkeypatch.delenv("STOKER_HOME")
    monkeypatch.setattr("stoker.settings.home_folder", lambda: home)
    assert ran(project, "true")[0] == 0
    assert list(home.iterdir()) == []
    assert folder.jobs_folder() == tmp_path / "home-0/.stoker/local"


def test_a_supervisor_that_dies_at_once_is_told_as_such(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "means", lambda **_: Means(words=("sh", "-c", "echo no room; exit 3", "sh")))
    with pytest.raises(NotReady, match="no room"):
        started(project, "true")
    assert list(folder.jobs_folder().iterdir()) == []


def test_a_job_that_is_removed_while_it_starts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = starting._supervisor

    def removed(ready: starting._Ready) -> subprocess.Popen[bytes]:
        ready.folder.remove()
        return prepared(ready)

    monkeypatch.setattr(starting, "_supervisor", removed)
    with pytest.raises(NotReady, match="removed while it started"):
        started(project, "true")


# --- what it would do -----------------------------------------------------------------------------------------------


def test_the_plan_can_be_pasted(project: Path) -> None:
    one = a_job(project, "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES|$STOKER_DATA"; pwd', gpus="1", data=(str(project),))
    text = planned.command_text(one, None, explained=True)
    assert "# CUDA_VISIBLE_DEVICES=1: the GPUs that it may use" in text
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    assert done.stdout == f"1|{project}\n{project}\n"
    assert folder.folders() == ()


# --- the notebook ---------------------------------------------------------------------------------------------------


@pytest.fixture
def with_jupyter(tmp_path: Path) -> Environment:
    program = tmp_path / "env/bin/jupyter-lab"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return Environment(folder=tmp_path / "env", stack="cpu", says="cpu")


def test_a_notebook_has_tls_and_a_token_in_a_file(project: Path, with_jupyter: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    one = job.decide(Wanted(kind="notebook", project=project), port=9123)
    one.home.mkdir()
    service = notebook.service(one, with_jupyter, {"PATH": "/bin", "JUPYTER_TOKEN": "a" * 20})
    token = Path(service.environment["JUPYTER_TOKEN_FILE"]).read_text()
    assert token == "a" * 20
    service = notebook.service(one, with_jupyter, {"PATH": "/bin"})
    path = one.home / ".stoker/notebook/token"
    assert Path(service.environment["JUPYTER_TOKEN_FILE"]) == path
    assert path.stat().st_mode & 0o777 == 0o600
    words = " ".join(service.command)
    assert path.read_text() not in words + json.dumps(dict(service.environment))
    assert "JUPYTER_TOKEN" not in service.environment
    for option in ("ip=127.0.0.1", "port=9123", "port_retries=0", f"root_dir={project}", "allow_unauthenticated_access=False", "certfile="):
        assert f"--ServerApp.{option}" in words
    assert service.environment["JUPYTER_CONFIG_DIR"] == str(one.home / ".jupyter")
    monkeypatch.setattr(reach, "names", lambda address: ("gpu1", "192.0.2.7") if address == "192.0.2.7" else ())
    listening = job.decide(Wanted(kind="notebook", project=project, listen="192.0.2.7"))
    words = " ".join(notebook.service(listening, with_jupyter, {"PATH": "/bin"}).command)
    assert "--ServerApp.ip=192.0.2.7" in words
    assert "--ServerApp.local_hostnames=gpu1" in words
    names = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(one.home / ".stoker/notebook/tls.pem")]
    assert "IP Address:192.0.2.7" in subprocess.run(names, capture_output=True, text=True, check=True).stdout
    assert set(planned.command_text(one, None, explained=False).split()) >= {f"--ServerApp.port={one.ports[0].host}"}


def test_a_notebook_without_gpu_says_why(project: Path, with_jupyter: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)

    def told(environment: Environment, gpus: str | None = None) -> str | None:
        one = job.decide(Wanted(kind="notebook", project=project, gpus=gpus))
        one.home.mkdir(exist_ok=True)
        paths = notebook.service(one, environment, {"PATH": "/bin"}).environment.get("JUPYTER_CONFIG_PATH")
        return json.loads((Path(paths.split(":")[-1]) / "labconfig/page_config.json").read_text())[OPTION] if paths else None

    assert told(with_jupyter) is None
    assert told(replace(with_jupyter, without_gpu="no driver is loaded")) == "No driver is loaded."
    assert told(with_jupyter, gpus="none") == "It was started with `--gpus none`."
    own = replace(with_jupyter, stack=None)
    monkeypatch.setattr(notebook, "look", lambda: Seen(boards=2))
    assert told(own) == "2 NVIDIA cards here, but no driver is loaded."
    monkeypatch.setattr(notebook, "look", lambda: Seen(driver="580.95.05", cards=(Card(name="H100", compute_capability=(9, 0)),)))
    assert told(own) is None


def test_a_notebook_is_refused_to_root_and_without_jupyter(with_jupyter: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(ServiceUnfit, match="root"):
        notebook.check(with_jupyter)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    (with_jupyter.folder / "bin/jupyter-lab").unlink()
    for used, hint in ((with_jupyter, "stoker image lock"), (replace(with_jupyter, stack=None), "uv pip install jupyterlab")):
        with pytest.raises(LaunchUnfit, match="no JupyterLab") as found:
            notebook.check(used)
        assert hint in found.value.hint
    notebook.check(replace(with_jupyter, ready=False))

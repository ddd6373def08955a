"""What can be read of an ending: engine, control groups of both versions, the kernel's log, and who sent the signal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.launch import monitor, stops
from stoker.launch.containers import Container, from_podman
from stoker.launch.engine import Engine
from stoker.launch.evidence import gather, kernel_lines

ID = "520bfb9fffb44fdfbc70060b55d0ea7894d8ea724666a7203dd7cfcb70d81ff8"
OTHER = "0" * 64


class Place:
    """A machine written down, with an engine that answers from files."""

    def __init__(self, folder: Path) -> None:
        self.root, self.answers = folder / "root", folder / "answers"
        for path in (self.root / "dev", self.root / "proc/77", self.answers):
            path.mkdir(parents=True)
        program = folder / "podman"
        program.write_text(f'#!/bin/sh\ncat "{self.answers}/$1" 2>/dev/null\n')
        program.chmod(0o755)
        self.engine = Engine(name="podman", program=str(program))

    def state(self, **state: Any) -> None:
        host = {"Memory": 20 << 20, "PidsLimit": 20, "ShmSize": 64 << 20, "ReadonlyRootfs": True}
        (self.answers / "inspect").write_text(json.dumps([{"State": state, "HostConfig": host}]))

    def kernel(self, *events: tuple[float, str]) -> None:
        """Write events, by how many seconds ago they were."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        lines = [f"6,1,{int((now - ago) * 1e6)},-;{text}" for ago, text in events]
        (self.root / "dev/kmsg").write_text("\n".join(lines) + "\n")

    def group(self, version: int, kills: int) -> None:
        """Put process 77 into a control group in which the kernel has killed."""
        line, path = (
            ("0::/pod", "sys/fs/cgroup/pod/memory.events") if version == 2 else ("4:memory:/pod", "sys/fs/cgroup/memory/pod/memory.oom_control")
        )
        (self.root / "proc/77/cgroup").write_text(f"{line}\n")
        (self.root / path).parent.mkdir(parents=True)
        (self.root / path).write_text(f"under_oom 0\noom 9\noom_kill {kills}\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A machine on which nothing happened yet."""
    made = Place(tmp_path)
    monkeypatch.setenv("STOKER_HOST_ROOT", str(made.root))
    return made


def container(*, state: str = "exited", began_s: float = 60, gpus: str = "all") -> Container:
    """One that began some seconds ago and ended ten seconds ago."""
    now = time.time()
    labels = {"dev.stoker.launch.gpus": gpus}
    row = {
        "Id": ID,
        "Names": ["stoker-x"],
        "Labels": labels,
        "State": state,
        "ExitCode": 1,
        "StartedAt": int(now - began_s),
        "ExitedAt": int(now - 10),
    }
    return from_podman(row)


def killed(identity: str, *, by: str = OTHER) -> str:
    asking = f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-{by},mems_allowed=0,oom_memcg=/l"
    return f"{asking},task_memcg=/l/libpod-{identity},task=python,pid=1,uid=0"


def xid(number: int) -> str:
    return f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=1, name=python, text"


def test_what_the_engine_says(place: Place) -> None:
    place.state(Status="exited", Running=False, ExitCode=3, OOMKilled=True)
    (place.answers / "logs").write_text("last words\n")
    found = gather(place.engine, container())
    assert (found.code, found.oom_killed, found.memory_bytes, found.shm_bytes, found.read_only) == (3, True, 20 << 20, 64 << 20, True)
    assert found.pids == 20
    assert "last words" in found.log_tail


def test_a_container_that_is_gone(place: Place) -> None:
    found = gather(place.engine, container())
    assert (found.code, found.oom_killed, found.log_tail.strip(), found.kernel) == (1, False, "", ())


def test_one_that_never_ran_and_one_that_is_started_again_and_again(place: Place) -> None:
    place.state(Status="created", ExitCode=0)
    assert gather(place.engine, container(state="created")).code is None
    place.state(Status="restarting", Running=True, Restarting=True, ExitCode=5)
    assert gather(place.engine, container(state="restarting")).code == 5


def test_the_kernel_says_who_was_killed(place: Place) -> None:
    place.kernel((30, killed(ID)), (30, killed(OTHER, by=ID)), (30, "something else"))
    (line,) = kernel_lines(container())
    assert f"libpod-{ID},task" in line


def test_errors_of_gpus_count_while_it_ran(place: Place) -> None:
    place.kernel((3000, xid(48)), (30, xid(79)), (0, xid(31)))
    lines = kernel_lines(container())
    assert len(lines) == 1
    assert ": 79," in lines[0]
    assert kernel_lines(container(gpus="none")) == ()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kills", [0, 2])
def test_a_control_group_counts_what_the_kernel_killed_in_it(place: Place, version: int, kills: int) -> None:
    place.state(Status="running", Running=True, Pid=77)
    place.group(version, kills)
    found = gather(place.engine, container(state="running"))
    assert (found.code, found.oom_killed) == (None, bool(kills))


def test_the_kernel_says_whom_it_refused_a_process(place: Place) -> None:
    words = "cgroup: fork rejected by pids controller in /libpod_parent/libpod-"
    place.kernel((3000, f"{words}{ID}"), (30, f"{words}{OTHER}"), (25, f"{words}{ID}"))
    assert len(kernel_lines(container())) == 1, "an earlier life of it, or another one, does not count"


@pytest.mark.parametrize(
    ("line", "path", "counts", "refused"),
    [
        ("8:pids:/docker/ID", "pids/docker/ID", "max 3", True),
        ("8:pids:/docker/ID", "pids/docker/ID", "max 0", False),
        ("0::/pods/libpod-ID.scope", "pods/libpod-ID.scope", "max 1\n", True),
        ("0::/pods/libpod-ID.scope/container", "pods/libpod-ID.scope", "max 1\n", True),
        ("0::/pods/libpod-ID.scope", "pods", "max 1\n", False),
    ],
)
def test_a_control_group_counts_what_was_refused_in_it(place: Place, line: str, path: str, counts: str, refused: bool) -> None:
    place.state(Status="running", Running=True, Pid=77)
    (place.root / "proc/77/cgroup").write_text(f"{line.replace('ID', ID)}\n")
    folder = place.root / "sys/fs/cgroup" / path.replace("ID", ID)
    folder.mkdir(parents=True)
    (folder / "pids.events").write_text(counts)
    found = gather(place.engine, container(state="running"))
    assert (found.code, found.refused) == (None, refused)


def test_the_monitors_mark_counts(place: Place) -> None:
    place.state(Status="exited", ExitCode=137)
    folder = monitor.calling_folder("stoker-x")
    assert folder is not None
    (folder / "oom").touch()
    assert gather(place.engine, container()).oom_killed


def test_who_stopped_it(place: Place) -> None:
    place.state(Status="exited", ExitCode=143)
    assert gather(place.engine, container()).stopped_by is None
    (place.answers / "events").write_text('{"Status":"kill"}\n')
    assert "podman kill" in str(gather(place.engine, container()).stopped_by)
    stops.note_stop(ID)
    assert "stoker stop" in str(gather(place.engine, container()).stopped_by)
    (place.answers / "events").write_text('{"Status":"kill"}\n')
    stops.forget_stop(ID)
    place.state(Status="exited", ExitCode=130)
    assert gather(place.engine, container()).stopped_by is None, "Ctrl-C in front of it is no stop by somebody"


@pytest.mark.parametrize(("line", "oom"), [("A process of this unit has been killed by the OOM killer.", True), ("Deactivated successfully.", False)])
def test_systemd_is_asked_about_its_scope(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, oom: bool) -> None:
    journal = tmp_path / "programs/journalctl"
    journal.parent.mkdir()
    journal.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\necho "libpod-{ID}.scope: {line}"\n')
    journal.chmod(0o755)
    monkeypatch.setenv("PATH", f"{journal.parent}:/usr/bin:/bin")
    (place.root / "run/systemd/system").mkdir(parents=True)
    place.state(Status="exited", Running=False, ExitCode=137)
    ended = container()
    assert gather(place.engine, ended).oom_killed is oom
    asked = (tmp_path / "asked").read_text()
    assert f"--unit libpod-{ID}.scope --since @{int(ended.started or 0)}" in asked
    assert ("--user" in asked) is (os.geteuid() != 0)

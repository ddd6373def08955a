"""What goes wrong around containers: Stoker is killed, the disk is full, the engine dies, somebody else removes them, twenty at once."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.image_engines import Engine, podman, wait_for
from tests.image_roots import tiny_root
from tests.launch_engines import Desk, desk_at

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("words", [("run", "-d"), ("up", "notebook"), ("up", "ssh"), ("run",)], ids=" ".join)
def test_stoker_is_killed_at_any_point(desk: Desk, words: tuple[str, ...]) -> None:
    """What is left is whole: `ps` tells the truth about it, `rm` takes it away, and the next start works."""
    program = ["--", "sleep", "600"] if words[0] == "run" else []
    draws = random.Random(" ".join(words))
    for turn in range(3):
        process = desk.begin(*words, "--image", desk.engine.image, "--name", "struck", *program)
        time.sleep(draws.uniform(0.1, 1.6))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.5 if turn == 0 else 0.3)
        rows = desk.rows()
        assert set(rows) <= {"struck"}
        known = {name for name in desk.containers() if name.startswith("stoker-")}
        assert known == {f"stoker-{name}" for name in rows}
        for row in rows.values():
            truth = desk.engine.run("inspect", "--format", "{{.State.Running}}", "stoker-struck").stdout.strip()
            assert row["state"] == "running" or truth == "false"
        desk.stoker("rm", "--force", *rows) if rows else None
        assert desk.containers() == []
    assert not list(desk.folder.rglob("*.tmp"))
    desk.stoker(*words[:2], "--image", desk.engine.image, "--name", "struck", *(["--", "true"] if program else []))


def test_a_killed_foreground_run_leaves_nothing_running(desk: Desk) -> None:
    process = desk.begin("run", "--image", desk.engine.image, "--name", "left", "--", "sh", "-c", "echo ready; exec sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    wait_for(lambda: desk.rows().get("left", {}).get("state") != "running", "its end", 30)
    if "left" in desk.rows():
        desk.stoker("rm", "left")
    assert desk.containers() == []


def test_twenty_at_once(desk: Desk) -> None:
    """Names and ports that nobody gave are all different."""
    begun = [desk.begin("run", "-d", "--image", desk.engine.image, "-p", "8000", "--", "sleep", "600") for _ in range(20)]
    ends = [(process.communicate(timeout=280), process.returncode) for process in begun]
    assert [status for _, status in ends] == [0] * 20, [said for said, status in ends if status]
    rows = desk.rows()
    assert len(rows) == 20
    assert {row["state"] for row in rows.values()} == {"running"}
    assert len({str(row["ports"]) for row in rows.values()}) == 20
    desk.stoker("rm", "--force", *rows, limit_s=280)
    assert desk.containers() == []


@contextlib.contextmanager
def full_disk(folder: Path, owner: int) -> Iterator[Path]:
    """Mount a disk of one megabyte that is full."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,mode=0777,uid={owner},gid={owner}", "none", folder], check=True)
    try:
        with contextlib.suppress(OSError):
            (folder / "ballast").write_bytes(bytes(1 << 21))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_disk_of_the_home_is_full(desk: Desk) -> None:
    with full_disk(desk.folder / "home", desk.uid):
        done = desk.stoker("up", "notebook", "--image", desk.engine.image, status=None)
        assert done.returncode not in (0, 70)
        assert "space" in done.stderr.lower() or "full" in done.stderr.lower()
    assert desk.containers() == []


def test_the_disk_of_the_project_is_full(desk: Desk) -> None:
    with full_disk(desk.folder / "small", desk.uid) as small:
        script = "open('weights', 'wb').write(bytes(1 << 22))"
        done = desk.run("--no-check", "--project", str(small), "--", "python", "-c", script, status=1)
        assert "No space left" in done.stderr
        assert "full" in done.stderr.splitlines()[-1] or "full" in done.stderr.splitlines()[-3], done.stderr


def test_somebody_else_removes_it(desk: Desk) -> None:
    desk.run("-d", "--name", "job", "--", "sh", "-c", "echo ready; exec sleep 600")
    desk.wait_until_it_says("job", "ready")
    follower = desk.begin("logs", "-f", "job")
    front = desk.begin("run", "--image", desk.engine.image, "--name", "front", "--", "sh", "-c", "echo ready; exec sleep 600")
    assert front.stdout is not None
    assert front.stdout.readline() == "ready\n"
    assert desk.engine.run("rm", "--force", "stoker-job", "stoker-front").returncode == 0
    follower.communicate(timeout=30)
    _, said = front.communicate(timeout=30)
    assert front.returncode in (137, 143)
    assert "Traceback" not in said
    assert desk.rows() == {}
    for words in (["logs", "job"], ["stop", "job"], ["rm", "job"], ["exec", "job", "--", "true"]):
        assert "job" in desk.stoker(*words, status=76).stderr


def test_somebody_else_stops_it(desk: Desk) -> None:
    desk.run("-d", "--name", "job", "--", "sleep", "600")
    desk.engine.run("kill", "stoker-job")
    wait_for(lambda: desk.rows()["job"]["state"] == "exited", "its end")
    said = desk.stoker("logs", "job").stderr
    assert "kill" in said
    assert "memory" not in said
    desk.stoker("stop", "job")
    desk.stoker("rm", "job")


def test_a_container_started_by_hand_is_one_of_them(desk: Desk) -> None:
    done = desk.engine.run("run", "-d", "--name", "byhand", "--network", "none", "--label", "dev.stoker.launch=1", desk.engine.image, "sleep", "600")
    assert done.returncode == 0, done.stderr
    row = desk.rows()["byhand"]
    assert row["state"] == "running"
    assert desk.stoker("exec", "byhand", "--", "echo", "hi").stdout == "hi\n"
    desk.stoker("stop", "byhand")
    desk.stoker("rm", "byhand")
    assert desk.containers() == []


def test_others_are_left_alone(desk: Desk) -> None:
    """Containers without our label are not ours, whatever their name."""
    desk.engine.run("run", "-d", "--name", "stoker-pets-run", "--network", "none", desk.engine.image, "sleep", "600")
    assert desk.rows() == {}
    desk.stoker("rm", "--force", "pets-run", status=76)
    desk.run("-d", "--", "sleep", "600", status=None)
    assert "stoker-pets-run" in desk.containers()


def test_dockerd_dies_midway() -> None:
    need(os.geteuid() == 0 and shutil.which("dockerd") is not None, "root and dockerd")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        host = f"unix://{folder}/docker.sock"
        where = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        limits = ["--default-ulimit", "nofile=20000:20000", "--default-ulimit", "nproc=8192:8192"]
        with open(folder / "log", "w") as log:
            daemon = subprocess.Popen(["dockerd", "--host", host, *where, *network, *limits], stdout=log, stderr=log)
        engine = Engine(["docker"], {**os.environ, "DOCKER_HOST": host}, "tiny", folder)
        try:
            wait_for(lambda: engine.run("version").returncode == 0 or daemon.poll() is not None, "dockerd")
            with subprocess.Popen(["tar", "-C", str(tiny_root(folder / "root")), "-c", "."], stdout=subprocess.PIPE) as packed:
                subprocess.run(["docker", "import", "-", "tiny"], env=engine.environment, stdin=packed.stdout, check=True, capture_output=True)
            with desk_at(engine) as desk:
                front = desk.begin("run", "--image", "tiny", "--name", "front", "--", "/bin/sh", "-c", "echo ready; exec sleep 600")
                assert front.stdout is not None
                assert front.stdout.readline() == "ready\n", front.communicate()[1]
                daemon.kill()
                daemon.wait()
                _, said = front.communicate(timeout=60)
                assert front.returncode not in (0, 70)
                assert "Traceback" not in said
                for words in (["ps"], ["stop", "front"], ["run", "--image", "tiny", "--", "/bin/true"]):
                    done = desk.stoker(*words, status=None)
                    assert done.returncode in (74, 78), done.stderr
                    assert "docker" in done.stderr
        finally:
            daemon.kill()
            for pid in (folder / "exec").rglob("*.pid"):
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("engine", [podman], ids=["podman"], indirect=True)
def test_podmans_monitor_dies_midway(engine: Engine) -> None:
    with desk_at(engine) as desk:
        desk.run("-d", "--name", "job", "--", "sleep", "600")
        monitor = int(engine.run("inspect", "--format", "{{.State.ConmonPid}}", "stoker-job").stdout)
        os.kill(monitor, signal.SIGKILL)
        desk.stoker("stop", "job", status=None)
        desk.stoker("rm", "--force", "job")
        assert desk.containers() == []

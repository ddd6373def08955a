"""Real engines for tests: podman with runc and docker, each with storage of its own, and one real image, built once for all that use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need

SPECIFICATION = """
[image]
name = "whole"
torch = "latest"
variants = ["cli", "notebook", "ssh"]
"""
BRIDGE = "stoker-test"
CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Engine:
    """An engine with a storage of its own, and the image loaded into it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], image: str, folder: Path) -> None:
        self.command, self.environment, self.image = list(command), environment, image
        self.folder = folder
        """Where its programs run: conmon writes a file there when memory is short."""
        self.started: list[str] = []

    def run(self, *arguments: str, limit_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run the engine's own command line."""
        command = [*self.command, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL, cwd=self.folder
        )

    def inside(self, *program: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in a new container, which is removed afterwards."""
        return self.run("run", "--rm", "--network", "none", *options, self.image, *program)

    def start(self, *program: str, options: Sequence[str] = ()) -> str:
        """Start a container that goes on, with the network of this machine, and return its id."""
        done = self.run("run", "--detach", "--network", "host", *options, self.image, *program)
        assert done.returncode == 0, done.stderr
        self.started.append(done.stdout.strip())
        return self.started[-1]

    def end(self) -> None:
        """Remove what was started."""
        if self.started:
            self.run("rm", "--force", *self.started)


@pytest.fixture(scope="session")
def layout() -> Iterator[Path]:
    """The image, built by the command line as people call it.

    STOKER_TEST_IMAGES: a store to take from and to fill; STOKER_TEST_LAYOUT: an image that was built before.
    """
    if "STOKER_TEST_LAYOUT" in os.environ:
        yield Path(os.environ["STOKER_TEST_LAYOUT"])
        return
    for program in ("mmdebstrap", "apt-get"):
        need(shutil.which(program) is not None, program)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stoker.toml").write_text(SPECIFICATION)
        environment = {**os.environ, "STOKER_CACHE": os.environ.get("STOKER_TEST_IMAGES") or str(folder / "store")}
        for command in ("lock", "build"):
            words = [sys.executable, "-m", "stoker", "image", command]
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=1400)
            assert done.returncode == 0, done.stderr[-4000:]
        if "STOKER_TEST_IMAGES" not in os.environ:
            shutil.rmtree(folder / "store")
        yield folder / "whole.oci"


def load(layout: Path, engine: str, environment: dict[str, str]) -> str:
    """Load the image as `stoker image build --load` does, and return its name."""
    code = "import sys; from pathlib import Path; from stoker.image.oci import read_layout; from stoker.image.output import load; "
    words = [sys.executable, "-c", f"{code}print(load(read_layout(Path(sys.argv[1])), sys.argv[2]))", str(layout), engine]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def podman(folder: Path, layout: Path) -> Iterator[Engine]:
    """podman with runc, in folders with short names: it allows 50 characters."""
    need(os.geteuid() == 0, "root")
    for program in ("podman", "runc"):
        need(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is not None, program)
    (folder / "conf").write_text(CONF)
    (folder / "storage").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/s"\nrunroot = "{folder}/r"\n')
    environment = {**os.environ, "CONTAINERS_CONF": str(folder / "conf"), "CONTAINERS_STORAGE_CONF": str(folder / "storage")}
    engine = Engine(["podman"], environment, load(layout, "podman", environment), folder)
    try:
        yield engine
    finally:
        engine.end()
        engine.run("rmi", "--all", "--force")


def docker(folder: Path, layout: Path) -> Iterator[Engine]:
    """dockerd of this machine with a socket, a storage and a bridge of its own: every dockerd without one takes docker0 away."""
    need(os.geteuid() == 0, "root")
    for program in ("dockerd", "docker", "ip"):
        need(shutil.which(program) is not None, program)
    host = f"unix://{folder}/docker.sock"
    options = [
        "--data-root",
        f"{folder}/data",
        "--exec-root",
        f"{folder}/exec",
        "--pidfile",
        f"{folder}/pid",
        "--iptables=false",
        "--ip6tables=false",
        "--bridge",
        BRIDGE,
    ]
    limits = ["--default-ulimit", "nofile=20000:20000", "--default-ulimit", "nproc=8192:8192"]
    environment = {**os.environ, "DOCKER_HOST": host}
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True)
    subprocess.run(["ip", "address", "replace", "10.213.7.1/24", "dev", BRIDGE], check=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    with open(folder / "log", "w") as log:
        daemon = subprocess.Popen(["dockerd", "--host", host, *options, *limits], stdout=log, stderr=log)
    engine = Engine(["docker"], environment, "", folder)
    try:
        wait_for(lambda: engine.run("version").returncode == 0 or daemon.poll() is not None, "dockerd")
        assert daemon.poll() is None, (folder / "log").read_text()[-2000:]
        engine.image = load(layout, "docker", environment)
        yield engine
        engine.end()
    finally:
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(60)
        daemon.kill()
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)


@pytest.fixture(scope="session", params=[podman, docker], ids=["podman", "docker"])
def engine(request: pytest.FixtureRequest, layout: Path) -> Iterator[Engine]:
    """Each engine in turn."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield from request.param(Path(folder), layout)


def wait_for(condition: Any, what: str, limit_s: float = 120) -> Any:
    """Wait until a condition is true, and return what it said."""
    until = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until, f"{what}: not within {limit_s:g} s"
        time.sleep(0.1)
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])

"""One real image with PyTorch, JupyterLab and SSH, built, loaded and used as people do: in podman with runc, and in docker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.fakes import driver

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

SPECIFICATION = """
[image]
name = "whole"
torch = "latest"
variants = ["cli", "notebook", "ssh"]
"""
TORCH = "import torch; print(torch.__version__, (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item())"
CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# Asks the kernel over its websocket with what JupyterLab itself brings along, inside of the container.
KERNEL = """
import asyncio, json, ssl, sys, uuid
from tornado.websocket import websocket_connect
from tornado.httpclient import HTTPRequest
async def ask(port, token, kernel, code):
    context = ssl.create_default_context(cafile=sys.argv[5])
    url = f"wss://localhost:{port}/api/kernels/{kernel}/channels"
    channel = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {token}"}, ssl_options=context))
    header = {"msg_id": uuid.uuid4().hex, "username": "t", "session": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3", "date": ""}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    whole = {"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [], "content": content}
    await channel.write_message(json.dumps(whole))
    while True:
        said = json.loads(await asyncio.wait_for(channel.read_message(), 120))
        if said["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if said["msg_type"] == "stream":
            print(said["content"]["text"], end="")
        if said["msg_type"] == "error":
            print(said["content"]["evalue"])
        if said["msg_type"] == "execute_reply":
            return
asyncio.run(ask(*sys.argv[1:5]))
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
    """The image, built by the command line as people call it. STOKER_TEST_IMAGES: a store to take from and to fill."""
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
    """dockerd of this machine with a socket, a storage and a network of its own: none but that of the host."""
    need(os.geteuid() == 0, "root")
    for program in ("dockerd", "docker"):
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
    ]
    limits = ["--default-ulimit", "nofile=20000:20000", "--default-ulimit", "nproc=8192:8192"]
    environment = {**os.environ, "DOCKER_HOST": host}
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


@pytest.fixture(scope="session", params=[podman, docker], ids=["podman", "docker"])
def engine(request: pytest.FixtureRequest, layout: Path) -> Iterator[Engine]:
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
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def for_uid_1000(path: Path, mode: int) -> Path:
    """Give a file or folder to the user of the image."""
    os.chown(path, 1000, 1000)
    path.chmod(mode)
    return path


@pytest.fixture
def shared(engine: Engine) -> Iterator[Path]:
    """A folder that containers may mount: pytest's own is root's alone."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield for_uid_1000(Path(name), 0o755)


def test_it_trains_as_an_ordinary_user(engine: Engine, shared: Path) -> None:
    options = ["--shm-size=256m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-v", f"{shared}:/workspace"]
    done = engine.inside("stoker", "train", "digits", "--set", "epochs=4", "--set", "compile=no", "--name", "small", options=options)
    assert done.returncode == 0, done.stderr
    assert "stoker: stack cu130" in done.stderr
    assert "on the CPU" in done.stderr
    assert (shared / "runs/small").stat().st_uid == 1000
    record = json.loads((shared / "runs/small/run.json").read_text())
    assert record["status"] == "done"
    assert record["result"]["test_accuracy"] > 0.9


def test_it_compiles(engine: Engine) -> None:
    code = (
        "import torch; f = torch.compile(lambda x: (x * 2).sin()); x = torch.ones(9); assert torch.allclose(f(x), (x * 2).sin()); print('compiled')"
    )
    done = engine.inside("python", "-c", code)
    assert done.stdout.split()[-1:] == ["compiled"], done.stderr


def test_memory_and_cores_are_those_of_the_container(engine: Engine) -> None:
    done = engine.inside("python", "-c", "print(__import__('torch').get_num_threads())", options=["--cpus=1", "--memory=2g"])
    assert done.stdout.split()[-1:] == ["1"], done.stderr
    greedy = engine.inside("python", "-c", "x = bytearray(600 << 20); print('here')", options=["--memory=200m", "--memory-swap=200m"])
    assert greedy.returncode == 137
    assert "here" not in greedy.stdout


def test_read_only(engine: Engine) -> None:
    done = engine.inside("python", "-c", TORCH, options=["--read-only", "--tmpfs", "/tmp"])
    assert done.stdout.split()[-1:] == ["8.0"], done.stderr


def test_jupyterlab_over_tls_imports_torch(engine: Engine, shared: Path) -> None:
    port, token = free_port(), "a-token-of-the-tests-" + "0" * 16
    (shared / "home").mkdir()
    for_uid_1000(shared / "home", 0o755)
    (shared / "token").write_text(token)
    mounts = ["-v", f"{shared}/home:/home/stoker", "-v", f"{for_uid_1000(shared / 'token', 0o400)}:/run/stoker/token:ro"]
    container = engine.start("notebook", f"--ServerApp.port={port}", options=mounts)
    certificate = shared / "home/.stoker/notebook"
    found = wait_for(lambda: next(iter(certificate.glob("*.crt")), None) or next(iter(certificate.glob("*.pem")), None), "a certificate")
    context = ssl.create_default_context(cafile=str(found))

    def ask(path: str, word: str = token, *, method: str = "GET", data: bytes | None = None) -> Any:
        headers = {"Authorization": f"token {word}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"https://localhost:{port}{path}", headers=headers, method=method, data=data)
        with urllib.request.urlopen(asked, context=context, timeout=30) as answer:
            return json.loads(answer.read())

    def up() -> Any:
        with contextlib.suppress(OSError):
            return ask("/api/status")

    try:
        wait_for(up, "JupyterLab")
    except AssertionError:
        logs = engine.run("logs", container)
        raise AssertionError(logs.stdout + logs.stderr) from None
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask("/api/kernels", "wrong")
    assert "cu130" in json.dumps(ask("/api/kernelspecs"))
    kernel = ask("/api/kernels", method="POST", data=json.dumps({"name": "python3"}).encode())["id"]
    inside = f"/home/stoker/.stoker/notebook/{found.name}"
    said = engine.run("exec", container, "python", "-c", KERNEL, str(port), token, kernel, TORCH + "; import os; print(os.getuid())", inside)
    assert said.stdout.split()[-2:] == ["8.0", "1000"], said.stderr


def test_a_login_by_key_has_torch(engine: Engine, shared: Path) -> None:
    need(shutil.which("ssh") is not None, "ssh")
    port = free_port()
    for name in ("mine", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(shared / name)], check=True)
    keys = shared / "authorized_keys"
    shutil.copy(shared / "mine.pub", keys)
    container = engine.start("sshd", "-p", str(port), options=["-v", f"{for_uid_1000(keys, 0o600)}:/run/stoker/authorized_keys:ro"])

    def login(key: str, user: str, *program: str) -> subprocess.CompletedProcess[str]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={shared}/known", "IdentitiesOnly=yes", "ConnectTimeout=5"]
        words = ["ssh", "-F", "none", "-p", str(port), "-i", str(shared / key), *(f"-o{one}" for one in options), f"{user}@127.0.0.1", *program]
        return subprocess.run(words, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)

    try:
        wait_for(lambda: login("mine", "stoker", "true").returncode == 0, "sshd")
    except AssertionError:
        logs = engine.run("logs", container)
        raise AssertionError(logs.stdout + logs.stderr + login("mine", "stoker", "true").stderr) from None
    done = login("mine", "stoker", f"id -u; python -c '{TORCH}'")
    assert done.stdout.split()[0] == "1000"
    assert done.stdout.split()[-1:] == ["8.0"], done.stderr
    assert login("stranger", "stoker", "true").returncode == 255
    assert login("mine", "root", "true").returncode == 255


@pytest.fixture(scope="session")
def two_stacks() -> Iterator[tuple[str, ...]]:
    """Options that make it an image of two stacks, with a driver library that says what the environment tells it to."""
    need(shutil.which("gcc") is not None, "gcc")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        assert driver.build(folder / "lib")
        old = folder / "cu126"
        (old / "bin").mkdir(parents=True)
        (old / "lib/python3.13").mkdir(parents=True)
        (old / "lib/python3.13/site-packages").symlink_to("/opt/stoker/cu130/lib/python3.13/site-packages")
        (old / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.13\n")
        for program in ("python", "python3", "python3.13"):
            (old / "bin" / program).symlink_to("/usr/bin/python3.13")
        yield str(folder), "-v", f"{folder}/lib:/opt/fake:ro", "-v", f"{old}:/opt/stoker/cu126:ro", "-e", "LD_LIBRARY_PATH=/opt/fake"


@pytest.mark.parametrize(
    ("version", "capabilities", "stack"),
    [
        ("580.95.05", "9.0", "cu130"),
        ("550.54.14", "9.0", "cu126"),
        ("580.95.05", "6.1", "cu126"),
        ("", "", "cu130"),
        ("470.57.02", "9.0", None),
    ],
    ids=["new", "old", "old GPU", "none", "too old"],
)
def test_the_stack_that_the_driver_runs(engine: Engine, two_stacks: tuple[str, ...], version: str, capabilities: str, stack: str | None) -> None:
    folder, *options = two_stacks
    told = Path(folder) / "image.json"
    if not told.exists():
        mine = json.loads(engine.inside("cat", "/etc/stoker/image.json").stdout)
        older = mine["stacks"][0] | {"name": "cu126", "cuda": "12.6"}
        told.write_text(json.dumps(mine | {"stacks": [*mine["stacks"], older]}))
    fake = ["-e", f"FAKE_DRIVER={version}", "-e", f"FAKE_CAPABILITIES={capabilities}"] if version else []
    mounts = [*options, "-v", f"{told}:/etc/stoker/image.json:ro", *fake]
    done = engine.inside("python", "-c", "import sys; print(sys.prefix)", options=mounts)
    if stack is None:
        assert done.returncode == 54
        assert "image" in done.stderr
        return
    assert done.stdout.split()[-1:] == [f"/opt/stoker/{stack}"], done.stderr
    assert f"stoker: stack {stack}" in done.stderr
    other = {"cu130": "cu126", "cu126": "cu130"}[stack]
    switched = engine.inside("sh", "-c", f"stoker stack use {other}; python -c 'import sys; print(sys.prefix)'", options=mounts)
    assert switched.stdout.split()[-1:] == [f"/opt/stoker/{other}"], switched.stderr
    named = engine.inside("python", "-c", "import sys; print(sys.prefix)", options=[*mounts, "-e", f"STOKER_STACK={other}"])
    assert named.stdout.split()[-1:] == [f"/opt/stoker/{other}"], named.stderr


def test_the_check_finds_nothing(layout: Path) -> None:
    words = [sys.executable, "-m", "stoker", "image", "check", str(layout), "--no-run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr

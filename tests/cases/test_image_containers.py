"""One real image with PyTorch, JupyterLab and SSH, built, loaded and used as people do: in podman with runc, and in docker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.fakes import driver
from tests.image_engines import Engine, free_port, podman, wait_for

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

TORCH = "import torch; print(torch.__version__, (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item())"
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


# The compiler is the image's, whatever runs it.
@pytest.mark.parametrize("engine", [podman], ids=["podman"], indirect=True)
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

"""Rendered commands given to real engines: every one is accepted, and a pasted one does what its comments say."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.launch.account import account
from stoker.launch.engine import Engine
from stoker.launch.engines import render
from stoker.launch.limits import ulimits
from stoker.launch.request import Request
from tests.conftest import need
from tests.image_engines import CONF
from tests.launch_requests import BARE, cases, changed, mounts

IMAGE = "localhost/trainer:latest"
PROGRAMS = ("sh", "bash", "id", "cat", "stat", "touch", "chmod", "mkdir")
PERSON, GROUP = 4242, 4243


TAKEN = (
    *("notebook", "ssh", "user-stranger", "user-root", "limits-none", "limits-cpus", "limits-odd-bytes", "limits-all-ulimits", "writable", "no-home"),
    *("nothing-kept", "run-restarted", "run-with-init", "run-characters-of-terminals", "data-two", "volume-writable", "path-with-colon"),
    *("path-with-comma", "ports-two", "port-ipv6", "environment", "environment-file", "selinux"),
)
"""Those that write something in another way than others. Without GPUs: their names are looked up at once. Rootless: only root's tests run here."""


@pytest.mark.parametrize("name", [name for name in cases("docker") if name != "run-in-a-terminal"])
def test_dockers_client_understands_every_command(name: str, tmp_path: Path) -> None:
    program = shutil.which("docker")
    need(program is not None, "docker")
    request, engine = cases("docker")[name]
    command = render(_readable(request, tmp_path), dataclasses.replace(engine, program=str(program)))
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock", "DOCKER_CONTEXT": ""}
    done = subprocess.run(command.argv, env=nowhere, capture_output=True, text=True, errors="replace", timeout=60, stdin=subprocess.DEVNULL)
    # It reads all options before it looks for its daemon.
    assert re.search(r"cannot connect to the docker daemon|failed to connect to the docker", done.stderr, re.IGNORECASE), done.stderr


@dataclass(frozen=True, kw_only=True)
class Small:
    """podman with a storage of its own and an image of a few of this machine's programs."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, errors="replace", timeout=120, stdin=subprocess.DEVNULL)

    def paste(self, text: str) -> str:
        """Type a text into a shell and return what comes out."""
        done = subprocess.run(["bash", "--norc", "-s"], input=text, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def small() -> Iterator[Small]:
    need(os.geteuid() == 0, "root")
    for program in ("podman", "runc"):
        need(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is not None, program)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "conf").write_text(CONF)
        (folder / "storage").write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/s"\nrunroot = "{folder}/r"\n')
        environment = {**os.environ, "CONTAINERS_CONF": str(folder / "conf"), "CONTAINERS_STORAGE_CONF": str(folder / "storage")}
        made = Small(
            folder=folder, environment={**environment, "HF_TOKEN": "hf_secret", "WANDB_API_KEY": "", "http_proxy": "http://me:secret@proxy:1"}
        )
        _write_root(folder / "root.tar")
        done = made.run("podman", "import", "--change", "ENV PATH=/bin", "--change", 'CMD ["sh"]', str(folder / "root.tar"), IMAGE)
        assert done.returncode == 0, done.stderr
        try:
            yield made
        finally:
            made.run("podman", "rm", "--all", "--force", "--time", "0")
            made.run("podman", "rmi", "--all", "--force")


def _write_root(path: Path) -> None:
    """Write a root of a few programs and their libraries, and an account file as images have it."""
    with tarfile.open(path, "w") as archive:
        wanted = [str(shutil.which(program)) for program in PROGRAMS]
        needed = subprocess.run(["ldd", *wanted], capture_output=True, text=True).stdout
        libraries = set(re.findall(r"(/\S+) \(0x", needed))
        for program in wanted:
            archive.add(os.path.realpath(program), f"bin/{Path(program).name}")
        for library in sorted(libraries):
            archive.add(os.path.realpath(library), library.lstrip("/"))
        for folder, mode in (("etc", 0o755), ("home/stoker", 0o755), ("tmp", 0o1777), ("usr/bin", 0o755)):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)


def _readable(request: Request, folder: Path) -> Request:
    """A request whose file of variables is there: clients read it first."""
    if request.env_file is None:
        return request
    (folder / "variables.env").write_text("A=1\n")
    return dataclasses.replace(request, env_file=folder / "variables.env")


def test_podman_takes_every_command(small: Small, tmp_path: Path) -> None:
    refused = {}
    for name in TAKEN:
        request, engine = cases("podman")[name]
        words = render(_there(_readable(request, tmp_path), small.folder / "sources"), engine).argv
        done = small.run("podman", "create", "--replace", *(word for word in words[2:] if word != "--detach"))
        if done.returncode:
            refused[name] = done.stderr
    assert refused == {}


def _there(request: Request, folder: Path) -> Request:
    """A request whose folders are there, by the same names further down."""

    def made(path: Path) -> Path:
        place = folder / path.relative_to("/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    moved = tuple(dataclasses.replace(mount, source=made(mount.source)) for mount in request.mounts)
    project, home = request.project and made(request.project), request.home and made(request.home)
    return dataclasses.replace(request, mounts=moved, project=project, home=home)


@pytest.mark.parametrize("kept", [False, True])
def test_a_pasted_command_does_what_it_says(small: Small, kept: bool) -> None:
    folder = Path(tempfile.mkdtemp(dir=small.folder))
    folder.chmod(0o755)
    project = folder / 'it\'s, "mine"'
    project.mkdir()
    os.chown(project, PERSON, GROUP)
    engine = Engine(name="podman", program="podman", version=(4, 3, 1))
    who = account(engine, project=project, environment={})
    home = folder / "homes/a home"
    script = """
        id -u; id -g; id -un; pwd; echo $HOME; echo $HF_TOKEN; echo [$http_proxy$HTTP_PROXY]; ulimit -n
        touch /workspace/mine $HOME/mine
        touch /etc/x /mine /data/x 2>/dev/null || echo read-only
        for place in /tmp /home/stoker; do echo 'echo compiled' > $place/program; chmod +x $place/program; $place/program; done
        stat -c '%a %u' /home/stoker
        cat /proc/self/status
    """
    request = changed(
        BARE,
        name=f"pasted-{kept}".lower(),
        image=IMAGE,
        command=("bash", "-c", script),
        project=project,
        home=home if kept else None,
        account=who,
        limits={"ulimits": ulimits(engine), "memory_bytes": 256 * 2**20, "shm_bytes": 2**26},
        mounts=mounts(f"{folder} -> /data"),
        environment=("HF_TOKEN",),
    )
    command = render(request, engine)
    out = small.paste((command.explained() if kept else command.text()) + "\n")
    uid, gid, name, place, inside, token, proxy, files, *rest = out.splitlines()
    assert (uid, gid, name) == (str(PERSON), str(GROUP), f"user{PERSON}")
    assert (place, inside, token, proxy) == ("/workspace", "/home/stoker", "hf_secret", "[]")
    assert int(files) == next(soft for limit, soft, _ in ulimits(engine) if limit == "nofile")
    assert rest[:3] == ["read-only", "compiled", "compiled"]
    assert rest[3].split()[1] == str(PERSON)
    assert "NoNewPrivs:\t1" in rest
    assert "CapBnd:\t0000000000000000" in rest
    for path in (project / "mine", home / "mine")[: 1 + kept]:
        assert (path.stat().st_uid, path.stat().st_gid) == (PERSON, GROUP)
    assert "secret@proxy" not in small.run("podman", "inspect", request.container).stdout

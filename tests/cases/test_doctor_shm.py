"""64 MB of /dev/shm in a real container: a loader with workers dies; with the size that the doctor names there, it lives."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need

# Batches of 64x3x224x224 in float32, 38.5 MB: what the doctor computes with. The consumer is slow, so that the workers run ahead as far as they may.
LOADER = """
import sys, time
import torch
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 64 * 12
    def __getitem__(self, index):
        return torch.full((3, 224, 224), float(index))

if __name__ == "__main__":
    seen = 0
    for images in DataLoader(Images(), batch_size=64, num_workers=int(sys.argv[1])):
        time.sleep(0.3)
        seen += len(images)
    print("fed", seen)
"""
# What the doctor says inside the container: the finding's fix, and the workers that it has computed for.
DOCTOR = """
from stoker.doctor.checks.amounts import loader_workers
from stoker.doctor.checks.memory import shm_too_small
from stoker.doctor.facts import Facts
from stoker.doctor.facts.memory import gather_memory
from stoker.doctor.facts.processor import gather_processor
from stoker.doctor.facts.system import gather_system

facts = Facts(memory=gather_memory(), processor=gather_processor(), system=gather_system())
outcome = shm_too_small(facts)
print(type(outcome).__name__, loader_workers(facts))
print(getattr(outcome, "fix", outcome))
"""
CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=8192:8192"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
"""


class Machine:
    """A container made of this machine's own system, read-only, and an empty /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "containers.conf"
        self.conf.write_text(CONF)
        self.root = folder / "root"
        for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "var", "scripts"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(os.readlink(Path("/", name)))
        # Once each, a folder inside of another one not at all: the environment, the Python below it, and what they link to.
        spec = importlib.util.find_spec("torch")
        site = str(Path(spec.origin).parent.parent) if spec is not None and spec.origin else sys.prefix
        wanted = {os.path.realpath(path) for path in ("/usr", sys.prefix, sys.base_prefix, site, str(REPOSITORY / "src"))} | {sys.prefix}
        self.bound = [path for path in sorted(wanted) if not any(path != other and path.startswith(other + "/") for other in wanted)]

    def run(self, *arguments: str, shm: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a new container."""
        binds = [part for path in self.bound for part in ("-v", f"{path}:{path}:ro")]
        command = [
            "podman",
            "--storage-driver",
            "vfs",
            "--root",
            str(self.folder / "storage"),
            "--runroot",
            str(self.folder / "runroot"),
            "run",
            "--rm",
            "--network",
            "none",
        ]
        command += [f"--shm-size={shm}", "-v", f"{self.folder / 'scripts'}:/scripts:ro", *binds]
        command += ["-e", f"PYTHONPATH={REPOSITORY / 'src'}", "-e", "PYTHONDONTWRITEBYTECODE=1", "-w", "/tmp", "--rootfs", str(self.root), *arguments]
        environ = os.environ | {"CONTAINERS_CONF": str(self.conf)}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environ, stdin=subprocess.DEVNULL)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine that makes containers. Its folder has a short name: podman allows 50 characters."""
    need(os.geteuid() == 0, "root")
    need(shutil.which("podman") is not None, "podman")
    need(shutil.which("runc") is not None or Path("/usr/sbin/runc").exists(), "runc")
    need(importlib.util.find_spec("torch") is not None, "torch")
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        (Path(folder) / "scripts").mkdir()
        (Path(folder) / "scripts" / "loader.py").write_text(LOADER)
        (Path(folder) / "scripts" / "doctor.py").write_text(DOCTOR)
        tried = machine.run(sys.executable, "-c", "print('up')", shm="64m")
        need(tried.stdout.strip() == "up", f"a container that starts ({tried.stderr[-300:]})")
        yield machine


def test_the_loader_dies_in_64_mb_and_lives_in_what_the_doctor_names(machine: Machine) -> None:
    said = machine.run(sys.executable, "/scripts/doctor.py", shm="64m")
    assert said.returncode == 0, said.stderr
    kind, workers = said.stdout.splitlines()[0].split()
    assert kind == "Finding"
    named = re.search(r"--shm-size=(\w+)", said.stdout)
    assert named is not None, said.stdout

    dead = machine.run(sys.executable, "/scripts/loader.py", workers, shm="64m")
    assert dead.returncode != 0
    assert re.search(r"No space left on device|Bus error|unable to allocate shared memory|unable to write to file|killed by signal", dead.stderr), (
        dead.stderr[-2000:]
    )

    alive = machine.run(sys.executable, "/scripts/loader.py", workers, shm=named[1])
    assert alive.returncode == 0, alive.stderr[-2000:]
    assert alive.stdout.split() == ["fed", str(64 * 12)]
    assert machine.run(sys.executable, "/scripts/doctor.py", shm=named[1]).stdout.startswith("Passed")

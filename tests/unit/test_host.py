"""This machine's facts: read from written-down machines, and absent rather than wrong when a reading is garbage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stoker import host, shell
from stoker.host import driver as driver_file
from stoker.host import gpus as gpus_file

GIBIBYTE = 1024**3


def machine(folder: Path, files: dict[str, str]) -> Path:
    """Write a machine down."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def no_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without nvidia-smi."""
    answer_smi(monkeypatch, None)


def answer_smi(monkeypatch: pytest.MonkeyPatch, out: str | None, code: int = 0) -> None:
    def run(arguments: list[str], **others: Any) -> shell.Outcome:
        return shell.Outcome(command=arguments[0], code=None if out is None else code, out=out or "", err="")

    monkeypatch.setattr(gpus_file.shell, "run", run)
    monkeypatch.setattr(driver_file.shell, "run", run)


# --- driver ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_smi")
@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"sys/module/nvidia/version": "580.95.05\n"}, "580.95.05"),
        ({"sys/module/nvidia/version": "535.261\n"}, "535.261"),
        (
            {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13\nGCC version: gcc 12.2.0"},
            "470.57.02",
        ),
        ({"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (a@b)"}, "580.95.05"),
        ({"proc/driver/nvidia/version": "GCC version: 112.2.0"}, None),
        ({"sys/module/nvidia/version": "\x00\xff garbage"}, None),
        ({"sys/module/nvidia/version": "1.2.3.4.5"}, None),
        ({}, None),
    ],
)
def test_driver_version(tmp_path: Path, files: dict[str, str], version: str | None) -> None:
    assert host.find_driver(machine(tmp_path, files)).version == version


@pytest.mark.parametrize(
    ("out", "code", "version"),
    [("566.36\n", 0, "566.36"), ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver 580.1", 9, None), ("", 0, None)],
)
def test_driver_version_from_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, code: int, version: str | None) -> None:
    answer_smi(monkeypatch, out, code)
    assert host.find_driver(tmp_path).version == version


@pytest.mark.usefixtures("no_smi")
def test_card_without_driver(tmp_path: Path) -> None:
    pci = "sys/bus/pci/devices"
    files = {f"{pci}/a/vendor": "0x10de\n", f"{pci}/a/class": "0x030200\n", f"{pci}/b/vendor": "0x10de\n", f"{pci}/b/class": "0x040300\n"}
    files |= {f"{pci}/c/vendor": "0x8086\n", f"{pci}/c/class": "0x030000\n", "dev/nvidia0": "", "dev/nvidiactl": ""}
    found = host.find_driver(machine(tmp_path, files))
    assert (found.version, found.cards, found.nodes) == (None, 1, 1)  # b is the card's sound device, c an Intel one


# --- GPUs -----------------------------------------------------------------------------------------------------------


def nvml(**changes: Any) -> SimpleNamespace:
    """An NVML that knows one H100 and lost another GPU."""

    def handle(index: int) -> str:
        if index == 1:
            raise RuntimeError("GPU is lost")
        return "handle"

    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetName": lambda _: "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetUUID": lambda _: b"GPU-1",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 * GIBIBYTE),
        "nvmlDeviceGetCudaComputeCapability": lambda _: (9, 0),
    }
    return SimpleNamespace(**(answers | changes))


def fail(*arguments: Any) -> Any:
    raise RuntimeError("NVML: Unknown Error")


def test_gpus_from_nvml_without_the_lost_one() -> None:
    (gpu,) = host.find_gpus(nvml())
    assert (gpu.index, gpu.name, gpu.uuid) == (0, "NVIDIA H100 80GB HBM3", "GPU-1")
    assert (gpu.memory_bytes, gpu.compute_capability) == (80 * GIBIBYTE, (9, 0))


@pytest.mark.parametrize(
    ("question", "answer", "field"),
    [
        ("nvmlDeviceGetMemoryInfo", fail, "memory_bytes"),
        ("nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(total=-1), "memory_bytes"),
        ("nvmlDeviceGetMemoryInfo", lambda _: None, "memory_bytes"),
        ("nvmlDeviceGetCudaComputeCapability", fail, "compute_capability"),
        ("nvmlDeviceGetCudaComputeCapability", lambda _: ("9", "0"), "compute_capability"),
        ("nvmlDeviceGetCudaComputeCapability", lambda _: (0, 0), "compute_capability"),
        ("nvmlDeviceGetName", fail, "name"),
        ("nvmlDeviceGetUUID", lambda _: 17, "uuid"),
    ],
)
def test_a_reading_that_is_refused_or_garbage_is_absent(question: str, answer: Callable[..., Any], field: str) -> None:
    (gpu,) = host.find_gpus(nvml(**{question: answer}))
    assert getattr(gpu, field) is None


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount"])
def test_smi_is_asked_when_nvml_does_not_start(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    answer_smi(
        monkeypatch, "0, NVIDIA H200, GPU-a, 143771, 9.0\n1, Tesla V100, GPU-b, [N/A], 7.0\nNo devices were found\n2, [Unknown Error], x, y, z\n"
    )
    first, second, third = host.find_gpus(nvml(**{broken: fail}))
    assert (first.name, first.memory_bytes, first.compute_capability) == ("NVIDIA H200", 143771 * 1024**2, (9, 0))
    assert (second.memory_bytes, second.compute_capability) == (None, (7, 0))
    assert (third.name, third.compute_capability) == (None, None)


@pytest.mark.usefixtures("no_smi")
def test_no_gpus_when_nothing_answers() -> None:
    assert host.find_gpus(nvml(nvmlInit=fail)) == ()


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"sys/fs/cgroup/cpu.max": "garbage\n"}, 16),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            6,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            16,
        ),
    ],
)
def test_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert host.find_limits(machine(tmp_path, files)).cores == cores


@pytest.mark.parametrize(
    ("files", "limit_bytes"),
    [
        ({}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": f"{2 * GIBIBYTE}\n"}, 2 * GIBIBYTE),
        ({"sys/fs/cgroup/memory.max": f"{64 * GIBIBYTE}\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{GIBIBYTE}", "sys/fs/cgroup/a/b/memory.max": f"{3 * GIBIBYTE}"}, GIBIBYTE),
        ({"proc/self/cgroup": "3:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{GIBIBYTE}"}, GIBIBYTE),
        ({"proc/self/cgroup": "3:memory:/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], limit_bytes: int | None) -> None:
    found = host.find_limits(machine(tmp_path, {"proc/meminfo": "MemTotal:       33554432 kB\n"} | files))
    assert (found.memory_total_bytes, found.memory_limit_bytes) == (32 * GIBIBYTE, limit_bytes)


# --- container and the whole ----------------------------------------------------------------------------------------


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of a container."""
    for name in ("KUBERNETES_SERVICE_HOST", "container", "STOKER_IMAGE_DIGEST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(("mark", "engine"), [("run/.containerenv", "podman"), (".dockerenv", "docker")])
def test_container_and_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, engine: str) -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    assert host.find_container(tmp_path) is None
    root = machine(tmp_path, {mark: ""})
    found = host.find_container(root)
    assert found is not None
    assert (found.engine, found.image_digest) == (engine, None)
    machine(tmp_path, {"etc/stoker/image-digest": f"{digest}\n"})
    assert host.find_container(root) == host.Container(engine=engine, image_digest=digest)
    monkeypatch.setenv("STOKER_IMAGE_DIGEST", "no digest")
    assert host.find_container(root) == host.Container(engine=engine, image_digest=None)


@pytest.mark.usefixtures("outside")
def test_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert host.find_container(machine(tmp_path, {".dockerenv": ""})) == host.Container(engine="kubernetes", image_digest=None)


@pytest.mark.usefixtures("no_smi", "outside")
def test_the_facts_of_an_empty_machine_are_plain_values(tmp_path: Path) -> None:
    facts = host.facts(tmp_path)
    assert facts.gpus == ()
    assert facts.container is None
    assert json.loads(json.dumps(facts.as_dict()))["limits"]["cores"] >= 1


def test_the_facts_of_this_machine() -> None:
    facts = host.facts()
    assert facts.limits.memory_total_bytes
    assert 1 <= facts.limits.cores <= (os.cpu_count() or 1)

"""The doctor's GPU section: what NVML said is read with distrust, and judged; GPUs in order have no finding."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker import host
from stoker.doctor.checks import gpus as checks
from stoker.doctor.examination import title_of
from stoker.doctor.facts import Facts, Gpu, System
from stoker.doctor.facts import gpus as gpu_facts
from stoker.doctor.facts.gpus import GpuProcess, MigDevice, gather_gpus
from stoker.doctor.facts.nvml import Answer
from stoker.doctor.finding import Finding, Severity, check_id
from tests.fakes.machines import container, h200, laptop, server, written

GIBIBYTE = 1024**3
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
OLD = {"name": "NVIDIA GeForce RTX 3060", "persistence": False, "nvlinks": None, "nvlinks_active": None, "fabric": None}


def found(facts: Facts) -> dict[str, Finding]:
    """Return what the checks of this section find."""
    outcomes = {check_id(check): check(facts) for check in checks.CHECKS}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


def pair(**changes: Any) -> Facts:
    """A server whose second GPU is changed."""
    return server(gpus=(h200(0), h200(1, **changes)))


def one(**changes: Any) -> Facts:
    """A machine with one GPU, changed."""
    return server(driver={"cards": 1, "card_modules": ("nvidia",)}, gpus=(h200(0, **changes),))


@pytest.mark.parametrize(
    "facts",
    [
        server(),
        container(),
        laptop(),
        Facts(),
        one(**OLD),
        one(),
        # At work: at its power limit, hot but not too hot, the link at full speed.
        one(utilization_percent=30, throttle=("sw_power_cap",), power_w=699.0, pcie_generation=5, temperature_c=80),
        # A GPU that tells nothing beyond its name (vGPU, Jetson).
        server(driver={"cards": 1, "card_modules": ("nvidia",)}, gpus=(Gpu(index=0, name="NVIDIA A10-24Q", memory_bytes=24 * GIBIBYTE),)),
        server(driver={"cards": 1, "card_modules": ("nvidia",)}, gpus=(Gpu(index=0),)),
        # A laptop's GPU: narrow, of an older generation, with less power than the default.
        one(**OLD | {"name": "NVIDIA GeForce RTX 4070 Laptop GPU", "pcie_width": 8, "pcie_generation_max": 4, "power_limit_w": 80.0}),
        # Tied to its processor by NVLink-C2C: the PCIe link carries little.
        one(name="NVIDIA GH200 480GB", pcie_width=1, pcie_width_slot=None, pcie_generation=4, pcie_generation_max=4),
        # A cloud's slot is not the real one.
        replace(one(pcie_width=8, pcie_width_slot=None), system=System(virtual="amazon")),
        # A job that was given one of two: NVML lists that one, /sys both.
        server(gpus=(h200(0, peers={}),), variables={"SLURM_JOB_ID": "48211"}),
        # A container that was given one of two.
        container(gpus=(h200(0),)),
        # MIG, divided.
        one(mig=True, mig_devices=(MigDevice(index=0, name="MIG 7g.141gb", uuid="MIG-1"),), nvlinks_active=0),
    ],
)
def test_gpus_in_order_have_no_finding(facts: Facts) -> None:
    assert found(facts) == {}


@pytest.mark.parametrize(
    ("facts", "name", "severity", "said", "fix"),
    [
        (pair(lost=True, lost_text="GPU is lost"), "gpu-lost", ERROR, "GPU 1 (NVIDIA H200) is lost", "reboot"),
        (pair(lost=True, lost_text="GPU requires restart"), "gpu-lost", ERROR, "is lost", "--gpu-reset -i 1"),
        (server(gpus=(h200(0, peers={}),)), "gpu-lost", ERROR, "1 of 2 GPUs does not answer", "reboot"),
        (pair(rows_failed=True, rows_pending=True), "rows-remapped", ERROR, "failed", "exchanged"),
        (pair(rows_pending=True, ecc_uncorrected_volatile=3), "rows-remapped", WARNING, "waits for a reset", "--gpu-reset -i 1"),
        (pair(rows_pending=None, rows_failed=None, pages_pending=True), "rows-remapped", WARNING, "waits", "--gpu-reset"),
        (pair(ecc_uncorrected_volatile=2), "ecc-errors", ERROR, "GPU 1", "--gpu-reset"),
        (pair(ecc_uncorrected_aggregate=2), "ecc-errors", NOTE, "in former times", "nvidia-smi -q"),
        (pair(throttle=("sw_thermal",), temperature_c=88), "thermal-throttling", WARNING, "heat", "air flow"),
        (pair(throttle=("hw_slowdown", "hw_thermal")), "thermal-throttling", WARNING, "heat", "air flow"),
        (pair(throttle=("hw_slowdown", "hw_power_brake")), "power-throttling", ERROR, "power supply", "ipmitool"),
        (pair(throttle=("hw_slowdown",), power_w=None), "power-throttling", ERROR, "power supply", "cable"),
        (one(mig=True), "mig-without-devices", ERROR, "no instance was created", "-cgi 0 -C"),
        (pair(mig=True), "mig-without-devices", WARNING, "GPU 1", "-i 1 -mig 0"),
        (container(gpus=(h200(0, mig=True),)), "mig-without-devices", ERROR, "in this container", "device=0:0"),
        (pair(compute_mode="prohibited"), "compute-mode-set", ERROR, "no process", "-i 1 -c DEFAULT"),
        (pair(compute_mode="exclusive_process"), "compute-mode-set", NOTE, "one process only", "-c DEFAULT"),
        (
            pair(compute_mode="exclusive_process", processes=(GpuProcess(pid=7, memory_bytes=GIBIBYTE // 4),)),
            "compute-mode-set",
            WARNING,
            "and one is there",
            "-c DEFAULT",
        ),
        (
            pair(memory_used_bytes=140 * GIBIBYTE, processes=(GpuProcess(pid=4242, name="python", memory_bytes=139 * GIBIBYTE),)),
            "gpu-memory-nearly-full",
            WARNING,
            "GPU 1",
            "CUDA_VISIBLE_DEVICES=0",
        ),
        (one(memory_used_bytes=140 * GIBIBYTE), "gpu-memory-nearly-full", WARNING, "90%", "nvidia-smi"),
        (one(processes=(GpuProcess(pid=4242, name="python", memory_bytes=9 * GIBIBYTE),)), "gpu-busy", NOTE, "at work", "ps -fp 4242"),
        (one(utilization_percent=98, pcie_generation=5), "gpu-busy", NOTE, "at work", "nvidia-smi"),
        (pair(pcie_width=4), "pcie-narrow", WARNING, "x4, where the card can do x16", "seat"),
        (pair(pcie_width=8, pcie_width_slot=8), "pcie-narrow", NOTE, "x8", "slot"),
        (pair(pcie_width=8, pcie_width_slot=None), "pcie-narrow", WARNING, "x8", "seat"),
        (pair(pcie_generation_max=4), "pcie-generation-low", NOTE, "generation 4, where the card can do 5", "lspci"),
        (pair(nvlinks_active=12), "nvlink-down", WARNING, "12 NVLinks are up, other GPUs of the kind have 18", "nvlink -s"),
        (pair(persistence=False), "persistence-off", WARNING, "GPU 1", "persistenced"),
        (pair(power_limit_w=500.0), "power-limit-lowered", NOTE, "GPU 1", "-pl 700"),
        (pair(clock_applications_mhz=1200), "clocks-lowered", NOTE, "GPU 1", "-rac"),
        (pair(name="NVIDIA H100 80GB HBM3"), "gpus-unlike", NOTE, "NVIDIA H100", "CUDA_DEVICE_ORDER"),
    ],
)
def test_a_fault_is_one_finding(facts: Facts, name: str, severity: Severity, said: str, fix: str) -> None:
    findings = found(facts)
    assert list(findings) == [name]
    finding = findings[name]
    assert finding.severity is severity
    assert said in finding.what
    assert fix in finding.fix
    assert finding.evidence
    assert finding.consequence


def test_a_busy_gpu_whose_link_fell() -> None:
    findings = found(one(utilization_percent=99, pcie_generation=1))
    assert set(findings) == {"gpu-busy", "pcie-generation-low"}
    assert "generation 1, where card and slot can do 5" in findings["pcie-generation-low"].what
    assert findings["pcie-generation-low"].severity is WARNING
    assert "16 times" in findings["pcie-generation-low"].consequence


def test_virtual_machines_choose_links_and_peers() -> None:
    facts = server(gpus=(h200(0, pcie_generation_max=3, peers={"1": "not_supported"}, topology={"1": "PHB"}), h200(1, pcie_generation_max=3)))
    assert set(found(facts)) == {"pcie-generation-low", "peer-access-missing"}
    assert found(replace(facts, system=replace(facts.system, virtual="kvm"))) == {}


@pytest.mark.parametrize(
    ("way", "name", "seen"), [("PIX", "NVIDIA H200", True), ("SYS", "NVIDIA H200", False), ("PIX", "NVIDIA GeForce RTX 4090", False)]
)
def test_peer_access(way: str, name: str, seen: bool) -> None:
    gpus = tuple(h200(index, name=name, peers={str(1 - index): "chipset_not_supported"}, topology={str(1 - index): way}) for index in (0, 1))
    assert ("peer-access-missing" in found(server(gpus=gpus))) is seen


def test_persistence_may_be_mended_by_root_on_the_machine() -> None:
    facts = pair(persistence=False)
    assert found(facts)["persistence-off"].safe_fix is None
    assert found(replace(facts, system=replace(facts.system, uid=0)))["persistence-off"].safe_fix == ("nvidia-smi", "-pm", "1")
    assert found(container(gpus=facts.gpus))["persistence-off"].safe_fix is None


def test_mig_instances_in_cuda_visible_devices() -> None:
    parts = (MigDevice(index=0, uuid="MIG-a"), MigDevice(index=1, uuid="MIG-b"))
    facts = one(mig=True, mig_devices=parts)
    assert set(found(replace(facts, variables={"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}))) == {"mig-chosen-wrong"}
    assert found(replace(facts, variables={"CUDA_VISIBLE_DEVICES": "MIG-b"})) == {}


def test_every_check_has_a_title_and_a_paragraph() -> None:
    assert len({check_id(check) for check in checks.CHECKS}) == len(checks.CHECKS) >= 18
    for check in checks.CHECKS:
        assert title_of(check).endswith(".")
        assert len((check.__doc__ or "").split()) > 20, check.__name__


# --- gathering ------------------------------------------------------------------------------------------------------

SAID: dict[str, Any] = {
    "index": 0,
    "name": "NVIDIA H200",
    "uuid": "GPU-1",
    "bus_id": "00000000:18:00.0",
    "compute_capability": [9, 0],
    "memory_bytes": 141 * GIBIBYTE,
    "memory_used_bytes": 5,
    "power_mw": 77_000,
    "mig": True,
    "mig_devices": [{"index": 0, "name": "MIG 7g", "uuid": "MIG-1", "memory_bytes": 5}],
    "processes": [{"pid": 12, "name": None, "memory_bytes": None}],
    "throttle": ["gpu_idle"],
    "peers": {"1": "ok"},
    "refused": {"nvmlDeviceGetFanSpeed": 3, "text": "Not Supported"},
}


def answered(monkeypatch: pytest.MonkeyPatch, *said: Any, **others: Any) -> None:
    monkeypatch.setattr(gpu_facts, "read_nvml", lambda: Answer(start={"code": 0}, gpus=said, **others))


def test_readings_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = "sys/devices/pci0000:00/0000:17:00.0"
    written(
        tmp_path,
        {f"{bridge}/max_link_width": "8\n", f"{bridge}/0000:18:00.0/numa_node": "1\n", f"{bridge}/0000:18:00.0/local_cpulist": "0-31\n"},
    )
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:18:00.0").symlink_to(tmp_path / bridge / "0000:18:00.0")
    answered(monkeypatch, SAID)
    (gpu,) = gather_gpus(tmp_path)
    assert (gpu.name, gpu.bus_id, gpu.compute_capability, gpu.power_w, gpu.lost) == ("NVIDIA H200", "0000:18:00.0", (9, 0), 77.0, False)
    assert (gpu.numa_node, gpu.local_cpus, gpu.pcie_width_slot) == (1, "0-31", 8)
    assert gpu.mig_devices == (MigDevice(index=0, name="MIG 7g", uuid="MIG-1", memory_bytes=5),)
    assert gpu.processes == (GpuProcess(pid=12),)
    assert gpu.peers == {"1": "ok"}


def test_the_doctors_own_child_is_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {"proc/12/stat": f"12 (python (x)) S {os.getpid()} 1 1", "proc/13/stat": "13 (python) S 1 1 1"})
    answered(monkeypatch, SAID | {"processes": [{"pid": 12}, {"pid": 13}, {"pid": 14}]})
    (gpu,) = gather_gpus(tmp_path)
    assert [process.pid for process in gpu.processes] == [13, 14]


def test_gpus_that_a_dying_library_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = "NVML died with signal 11 (SIGSEGV)"
    monkeypatch.setattr(gpu_facts, "read_nvml", lambda: Answer(start={"code": 0, "count": 2}, gpus=(SAID,), error=error))
    first, second = gather_gpus(tmp_path)
    assert (first.unanswered, second.unanswered, second.index) == (None, error, 1)
    assert found(server(gpus=(h200(0), second))) == {}  # nvml-broken tells it


def test_a_lost_gpu_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, SAID, {"index": 1, "refused": {"nvmlDeviceGetHandleByIndex": 15, "text": "GPU is lost"}})
    _, lost = gather_gpus(tmp_path)
    assert (lost.index, lost.lost, lost.lost_text, lost.name) == (1, True, "GPU is lost", None)


@pytest.mark.parametrize("garbage", [-1, 2**70, 3.5, "9", True, None, [], {}, "\x00\x01", [9], [9, "0"], [True, 0], ["x"], [{"pid": "x"}], [None]])
def test_garbage_in_any_place_becomes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, garbage: Any) -> None:
    fields = [*SAID, *gpu_facts._WHOLE, *gpu_facts._FLAGS, "topology", "power_limit_mw", "fabric", "compute_mode"]
    answered(monkeypatch, dict.fromkeys(fields, garbage) | {"index": 0})
    (gpu,) = gather_gpus(tmp_path)
    assert gpu.memory_bytes is None
    assert gpu.compute_capability is None
    assert gpu.power_w is None
    assert gpu.temperature_c is None
    assert gpu.name in (None, "9")
    server_with_it = server(driver={"cards": 1, "card_modules": ("nvidia",)}, gpus=(gpu,))
    assert not [finding for finding in found(server_with_it).values() if "check itself" in finding.what]


@pytest.mark.parametrize("index", [None, -1, "0", 99, True])
def test_a_gpu_without_a_number_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any) -> None:
    answered(monkeypatch, SAID | {"index": index})
    assert gather_gpus(tmp_path) == ()


def test_smi_where_the_binding_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, binding=False)
    listed = (host.Gpu(index=0, name="Tesla T4", uuid="GPU-1", memory_bytes=15 * GIBIBYTE, compute_capability=(7, 5)),)
    monkeypatch.setattr(gpu_facts, "gpus_from_smi", lambda timeout_s: listed)
    (gpu,) = gather_gpus(tmp_path)
    assert (gpu.name, gpu.compute_capability) == ("Tesla T4", (7, 5))

"""Each GPU's health and set-up, as NVML tells it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker import host
from stoker.doctor.facts.nvml import read_nvml
from stoker.host.gpus import gpus_from_smi
from stoker.host.place import filesystem_root, read

# NVML's error codes "GPU is lost" and "GPU requires restart".
_LOST = (15, 16)
_FLAGS = ("display", "persistence", "mig", "mig_pending", "ecc", "rows_pending", "rows_failed", "pages_pending")
# Whole numbers, and the most that each can sensibly be.
_WHOLE = {
    "utilization_percent": 100,
    "ecc_uncorrected_volatile": 2**40,
    "ecc_uncorrected_aggregate": 2**40,
    "ecc_corrected_volatile": 2**40,
    "rows_remapped_correctable": 2**20,
    "rows_remapped_uncorrectable": 2**20,
    "temperature_c": 200,
    "temperature_limit_c": 200,
    "clock_sm_mhz": 20_000,
    "clock_sm_max_mhz": 20_000,
    "clock_applications_mhz": 20_000,
    "clock_applications_default_mhz": 20_000,
    "pcie_generation": 9,
    "pcie_generation_max": 9,
    "pcie_generation_gpu": 9,
    "pcie_width": 32,
    "pcie_width_max": 32,
    "nvlinks": 64,
    "nvlinks_active": 64,
}


@dataclass(frozen=True, kw_only=True)
class MigDevice:
    """A part of a GPU."""

    index: int
    """Its number within the GPU."""
    name: str | None = None
    """As "MIG 1g.10gb"; None: the driver does not tell."""
    uuid: str | None = None
    """As MIG-8f0c..., what CUDA_VISIBLE_DEVICES takes."""
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    name: str | None = None
    """None: in another container, or ended meanwhile."""
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. What it does not tell is None."""

    index: int = 0
    """Its number for NVML and nvidia-smi (PCI order)."""
    name: str | None = None
    """As "NVIDIA H200"."""
    uuid: str | None = None
    bus_id: str | None = None
    """As 0000:18:00.0."""
    lost: bool = False
    """Whether the driver says that it is lost, has fallen off the bus or needs a reset."""
    lost_text: str | None = None
    """In which words."""
    unanswered: str | None = None
    """Why nothing more is known of it: "NVML died with signal 11 (SIGSEGV)"; None: it answered, or is lost."""
    compute_capability: tuple[int, int] | None = None
    """As (9, 0)."""
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    processes: tuple[GpuProcess, ...] = ()
    utilization_percent: int | None = None
    """How much of the last moment a kernel ran."""
    compute_mode: str | None = None
    """default, exclusive_process, exclusive_thread or prohibited."""
    display: bool | None = None
    """Whether a screen is driven by it."""
    persistence: bool | None = None
    mig: bool | None = None
    mig_pending: bool | None = None
    """What MIG will be after a reset."""
    mig_devices: tuple[MigDevice, ...] = ()
    ecc: bool | None = None
    """Whether ECC is on."""
    ecc_uncorrected_volatile: int | None = None
    """Memory errors that ECC could not correct, since the driver was loaded."""
    ecc_uncorrected_aggregate: int | None = None
    """The same over the GPU's life."""
    ecc_corrected_volatile: int | None = None
    rows_remapped_correctable: int | None = None
    """Memory rows replaced because of errors that could be corrected."""
    rows_remapped_uncorrectable: int | None = None
    rows_pending: bool | None = None
    """Whether a replacement waits for a reset."""
    rows_failed: bool | None = None
    """Whether a replacement failed: the GPU is to be exchanged."""
    pages_pending: bool | None = None
    """Whether retiring a memory page waits for a reset (before Ampere)."""
    throttle: tuple[str, ...] = ()
    """Why its clock is lower than it could be, when it lasts: gpu_idle, applications_clocks, sw_power_cap,
    hw_slowdown, sync_boost, sw_thermal, hw_thermal, hw_power_brake, display."""
    temperature_c: int | None = None
    temperature_limit_c: int | None = None
    """From here on it slows down."""
    power_w: float | None = None
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_applications_mhz: int | None = None
    """The clock that somebody fixed for applications, else the default one."""
    clock_applications_default_mhz: int | None = None
    pcie_generation: int | None = None
    """Now; idle GPUs lower it."""
    pcie_generation_max: int | None = None
    """What GPU and slot can do together."""
    pcie_generation_gpu: int | None = None
    """What the GPU itself can do, whatever the slot."""
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    """What the GPU can do."""
    pcie_width_slot: int | None = None
    """What the slot (or switch port) above it can do."""
    numa_node: int | None = None
    local_cpus: str | None = None
    """The cores near it, as the kernel writes them: "0-31,64-95"."""
    nvlinks: int | None = None
    """How many NVLinks the driver reports for it, active or not; None: it has none, or does not tell."""
    nvlinks_active: int | None = None
    fabric: str | None = None
    """Of GPUs behind NVSwitches: not_started, in_progress or completed; None: not supported."""
    peers: dict[str, str] = field(default_factory=dict)
    """Index of another GPU -> whether this one can read its memory: ok, or why not (chipset_not_supported, ...)."""
    topology: dict[str, str] = field(default_factory=dict)
    """Index of another GPU -> the way there over PCI, as in `nvidia-smi topo -m`: PIX, PXB, PHB, NODE, SYS."""


def gather_gpus(root: Path | None = None) -> tuple[Gpu, ...]:
    """Ask NVML (in a child process, at most 4.5 s), or nvidia-smi where NVML's Python binding is missing; PCI links from /sys. Raises nothing."""
    root = root or filesystem_root()
    answer = read_nvml()
    if not answer.binding:
        return tuple(_from_host(gpu) for gpu in gpus_from_smi(timeout_s=4))
    found = tuple(gpu for said in answer.gpus if (gpu := _gpu(said, root)) is not None)
    # A library that hangs or dies in the middle leaves GPUs out: they are there all the same.
    count = _whole(answer.start.get("count"), 0, 64) or 0
    missing = set(range(count)) - {gpu.index for gpu in found} if answer.error else set()
    return (*found, *(Gpu(index=index, unanswered=answer.error) for index in sorted(missing)))


def _from_host(gpu: host.Gpu) -> Gpu:
    return Gpu(index=gpu.index, name=gpu.name, uuid=gpu.uuid, memory_bytes=gpu.memory_bytes, compute_capability=gpu.compute_capability)


def _gpu(said: dict[str, Any], root: Path) -> Gpu | None:
    """Return one GPU of what NVML said; what is garbage is None, for a broken library must not put wrong numbers into a report."""
    index = _whole(said.get("index"), 0, 63)
    if index is None:
        return None
    refused = said["refused"] if isinstance(said.get("refused"), dict) else {}
    lost = any(code in _LOST for code in refused.values())
    bus_id = _bus_id(said.get("bus_id"))
    total = _whole(said.get("memory_bytes"), 1, 2**50)
    texts = {name: _text(said.get(name)) for name in ("name", "uuid", "compute_mode", "fabric")}
    flags = {name: said[name] for name in _FLAGS if isinstance(said.get(name), bool)}
    numbers = {name: _whole(said.get(name), 0, most) for name, most in _WHOLE.items()}
    simple: dict[str, Any] = texts | flags | numbers | _place(root, bus_id)
    return Gpu(
        index=index,
        lost=lost,
        lost_text=_text(refused.get("text")) if lost else None,
        bus_id=bus_id,
        compute_capability=_capability(said.get("compute_capability")),
        memory_bytes=total,
        memory_used_bytes=_whole(said.get("memory_used_bytes"), 0, total or 0),
        processes=tuple(_process(one) for one in _dictionaries(said.get("processes")) if _is_others(one.get("pid"), root)),
        mig_devices=tuple(_mig_device(one) for one in _dictionaries(said.get("mig_devices"))),
        throttle=tuple(reason for reason in _list(said.get("throttle")) if isinstance(reason, str)),
        power_w=_watts(said.get("power_mw")),
        power_limit_w=_watts(said.get("power_limit_mw")),
        power_limit_default_w=_watts(said.get("power_limit_default_mw")),
        peers=_words(said.get("peers")),
        topology=_words(said.get("topology")),
        **simple,
    )


def _place(root: Path, bus_id: str | None) -> dict[str, Any]:
    """Return where the GPU sits: what the slot above it can do, and the cores near it."""
    folder = root / "sys/bus/pci/devices" / (bus_id or "-")
    node = read(folder / "numa_node") or ""
    try:
        port = folder.resolve(strict=True).parent
    except (OSError, RuntimeError):
        return {}
    width = read(port / "max_link_width") or ""
    return {
        "numa_node": int(node) if node.isdecimal() else None,
        "local_cpus": read(folder / "local_cpulist") or None,
        "pcie_width_slot": int(width) if width.isdecimal() and 0 < int(width) <= 32 else None,
    }


def _is_others(pid: Any, root: Path) -> bool:
    """Whether a process is not the doctor's own child (which asks torch for CUDA at the same time)."""
    if _whole(pid, 1, 2**31) is None:
        return False
    status = (read(root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
    return len(status) < 2 or status[1] != str(os.getpid())


def _process(said: dict[str, Any]) -> GpuProcess:
    return GpuProcess(pid=said["pid"], name=_text(said.get("name")), memory_bytes=_whole(said.get("memory_bytes"), 0, 2**50))


def _mig_device(said: dict[str, Any]) -> MigDevice:
    return MigDevice(
        index=_whole(said.get("index"), 0, 63) or 0,
        name=_text(said.get("name")),
        uuid=_text(said.get("uuid")),
        memory_bytes=_whole(said.get("memory_bytes"), 1, 2**50),
    )


def _whole(value: Any, least: int, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None


def _watts(value: Any) -> float | None:
    milliwatts = _whole(value, 1, 20_000_000)
    return None if milliwatts is None else milliwatts / 1000


def _text(value: Any) -> str | None:
    """Return a name that can be shown; None for garbage."""
    return value[:200] if isinstance(value, str) and value and value.isprintable() else None


def _words(value: Any) -> dict[str, str]:
    return {str(key): str(word) for key, word in value.items()} if isinstance(value, dict) else {}


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _capability(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and _whole(value[0], 1, 99) and _whole(value[1], 0, 99) is not None:
        return value[0], value[1]
    return None


def _bus_id(value: Any) -> str | None:
    """Return NVML's 00000000:18:00.0 as the kernel writes it: 0000:18:00.0."""
    found = re.fullmatch(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", value) if isinstance(value, str) else None
    return f"{int(found[1], 16):04x}:{found[2].lower()}" if found else None

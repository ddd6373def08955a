"""The processor: its cores, what of them is ours, its power settings and who else keeps it busy."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stoker.doctor.facts.cores import cores_of, list_of
from stoker.host.limits import cgroup_folders, cpu_quota
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The processor and this process's share of it."""

    model: str | None = None
    cores_online: int | None = None
    """Logical cores that the kernel schedules on."""
    cores_usable: int | None = None
    """Logical cores in this process's affinity mask (taskset, cpuset, numactl)."""
    affinity: str | None = None
    """The same as a list, as `0-15,32-47`."""
    quota_cores: float | None = None
    """The smallest CPU quota among this process's cgroups, in cores; None: no quota."""
    quota_text: str | None = None
    """Where it stands and in which words, as `/sys/fs/cgroup/cpu.max: 400000 100000`."""
    throttled_periods: int | None = None
    """Scheduling periods in which the quota ran out, since the cgroup was made."""
    periods: int | None = None
    """All scheduling periods in which there was something to run."""
    flags: tuple[str, ...] = ()
    """The instruction sets that matter to PyTorch, of those the processor has (avx, avx2, avx512f, fma, asimd, sve, ...)."""
    hypervisor: bool = False
    """Whether the processor says that it is a virtual one."""
    governors: dict[str, int] = field(default_factory=dict)
    """Frequency governor -> number of cores."""
    frequency_driver: str | None = None
    """As acpi-cpufreq, intel_pstate, intel_cpufreq, amd-pstate-epp."""
    energy_preferences: dict[str, int] = field(default_factory=dict)
    """What the processor is told to prefer (energy_performance_preference) -> number of cores."""
    numa_nodes: int | None = None
    """NUMA nodes that have cores."""
    numa_cpus: dict[str, str] = field(default_factory=dict)
    """NUMA node -> its cores as a list: {"0": "0-31,64-95"}."""
    load_1m: float | None = None
    """Mean number of tasks that ran or waited for a disk in the last minute, on the whole machine."""
    load_5m: float | None = None


# Those that PyTorch, oneDNN or our own kernels choose code by.
_INTERESTING = frozenset(
    {
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_bf16",
        "amx_int8",
    }
    | {"asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme"}
)


def gather_processor(root: Path | None = None) -> Processor:
    """Read the processor's facts from /proc and /sys. Raises nothing; takes some milliseconds on hundreds of cores."""
    root = root or filesystem_root()
    info = read(root / "proc/cpuinfo") or ""
    flags = _flags(info)
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset()
    numa = _numa(root)
    load = _load(root)
    quota_folder, quota = _quota(root)
    stat = _numbers(read(quota_folder / "cpu.stat")) if quota_folder else {}
    return Processor(
        model=_model(info),
        cores_online=len(cores_of(read(root / "sys/devices/system/cpu/online"))) or os.cpu_count(),
        cores_usable=len(affinity) or None,
        affinity=list_of(affinity) or None,
        quota_cores=quota,
        quota_text=_quota_text(root, quota_folder),
        throttled_periods=stat.get("nr_throttled"),
        periods=stat.get("nr_periods"),
        flags=tuple(sorted(flags & _INTERESTING)),
        hypervisor="hypervisor" in flags,
        governors=_counted(root, "cpufreq/scaling_governor"),
        frequency_driver=read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"),
        energy_preferences=_counted(root, "cpufreq/energy_performance_preference"),
        numa_nodes=sum(bool(cores) for cores in numa.values()) or None,
        numa_cpus=numa,
        load_1m=load[0],
        load_5m=load[1],
    )


def _field(info: str, names: tuple[str, ...]) -> str | None:
    """Return the first value of a field of /proc/cpuinfo."""
    for line in info.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in names:
            return value.strip()
    return None


def _model(info: str) -> str | None:
    return _field(info, ("model name", "Model"))


def _flags(info: str) -> frozenset[str]:
    return frozenset((_field(info, ("flags", "Features")) or "").split())


def _numa(root: Path) -> dict[str, str]:
    folder = root / "sys/devices/system/node"
    try:
        nodes = [entry.name[4:] for entry in folder.iterdir() if entry.name.startswith("node") and entry.name[4:].isdecimal()]
    except OSError:
        return {}
    return {node: read(folder / f"node{node}/cpulist") or "" for node in sorted(nodes, key=int)}


def _counted(root: Path, name: str) -> dict[str, int]:
    """Count the values that a file of /sys has over the cores."""
    folder = root / "sys/devices/system/cpu"
    try:
        cores = [entry for entry in folder.iterdir() if entry.name.startswith("cpu") and entry.name[3:].isdecimal()]
    except OSError:
        return {}
    return dict(Counter(sorted(value for core in cores if (value := read(core / name)))))


def _load(root: Path) -> tuple[float | None, float | None]:
    parts = (read(root / "proc/loadavg") or "").split()
    try:
        return float(parts[0]), float(parts[1])
    except (ValueError, IndexError):
        return None, None


def _quota(root: Path) -> tuple[Path | None, float | None]:
    """Return the cgroup with the smallest CPU quota, and the quota in cores."""
    quotas = [(quota, folder) for folder in cgroup_folders(root, "cpu") if (quota := cpu_quota(folder)) is not None]
    quota, folder = min(quotas, default=(None, None))
    return folder, quota


def _quota_text(root: Path, folder: Path | None) -> str | None:
    if folder is None:
        return None
    shown = f"/{folder.relative_to(root)}"
    if text := read(folder / "cpu.max"):
        return f"{shown}/cpu.max: {text}"
    return f"{shown}/cpu.cfs_quota_us: {read(folder / 'cpu.cfs_quota_us')}, cpu.cfs_period_us: {read(folder / 'cpu.cfs_period_us')}"


def _numbers(text: str | None) -> dict[str, int]:
    pairs = [line.split() for line in (text or "").splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}

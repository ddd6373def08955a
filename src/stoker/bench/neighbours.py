"""What else runs on the machine while it is measured: it spoils numbers, and is said beside them."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from stoker.bench.machine import nvml_handle
from stoker.bench.readings import Neighbours

_LOOK_S = 0.25
_BUSY_PERCENT = 20.0
_DISTURBED_CORES = 0.15
"""More than this share of the cores in other hands is said."""
_DISTURBED_GPU = 0.05


@dataclass(frozen=True, kw_only=True)
class Start:
    """How things stood when the verification began."""

    wall_s: float
    busy_s: float | None
    stolen_s: float | None
    own_s: float
    load: float | None
    busiest: tuple[str, ...]
    gpu_processes: tuple[str, ...]
    gpu_busy: float | None


def look(device: torch.device) -> Start:
    """Look around before anything is measured; takes a quarter of a second."""
    processes, busy = _gpu(device) if device.type == "cuda" else ((), None)
    busiest = _busiest()
    busy_s, stolen_s = _cpu_seconds()
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    return Start(
        wall_s=time.monotonic(),
        busy_s=busy_s,
        stolen_s=stolen_s,
        own_s=_own_seconds(),
        load=load,
        busiest=busiest,
        gpu_processes=processes,
        gpu_busy=busy,
    )


def neighbours(start: Start) -> Neighbours:
    """Return what other processes and other machines took since `start`."""
    wall_s = max(1e-6, time.monotonic() - start.wall_s)
    busy_s, stolen_s = _cpu_seconds()
    others = stolen = None
    if busy_s is not None and start.busy_s is not None:
        # A container sees the whole machine in /proc/stat; what we used ourselves is taken off.
        others = max(0.0, (busy_s - start.busy_s) - (_own_seconds() - start.own_s)) / wall_s
    if stolen_s is not None and start.stolen_s is not None:
        stolen = max(0.0, stolen_s - start.stolen_s) / wall_s
    return Neighbours(
        load=start.load,
        others_cores=others,
        stolen_cores=stolen,
        machine_cores=psutil.cpu_count(),
        busiest=start.busiest,
        gpu_processes=start.gpu_processes,
        gpu_busy=start.gpu_busy,
    )


class Patience:
    """Waits for other processes to be quiet, a limited time in all: a short measurement is worth most in a quiet moment."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    def wait(self) -> None:
        """Return when others leave the cores alone, or when patience has ended; takes at least a look."""
        quiet = _DISTURBED_CORES * (psutil.cpu_count() or 1)
        while self.left_s > 0:
            begin = time.monotonic()
            used = _others_cores()
            if used is None or used <= quiet:
                return
            self.left_s -= time.monotonic() - begin


def disturbances(found: Neighbours) -> list[str]:
    """Return a sentence for each thing that spoils the numbers."""
    cores = found.machine_cores or 1
    said = []
    if found.others_cores is not None and found.others_cores > _DISTURBED_CORES * cores:
        names = f" ({', '.join(found.busiest)})" if found.busiest else ""
        said.append(
            f"Other processes kept {found.others_cores:.1f} of {cores} cores busy meanwhile{names}: numbers are lower than on a quiet machine."
        )
    if found.stolen_cores is not None and found.stolen_cores > _DISTURBED_CORES / 3 * cores:
        said.append(f"The hypervisor took {found.stolen_cores:.1f} of {cores} cores for other machines meanwhile (steal time).")
    if found.gpu_processes:
        said.append(f"Other processes hold the GPU: {', '.join(found.gpu_processes)}.")
    if found.gpu_busy is not None and found.gpu_busy > _DISTURBED_GPU:
        said.append(f"The GPU was {found.gpu_busy:.0%} busy before the verification began: the numbers are lower than on a quiet one.")
    return said


def _others_cores() -> float | None:
    """Return how many cores other processes use at this moment."""
    before, own, begin = _cpu_seconds()[0], _own_seconds(), time.monotonic()
    time.sleep(_LOOK_S)
    after = _cpu_seconds()[0]
    if before is None or after is None:
        return None
    return max(0.0, after - before - (_own_seconds() - own)) / (time.monotonic() - begin)


def _cpu_seconds() -> tuple[float | None, float | None]:
    """Return the seconds of all cores that were worked, and stolen, since the machine started."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError, ValueError):
        return None, None
    stolen = getattr(times, "steal", None)
    # `user` already holds what guests used.
    worked = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return worked, stolen


def _own_seconds() -> float:
    """Return the CPU seconds of this process, of its ended children and of those that run."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                used = child.cpu_times()
                total += used.user + used.system
    return total


def _busiest() -> tuple[str, ...]:
    """Return the names of other processes that use a good part of a core, the busiest first."""
    own = os.getpid()
    before = _process_seconds(own)
    time.sleep(_LOOK_S)
    shares = [
        (100 * (seconds - before[pid][0]) / _LOOK_S, name)
        for pid, (seconds, name) in _process_seconds(own).items()
        if pid in before and before[pid][1] == name
    ]
    return tuple(name for share, name in sorted(shares, reverse=True)[:3] if share > _BUSY_PERCENT)


def _process_seconds(own: int) -> dict[int, tuple[float, str]]:
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != own:
                used = process.cpu_times()
                found[process.pid] = (used.user + used.system, process.name())
    return found


def _gpu(device: torch.device) -> tuple[tuple[str, ...], float | None]:
    """Ask NVML who uses the GPU, and how busy it is; nothing where it does not answer."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        return (), None
    try:
        handle = nvml_handle(nvml, device)
        return _gpu_processes(nvml, handle), float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except Exception:
        return (), None
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _gpu_processes(nvml: Any, handle: Any) -> tuple[str, ...]:
    pids = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return tuple(_process_name(pid) for pid in pids if pid != os.getpid())


def _process_name(pid: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        return f"{psutil.Process(pid).name()} ({pid})"
    return f"process {pid} (of another container or user)"

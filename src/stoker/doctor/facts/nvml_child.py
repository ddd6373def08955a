"""What NVML answers, one JSON object a line: a program of its own, for a driver's library may hang or die.

Run as `python nvml_child.py [--brief]`. The lines: {"start": {...}}, one {"gpu": {...}} each (with --brief instead {"loaded": {...}}, the libraries
that the loader takes), {"end": true}. Where a call hangs, {"hung": NAME} is the last line and the exit status 3. A reading that is refused is null;
`refused` says with which of NVML's codes.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # run as a program: its neighbours here must not hide modules of the same name

# Below the time limit of whoever started this program, so that the name of the hanging call gets out.
_LIMIT_S = 3.5
_HUNG = 3
_LOST, _RESET = 15, 16
_THROTTLE = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display",
}
# NVML's documentation: HW slowdown "may be also reported during PState or clock change". Only what lasts counts.
_MUST_LAST = 0x8 | 0x20 | 0x40 | 0x80
_PEER = {0: "ok", 1: "chipset_not_supported", 2: "gpu_not_supported", 3: "topology_not_supported", 4: "disabled_by_regkey", 5: "not_supported"}
_TOPOLOGY = {0: "INT", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
_COMPUTE_MODE = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_FABRIC = {1: "not_started", 2: "in_progress", 3: "completed"}
_SM_CLOCK = 1
_UNCORRECTED, _CORRECTED = 1, 0
_VOLATILE, _AGGREGATE = 0, 1

_doing = "import pynvml"
"""The call that is under way."""


def main(brief: bool) -> None:
    """Ask everything and print it."""
    watch = threading.Timer(_LIMIT_S, _hung)
    watch.daemon = True
    watch.start()
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        _print({"start": {"code": None, "error": f"the Python binding of NVML is missing: {error}", "binding": False}})
        return
    start = _start(nvml)
    _print({"start": start})
    if brief:
        _print({"loaded": _loaded()})
    elif start.get("code") == 0:
        _gpus(nvml, start.get("count"))
    _print({"end": True})


def _hung() -> None:
    _print({"hung": _doing})
    os._exit(_HUNG)


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def _start(nvml: Any) -> dict[str, Any]:
    refused: dict[str, Any] = {}
    _ask(refused, "nvmlInit", nvml.nvmlInit)
    if refused:
        return {"code": refused.get("nvmlInit"), "error": refused.get("text")}
    readings = {
        "driver_version": _ask(refused, "nvmlSystemGetDriverVersion", nvml.nvmlSystemGetDriverVersion),
        "cuda": _ask(refused, "nvmlSystemGetCudaDriverVersion", nvml.nvmlSystemGetCudaDriverVersion),
        "count": _ask(refused, "nvmlDeviceGetCount", nvml.nvmlDeviceGetCount),
    }
    return {"code": 0, "refused": refused} | readings


def _loaded() -> dict[str, Any]:
    """Load libcuda as torch would, without starting it, and return where it and libnvidia-ml came from."""
    global _doing
    _doing = "dlopen libcuda.so.1"
    try:
        ctypes.CDLL("libcuda.so.1")
        error = None
    except OSError as refusal:
        error = str(refusal)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if line.count(" ") >= 5 and "/lib" in line and ".so" in line}
    ours = sorted(path for path in paths if os.path.basename(path).startswith(("libcuda.so", "libnvidia-ml.so")))
    return {"paths": ours, "libcuda_error": error}


def _gpus(nvml: Any, count: Any) -> None:
    if not isinstance(count, int) or not 0 <= count <= 64:
        return
    handles: list[Any] = []
    refusals: list[dict[str, Any]] = []
    for index in range(count):
        refused: dict[str, Any] = {}
        handles.append(_ask(refused, "nvmlDeviceGetHandleByIndex", nvml.nvmlDeviceGetHandleByIndex, index))
        refusals.append(refused)
    for index, (handle, refused) in enumerate(zip(handles, refusals, strict=True)):
        found = {"index": index} if handle is None else {"index": index} | _readings(nvml, handle, refused) | _others(nvml, index, handles, refused)
        _print({"gpu": found | {"refused": refused}})


def _readings(nvml: Any, handle: Any, refused: dict[str, Any]) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return _ask(refused, name, getattr(nvml, name, None), handle, *arguments)

    memory, ecc, mig = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode")
    rows, use = ask("nvmlDeviceGetRemappedRows"), ask("nvmlDeviceGetUtilizationRates")
    return {
        "name": ask("nvmlDeviceGetName"),
        "uuid": ask("nvmlDeviceGetUUID"),
        "bus_id": getattr(ask("nvmlDeviceGetPciInfo"), "busId", None),
        "compute_capability": ask("nvmlDeviceGetCudaComputeCapability"),
        "memory_bytes": getattr(memory, "total", None),
        "memory_used_bytes": getattr(memory, "used", None),
        "processes": _processes(nvml, ask("nvmlDeviceGetComputeRunningProcesses"), refused),
        "utilization_percent": getattr(use, "gpu", None),
        "compute_mode": _COMPUTE_MODE.get(ask("nvmlDeviceGetComputeMode")),
        "display": _flag(ask("nvmlDeviceGetDisplayActive")),
        "persistence": _flag(ask("nvmlDeviceGetPersistenceMode")),
        "mig": _flag(mig[0] if mig else None),
        "mig_pending": _flag(mig[1] if mig else None),
        "mig_devices": _mig_devices(nvml, handle, refused) if mig and mig[0] == 1 else [],
        "ecc": _flag(ecc[0] if ecc else None),
        "ecc_uncorrected_volatile": ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _VOLATILE),
        "ecc_uncorrected_aggregate": ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _AGGREGATE),
        "ecc_corrected_volatile": ask("nvmlDeviceGetTotalEccErrors", _CORRECTED, _VOLATILE),
        "rows_remapped_correctable": rows[0] if rows else None,
        "rows_remapped_uncorrectable": rows[1] if rows else None,
        "rows_pending": _flag(rows[2] if rows else None),
        "rows_failed": _flag(rows[3] if rows else None),
        "pages_pending": _flag(ask("nvmlDeviceGetRetiredPagesPendingStatus")),
        "throttle": _throttle(nvml, handle, refused),
        "temperature_c": ask("nvmlDeviceGetTemperature", 0),
        "temperature_limit_c": ask("nvmlDeviceGetTemperatureThreshold", 1),
        "power_mw": ask("nvmlDeviceGetPowerUsage"),
        "power_limit_mw": ask("nvmlDeviceGetEnforcedPowerLimit"),
        "power_limit_default_mw": ask("nvmlDeviceGetPowerManagementDefaultLimit"),
        "clock_sm_mhz": ask("nvmlDeviceGetClockInfo", _SM_CLOCK),
        "clock_sm_max_mhz": ask("nvmlDeviceGetMaxClockInfo", _SM_CLOCK),
        "clock_applications_mhz": ask("nvmlDeviceGetApplicationsClock", _SM_CLOCK),
        "clock_applications_default_mhz": ask("nvmlDeviceGetDefaultApplicationsClock", _SM_CLOCK),
        "pcie_generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_generation_max": ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie_generation_gpu": ask("nvmlDeviceGetGpuMaxPcieLinkGeneration"),
        "pcie_width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
        "pcie_width_max": ask("nvmlDeviceGetMaxPcieLinkWidth"),
        "fabric": _fabric(nvml, handle, refused),
    }


def _throttle(nvml: Any, handle: Any, refused: dict[str, Any]) -> list[str]:
    def reasons() -> int | None:
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            found = _ask(refused, name, getattr(nvml, name, None), handle)
            if isinstance(found, int):
                return found
        return None

    mask = reasons()
    if mask is None:
        return []
    for _ in range(2):
        if mask & _MUST_LAST:
            time.sleep(0.04)
            mask &= (reasons() or 0) | ~_MUST_LAST
    return [name for bit, name in _THROTTLE.items() if mask & bit]


def _processes(nvml: Any, found: Any, refused: dict[str, Any]) -> list[dict[str, Any]]:
    listed = []
    for process in (found or [])[:50]:
        name = _ask({}, "nvmlSystemGetProcessName", nvml.nvmlSystemGetProcessName, process.pid)
        listed.append({"pid": process.pid, "name": name, "memory_bytes": process.usedGpuMemory})
    return listed


def _mig_devices(nvml: Any, handle: Any, refused: dict[str, Any]) -> list[dict[str, Any]]:
    most = _ask(refused, "nvmlDeviceGetMaxMigDeviceCount", nvml.nvmlDeviceGetMaxMigDeviceCount, handle)
    found = []
    for index in range(min(most or 0, 16)):
        device = _ask({}, "nvmlDeviceGetMigDeviceHandleByIndex", nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if device is not None:
            memory = _ask(refused, "nvmlDeviceGetMemoryInfo", nvml.nvmlDeviceGetMemoryInfo, device)
            name = _ask(refused, "nvmlDeviceGetName", nvml.nvmlDeviceGetName, device)
            uuid = _ask(refused, "nvmlDeviceGetUUID", nvml.nvmlDeviceGetUUID, device)
            found.append({"index": index, "name": name, "uuid": uuid, "memory_bytes": getattr(memory, "total", None)})
    return found


def _fabric(nvml: Any, handle: Any, refused: dict[str, Any]) -> str | None:
    def state() -> int:
        info = nvml.c_nvmlGpuFabricInfo_t()
        nvml.nvmlDeviceGetGpuFabricInfo(handle, nvml.byref(info))
        return int(info.state)

    return _FABRIC.get(_ask(refused, "nvmlDeviceGetGpuFabricInfo", state) or 0)


def _others(nvml: Any, index: int, handles: list[Any], refused: dict[str, Any]) -> dict[str, Any]:
    """Return the NVLinks of a GPU, and the way to each other one."""
    links = _nvlinks(nvml, handles[index], refused)
    peers, topology = {}, {}
    for other, handle in enumerate(handles):
        if other != index and handle is not None:
            peer = _ask(refused, "nvmlDeviceGetP2PStatus", nvml.nvmlDeviceGetP2PStatus, handles[index], handle, 0)
            level = _ask(refused, "nvmlDeviceGetTopologyCommonAncestor", nvml.nvmlDeviceGetTopologyCommonAncestor, handles[index], handle)
            if peer is not None:
                peers[str(other)] = _PEER.get(peer, "unknown")
            if level in _TOPOLOGY:
                topology[str(other)] = _TOPOLOGY[level]
    return {"nvlinks": len(links) or None, "nvlinks_active": sum(links) if links else None, "peers": peers, "topology": topology}


def _nvlinks(nvml: Any, handle: Any, refused: dict[str, Any]) -> list[bool]:
    links = []
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
        answer: dict[str, Any] = {}
        active = _ask(answer, "nvmlDeviceGetNvLinkState", nvml.nvmlDeviceGetNvLinkState, handle, link)
        if active is None:
            refused |= {name: code for name, code in answer.items() if code in (_LOST, _RESET)}
            break
        links.append(active == 1)
    return links


def _ask(refused: dict[str, Any], name: str, question: Callable[..., Any] | None, *arguments: Any) -> Any:
    """Return an answer of NVML, or None, and note with which code it was refused."""
    global _doing
    _doing = name
    if question is None:
        return None
    try:
        return question(*arguments)
    except Exception as error:
        refused[name] = getattr(error, "value", None)
        if "text" not in refused or refused[name] in (_LOST, _RESET):
            refused["text"] = str(error)
        return None


def _flag(value: Any) -> bool | None:
    return {0: False, 1: True}.get(value)


if __name__ == "__main__":
    main("--brief" in sys.argv[1:])

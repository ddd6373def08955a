"""The device that is verified: found or refused, with the maker's peaks from the catalogue, and the versions of what drives it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
from typing import Any

import torch

from stoker import __version__
from stoker.bench.readings import Device
from stoker.catalog import find_gpu
from stoker.errors import BadValue, NoGpu
from stoker.host import Host

_LANE_BYTES_S = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""PCI Express, one lane, one direction, after line coding (8, 16 and 32 GT/s at 128b/130b; 64 GT/s with FLITs); PCI-SIG."""
_PACKAGES = ("torchvision", "numpy", "pillow", "triton", "timm")


def chosen(asked: str | None) -> torch.device:
    """Return the device for `--device`: None takes the first GPU that works, else the CPU.

    Raises BadValue for another word, NoGpu when that GPU cannot be used.
    """
    if asked is None:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", asked):
        raise BadValue(f"--device {asked!r} is neither cpu nor cuda nor cuda:N", hint="`--device cuda:0` is the first GPU")
    device = torch.device(asked)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise NoGpu(f"--device {asked}: PyTorch {torch.__version__} can use no GPU here", hint="`stoker doctor --why cuda` names the broken link")
    device = torch.device("cuda", device.index or 0)
    if device.index >= torch.cuda.device_count():
        raise NoGpu(f"--device {asked}: PyTorch sees {torch.cuda.device_count()} GPUs", hint="the first is cuda:0; is CUDA_VISIBLE_DEVICES set?")
    return device


def unused_gpu(device: torch.device, asked: str | None, host: Host) -> str:
    """Return what is wrong when the machine has an NVIDIA GPU that nobody chose to leave aside, yet PyTorch cannot use; else nothing."""
    if device.type == "cuda" or asked is not None or not (host.gpus or host.driver.cards or host.driver.nodes):
        return ""
    built = torch.version.cuda
    why = f"PyTorch {torch.__version__} was built without CUDA" if built is None else f"PyTorch {torch.__version__} (CUDA {built}) cannot use it"
    return f"this machine has an NVIDIA GPU and {why}"


def described(device: torch.device, host: Host) -> Device:
    """Return what is known of the device."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        memory = host.limits.memory_limit_bytes or host.limits.memory_total_bytes
        named: dict[str, Any] = {"kind": "cpu", "index": 0, "name": host.cpu or platform.machine(), "memory_bytes": memory, "capability": None}
        return Device(**named, cores=host.limits.cores, threads=threads, model=None, sheet={}, sheet_source="")
    found = torch.cuda.get_device_properties(device)
    model, peaks, source = _sheet(found.name)
    link = _link_bytes_s(device)
    return Device(
        kind="cuda",
        index=device.index or 0,
        name=found.name,
        memory_bytes=found.total_memory,
        capability=(found.major, found.minor),
        cores=host.limits.cores,
        threads=threads,
        model=model,
        sheet=peaks | ({"link": link} if link else {}),
        sheet_source=source,
    )


def versions(device: torch.device, host: Host) -> dict[str, str]:
    """Return the versions of everything that has a say in the numbers."""
    found = {"stoker": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["kernel"] = platform.release()
    if torch.backends.mkldnn.is_available():
        onednn = re.search(r"MKL-DNN v(\S+)", torch.__config__.show())
        found |= {"onednn": onednn[1]} if onednn else {}
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda or "none", "driver": host.driver.version or "unknown"}
        with contextlib.suppress(Exception):  # a broken library is the handshake's to say
            found["cudnn"] = str(torch.backends.cudnn.version())
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def nvml_handle(nvml: Any, device: torch.device) -> Any:
    """Return NVML's handle of a CUDA device, which may have another number there. Raises what NVML raises, LookupError."""
    wanted = str(torch.cuda.get_device_properties(device).uuid)
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        if wanted in (uuid.decode() if isinstance(uuid, bytes) else uuid):
            return handle
    raise LookupError(wanted)


def _sheet(name: str) -> tuple[str | None, dict[str, float], str]:
    model = find_gpu(name)
    if model is None or not model.exact:
        return None, {}, ""
    peaks = {
        "bandwidth": model.bandwidth_bytes_s,
        "fp32": model.fp32_flops,
        "tf32": model.tf32_flops,
        "fp16": model.fp16_flops,
        "bf16": model.bf16_flops,
    }
    return model.name, {key: float(value) for key, value in peaks.items() if value}, f"{model.source}, checked {model.checked}"


def _link_bytes_s(device: torch.device) -> float | None:
    """Return bytes/s of the PCIe link at the most that both card and slot can do; None when NVML does not say."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            handle = nvml_handle(nvml, device)
            generation, width = nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle), nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)
        finally:
            nvml.nvmlShutdown()
    except Exception:
        return None
    lane = _LANE_BYTES_S.get(generation)
    return lane * width if lane and 0 < width <= 32 else None

"""The NVIDIA GPUs: from NVML when its Python binding is installed, else from nvidia-smi."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from stoker import shell

_T = TypeVar("_T")
_MEBIBYTE = 1024**2


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. What it does not tell is None."""

    index: int
    """Its number for NVML and nvidia-smi (PCI order; CUDA_VISIBLE_DEVICES does not change it)."""
    name: str | None
    uuid: str | None
    memory_bytes: int | None
    compute_capability: tuple[int, int] | None
    """As (9, 0) for an H100."""


def find_gpus(nvml: Any | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs that this process can see; none when there is no driver. `nvml` stands for the module pynvml."""
    try:
        return _from_nvml(nvml or importlib.import_module("pynvml"))
    except Exception:
        # Not installed yet while the environment is being made, or whatever a broken driver library raises.
        return gpus_from_smi()


def _from_nvml(nvml: Any) -> tuple[Gpu, ...]:
    """Ask NVML. A lost GPU is left out, a reading that it refuses is absent. Raises what it raises when it does not start."""
    nvml.nvmlInit()
    try:
        handles = [_ask(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(int(nvml.nvmlDeviceGetCount()))]
        return tuple(_nvml_gpu(nvml, index, handle) for index, handle in enumerate(handles) if handle is not None)
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    capability = _ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    return Gpu(
        index=index,
        name=_text(_ask(nvml.nvmlDeviceGetName, handle)),
        uuid=_text(_ask(nvml.nvmlDeviceGetUUID, handle)),
        memory_bytes=_sane_memory(getattr(memory, "total", None)),
        compute_capability=_sane_capability(capability),
    )


def gpus_from_smi(*, timeout_s: float = 20) -> tuple[Gpu, ...]:
    """Return the GPUs that nvidia-smi lists; none when it fails or is not there."""
    query = "--query-gpu=index,name,uuid,memory.total,compute_cap"
    outcome = shell.run(["nvidia-smi", query, "--format=csv,noheader,nounits"], timeout_s=timeout_s)
    if not outcome.ok:
        return ()
    return tuple(gpu for line in outcome.out.splitlines() if (gpu := _smi_gpu(line)) is not None)


def _smi_gpu(line: str) -> Gpu | None:
    """Read one line of nvidia-smi's table: `0, NVIDIA H200, GPU-..., 143771, 9.0`."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not re.fullmatch(r"\d{1,4}", fields[0]):
        return None
    mebibytes = int(fields[3]) if re.fullmatch(r"\d{1,9}", fields[3]) else None
    capability = re.fullmatch(r"(\d{1,2})\.(\d{1,2})", fields[4])
    return Gpu(
        index=int(fields[0]),
        name=_text(fields[1]),
        uuid=_text(fields[2]),
        memory_bytes=_sane_memory(mebibytes * _MEBIBYTE if mebibytes else None),
        compute_capability=_sane_capability((int(capability[1]), int(capability[2])) if capability else None),
    )


def _ask(question: Callable[..., _T], *arguments: Any) -> _T | None:
    try:
        return question(*arguments)
    except Exception:
        return None


def _text(value: Any) -> str | None:
    """Return a name as text; None for what is empty or nvidia-smi's way of saying that it does not know."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and text and not text.startswith("[") else None


def _sane_memory(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**50 else None


def _sane_capability(value: Any) -> tuple[int, int] | None:
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, int) for part in value) and 1 <= value[0] < 100:
        return (value[0], value[1])
    return None

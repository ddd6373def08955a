"""Grounds on which checks of driver and GPUs do not apply, so that one cause gives one finding; and how things are named in findings."""

from __future__ import annotations

import re

from stoker.catalog import GpuModel, find_gpu
from stoker.doctor.facts import Facts, Gpu
from stoker.doctor.facts.driver import Node
from stoker.doctor.finding import Skipped

_GPU_NODE = re.compile(r"/dev/(nvidia\d+|dxg)")
_ESSENTIAL = re.compile(r"/dev/(nvidia\d+|nvidiactl|nvidia-uvm|dxg)")
# What batch systems that give GPUs to jobs set in them: Slurm, PBS, LSF, Flux.
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")


def gpu_nodes(facts: Facts) -> tuple[Node, ...]:
    """Return the device nodes of GPUs themselves."""
    return tuple(node for node in facts.driver.nodes if _GPU_NODE.fullmatch(node.path))


def essential_nodes(facts: Facts) -> tuple[Node, ...]:
    """Return the device nodes that CUDA must open."""
    return tuple(node for node in facts.driver.nodes if _ESSENTIAL.fullmatch(node.path))


def no_driver(facts: Facts) -> Skipped | None:
    """Skip where no driver is loaded: `driver-missing` says why, or there is no GPU."""
    if "driver" in facts.unread or "system" in facts.unread:
        return Skipped(reason="the driver, or what kind of system this is, could not be looked at")
    if facts.driver.version is None:
        return Skipped(reason="no driver: see driver-missing" if facts.driver.cards else "no NVIDIA GPU in this machine")
    return None


def no_way(facts: Facts) -> Skipped | None:
    """Skip where this process has no way to a GPU: no driver, or a container that was given none."""
    skipped = no_driver(facts)
    if skipped is None and facts.system.container and not gpu_nodes(facts):
        return Skipped(reason="no GPU in this container: see driver-not-in-container")
    return skipped


def no_gpus(facts: Facts) -> Skipped | None:
    """Skip where no GPU answers; another check says why."""
    if "system" not in facts.unread and (any(gpu.lost for gpu in facts.gpus) or answering(facts)):
        return None
    return no_driver(facts) or Skipped(reason="no GPU answers")


def answering(facts: Facts) -> tuple[Gpu, ...]:
    """Return the GPUs that told something of themselves."""
    return tuple(gpu for gpu in facts.gpus if not gpu.lost and gpu.unanswered is None)


def cards_away(facts: Facts) -> int:
    """Return how many cards the driver holds and NVML does not list. 0 where that may be by design: in a container, and in the job of a batch
    system, whose cgroup shows NVML the job's own GPUs while /sys and /dev show all of them."""
    if facts.system.container or facts.driver.nvml_code != 0 or "variables" in facts.unread or any(name in facts.variables for name in _JOBS):
        return 0
    return max(0, facts.driver.card_modules.count("nvidia") - len(facts.gpus))


def call(gpu: Gpu) -> str:
    """Return how a GPU is called in a finding: "GPU 0 (NVIDIA H200)"."""
    return f"GPU {gpu.index} ({gpu.name})" if gpu.name else f"GPU {gpu.index}"


def calls(gpus: list[Gpu] | tuple[Gpu, ...]) -> str:
    """Return how several are called: "GPU 0, 3 and 5"."""
    numbers = [str(gpu.index) for gpu in gpus]
    if len(gpus) == 1:
        return call(gpus[0])
    return f"GPU {', '.join(numbers[:-1])} and {numbers[-1]}"


def model(gpu: Gpu) -> GpuModel | None:
    """Return what the catalogue knows of a GPU."""
    return find_gpu(gpu.name) if gpu.name else None


def is_mobile(gpu: Gpu) -> bool:
    """Whether it is a laptop's, whose links and limits are what its maker chose."""
    return bool(re.search(r"laptop|mobile|max-q", gpu.name or "", re.IGNORECASE))


def log_lines(facts: Facts, pattern: str, most: int = 4) -> tuple[str, ...]:
    """Return the last lines of the kernel's log that match, with their source."""
    source = facts.driver.kernel_log_source or "kernel log"
    return tuple(f"{source}: {line}" for line in facts.driver.kernel_log if re.search(pattern, line, re.IGNORECASE))[-most:]


def smi_evidence(facts: Facts) -> tuple[str, ...]:
    """Return what nvidia-smi said, on one line."""
    text = " ".join(facts.driver.smi_text.split())[:300]
    return (f"nvidia-smi (exit status {facts.driver.smi_code}): {text}",) if text and facts.driver.smi_code != 0 else ()


def nvml_evidence(facts: Facts) -> tuple[str, ...]:
    """Return what NVML said, when it did not start."""
    code = "" if facts.driver.nvml_code is None else f" (code {facts.driver.nvml_code})"
    return (f"NVML{code}: {facts.driver.nvml_error}",) if facts.driver.nvml_error else ()

"""Whether a GPU is free for a training, and whether several are alike."""

from __future__ import annotations

from stoker.doctor.checks.grounds import answering, call, calls, no_gpus
from stoker.doctor.facts import Facts, Gpu
from stoker.doctor.finding import Finding, Outcome, Passed, Severity, Skipped

# Where a GPU counts as nearly full, and from which use on it counts as somebody's.
_FULL = 0.9
_SOME_BYTES = 512 * 1024**2
_GIBIBYTE = 1024**3


def compute_mode_set(facts: Facts) -> Outcome:
    """A GPU lets in one process only, or none.

    The administrator (or Slurm) can set a GPU to `EXCLUSIVE_PROCESS`: a second process gets "all CUDA-capable devices are busy or unavailable", so
    that loader workers with tensors on the GPU, or two trainings, fail. `PROHIBITED` lets in none. See with `nvidia-smi -q -d COMPUTE`.
    """
    if skipped := no_gpus(facts):
        return skipped
    prohibited = [gpu for gpu in answering(facts) if gpu.compute_mode == "prohibited"]
    exclusive = [gpu for gpu in answering(facts) if gpu.compute_mode in ("exclusive_process", "exclusive_thread")]
    if not prohibited and not exclusive:
        return Passed(what="the GPUs let several processes in")
    taken = [gpu for gpu in exclusive if gpu.processes]
    worst = prohibited or taken or exclusive
    return Finding(
        severity=Severity.ERROR if prohibited else Severity.WARNING if taken else Severity.NOTE,
        what=f"{calls(worst)} {'lets' if len(worst) == 1 else 'let'} in {'no process' if prohibited else 'one process only'}"
        + (", and one is there" if taken and not prohibited else ""),
        evidence=tuple(f"{call(gpu)}: compute mode {gpu.compute_mode}, {len(gpu.processes)} process(es)" for gpu in worst),
        consequence='CUDA says "all CUDA-capable devices are busy or unavailable"' + ("" if prohibited or taken else " to the second process"),
        fix="\n".join(f"sudo nvidia-smi -i {gpu.index} -c DEFAULT" for gpu in worst),
    )


def gpu_memory_nearly_full(facts: Facts) -> Outcome:
    """The memory of a GPU is nearly full before a training begins.

    Another process, perhaps a training or notebook that was thought ended, holds the memory. See with `nvidia-smi`; processes of other containers
    show no name.
    """
    if skipped := no_gpus(facts):
        return skipped
    full = [gpu for gpu in answering(facts) if _is_full(gpu)]
    if not full:
        return Passed(what="every GPU has free memory")
    return Finding(
        severity=Severity.WARNING,
        what=f"{calls(full)}: more than {_FULL:.0%} of the memory is in use",
        evidence=tuple(_use(gpu) for gpu in full),
        consequence='a training ends at once with "CUDA out of memory"',
        fix=_end_or_choose(facts, full),
    )


def _is_full(gpu: Gpu) -> bool:
    # With MIG every part has a memory of its own.
    return not gpu.mig and gpu.memory_bytes is not None and (gpu.memory_used_bytes or 0) > _FULL * gpu.memory_bytes


def _use(gpu: Gpu) -> str:
    used = (
        "not known" if gpu.memory_used_bytes is None or gpu.memory_bytes is None else f"{_gib(gpu.memory_used_bytes)} of {_gib(gpu.memory_bytes)} GiB"
    )
    names = [f"{process.pid} {process.name or '?'}{_held(process.memory_bytes)}" for process in gpu.processes[:5]]
    return f"{call(gpu)}: memory {used}; processes: {', '.join(names) or 'none to be seen from here'}"


def _held(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f" ({_gib(size_bytes)} GiB)"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIBIBYTE:.1f}"


def _end_or_choose(facts: Facts, taken: list[Gpu]) -> str:
    free = [str(gpu.index) for gpu in answering(facts) if gpu not in taken and not gpu.processes]
    pids = " ".join(str(process.pid) for gpu in taken for process in gpu.processes[:5])
    look = f"ps -fp {','.join(pids.split())}   # whose are they?" if pids else "nvidia-smi   # and look into the other containers of this machine"
    return f"export CUDA_VISIBLE_DEVICES={','.join(free)}   # those that are free\n{look}" if free else look


def gpu_busy(facts: Facts) -> Outcome:
    """Other processes compute on a GPU.

    Two processes on one GPU share its time and memory: both get slower, and measurements of speed mean little. See with `nvidia-smi`.
    """
    if skipped := no_gpus(facts):
        return skipped
    busy = [gpu for gpu in answering(facts) if not gpu.mig and _is_used(gpu)]
    if any(_is_full(gpu) for gpu in busy):
        return Skipped(reason="see gpu-memory-nearly-full")
    if not busy:
        return Passed(what="no other process computes on the GPUs")
    return Finding(
        severity=Severity.NOTE,
        what=f"{calls(busy)}: other processes are at work",
        evidence=tuple(f"{_use(gpu)}; in use {gpu.utilization_percent or 0} % of the time" for gpu in busy),
        consequence="a training there shares time and memory with them",
        fix=_end_or_choose(facts, busy),
    )


def _is_used(gpu: Gpu) -> bool:
    # Processes of other containers cannot always be seen; busy time can.
    return sum(process.memory_bytes or _SOME_BYTES for process in gpu.processes) >= _SOME_BYTES or (gpu.utilization_percent or 0) >= 50


def gpus_unlike(facts: Facts) -> Outcome:
    """The GPUs of this machine are of different models.

    Data-parallel training gives every GPU the same work and waits for the slowest; the smallest memory bounds the batch of all. CUDA orders GPUs by
    speed, nvidia-smi by slot: with CUDA_DEVICE_ORDER=PCI_BUS_ID both agree.
    """
    if skipped := no_gpus(facts):
        return skipped
    named = [gpu for gpu in answering(facts) if gpu.name]
    if len(named) < 2:
        return Skipped(reason="one GPU only")
    if len({gpu.name for gpu in named}) == 1:
        return Passed(what=f"{len(named)} GPUs of one model")
    order = facts.variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return Finding(
        severity=Severity.NOTE,
        what=f"the GPUs are of different models: {', '.join(sorted({gpu.name or '' for gpu in named}))}",
        evidence=tuple(call(gpu) for gpu in named),
        consequence="trained on together, the slowest sets the pace and the smallest memory the batch",
        fix=("" if order else "export CUDA_DEVICE_ORDER=PCI_BUS_ID   # the numbers of nvidia-smi\n")
        + "export CUDA_VISIBLE_DEVICES=...   # GPUs of one model",
    )

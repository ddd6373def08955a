"""The judge: what was gathered in, one sentence and the best three fixes out. Reads no clock, no file and no process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from stoker.diagnosis.fixes import Fix, at_most, duration, fixes, idle_gpu, loader_of, share, workers_of
from stoker.diagnosis.observation import Observation, Split
from stoker.runs.fields import number

_MOST_FIXES = 3
_GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the gathered facts say."""

    bottleneck: str
    """The phase that stands in the way: `data`, `copy`, `sync`, `optimizer`, `other`; `compute` (forward and backward);
    `launch` (a GPU that waits for kernels); `unknown`."""
    sentence: str
    fixes: tuple[Fix, ...]
    """At most three."""
    notes: tuple[str, ...]
    """What else is worth knowing, and what could not be seen."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def judge(observation: Observation) -> Diagnosis:
    """Return the diagnosis. Every number in it is one of the observation's, or computed from them."""
    split = chief_split(observation)
    if split is None:
        return Diagnosis(bottleneck="unknown", sentence=_blind_sentence(observation), fixes=(), notes=tuple(_process_notes(observation)))
    bottleneck = _bottleneck(observation, split)
    notes = (*_split_notes(observation, split), *_process_notes(observation))
    return Diagnosis(
        bottleneck=bottleneck, sentence=_sentence(observation, split, bottleneck), fixes=fixes(observation, split)[:_MOST_FIXES], notes=notes
    )


def chief_split(observation: Observation) -> Split | None:
    """Return the split that the verdict is about: of several ranks the one that waits longest for data, since the others wait for it."""
    return max(observation.splits, key=lambda split: share(split, "data"), default=None)


def _bottleneck(observation: Observation, split: Split) -> str:
    shares = {phase: share(split, phase) for phase in ("data", "copy", "sync", "optimizer", "other")}
    shares["compute"] = share(split, "forward") + share(split, "backward")
    if split.gpu_shares and split.shares.get("sync", 0.0) > 0.2 and shares["compute"] < 0.6:
        shares["sync"] += shares["other"]  # after each synchronisation the stream is empty until Python has come round again
    first = max(shares, key=lambda phase: shares[phase])
    if first == "compute" and observation.gpus and split.gpu_shares and (idle_gpu(observation, split) or 0.0) > 0.25 and shares["data"] < 0.2:
        return "sync" if split.shares.get("sync", 0.0) > 0.2 else "launch"
    # A fifth of the step that waits for data is the news, even where computing takes more.
    return "data" if first == "compute" and shares["data"] >= 0.2 else first


def _sentence(observation: Observation, split: Split, bottleneck: str) -> str:
    whole = "each step" if split.steps else "the training thread's time"
    if bottleneck == "data":
        return f"{_percent(share(split, 'data'))} of {whole} waits for data: {_feeding(split)}."
    if bottleneck == "compute":
        compute = share(split, "forward") + share(split, "backward")
        rest = at_most(1 - compute)
        taken = f"forward and backward take {_percent(compute)} of {whole}"
        return f"The training computes: {taken}; nothing outside of them can gain more than {rest:.2f} x."
    if bottleneck == "launch":
        idle = _percent(idle_gpu(observation, split) or 0.0)
        return f"The GPU is idle {idle} of the time although work is always under way: the Python that launches its kernels is the limit."
    share_text = _percent(split.shares.get("sync", 0.0) if bottleneck == "sync" else share(split, bottleneck))
    said = {
        "copy": f"of {whole} goes into copies to the GPU",
        "sync": f"of {whole} the program waits for the GPU, which then has nothing to do until the next step is launched",
        "optimizer": f"of {whole} goes into the optimizer",
        "other": f"of {whole} is Python between data, forward, backward and optimizer",
    }
    return f"{share_text} {said[bottleneck]}."


def _feeding(split: Split) -> str:
    """Say what the loader gives and what the rest of the step could take."""
    loader, waits = loader_of(split), share(split, "data")
    count = int(number(loader.get("num_workers")) or 0) if loader else None
    if count is None:
        by = "the loader" if split.source == "samples" else "what prepares the batches (no DataLoader was seen)"
    elif count == 0:
        by = "the loader, in the training process itself (num_workers=0),"
    else:
        by = f"the loader's {count} worker{'' if count == 1 else 's'}"
    if split.step_s is None or split.batch is None:
        return f"{by} cannot keep up; without the waiting it would run at most {at_most(waits):.2f} x as fast"
    unit = unit_of(split)
    gives, takes = split.batch / split.step_s, split.batch / (split.step_s * max(1e-6, 1 - waits))
    verb = "gives" if count in (None, 0, 1) else "give"
    if count == 0:
        own = split.batch / (split.step_s * waits)
        return f"{by} makes {own:,.0f} {unit} and the rest of the step takes {takes:,.0f}, one after the other: {gives:,.0f} in all"
    return f"{by} {verb} {gives:,.0f} {unit}, and the rest of the step could take {takes:,.0f}"


def unit_of(split: Split) -> str:
    """Return what a sample is called."""
    shape = split.facts.get("batch_shape")
    return "images/s" if isinstance(shape, list) and len(shape) == 4 else "samples/s"


def _split_notes(observation: Observation, split: Split) -> Iterator[str]:
    breathing = split.breathing
    if breathing is not None and share(split, "data") > 0.05 and breathing.variation > 0.5:
        loader = loader_of(split)
        workers = number(loader.get("num_workers")) if loader else None
        again = f", and comes again every {breathing.period_steps} steps" if breathing.period_steps else ""
        bursts = f": the batches of {workers:.0f} workers arrive together" if workers and breathing.period_steps == workers else ""
        yield f"it breathes: the waiting for data differs from step to step by {_percent(breathing.variation)} of its mean{again}{bursts}"
    if len(observation.splits) > 1:
        listed = ", ".join(f"rank {one.rank if one.rank is not None else one.pid} {_percent(share(one, 'data'))}" for one in observation.splits)
        yield f"waiting for data by rank: {listed}; a rank that waits makes the others wait in backward"
    if split.pauses is not None:
        one = split.pauses
        yield f"{one.count} pause{'' if one.count == 1 else 's'} between steps, {duration(one.seconds)} in all, mostly {one.chief} (not in the split)"
    if split.evaluation_s > 0:
        yield f"evaluation took {duration(split.evaluation_s)} of {duration(split.observed_s)} (not in the split)"
    if split.source == "samples" and split.samples < 100:
        yield f"only {split.samples} stack samples: each share is uncertain by up to {_percent(split.samples**-0.5)}"
    yield from _memory_notes(split)


def _memory_notes(split: Split) -> Iterator[str]:
    memory = split.memory
    steady_s = split.median_s
    slow_start = split.warmup_s and steady_s and split.warmup_s[0] > 3 * steady_s
    if slow_start and split.facts.get("cudnn_benchmark") and split.facts.get("device") == "cuda":
        yield f"cudnn.benchmark tries algorithms in the first steps: {duration(split.warmup_s[0])} in the place of {duration(steady_s or 0)}"
    if memory is None or memory.peak_reserved_bytes is None or memory.peak_allocated_bytes is None:
        return
    held, peak = memory.peak_reserved_bytes, memory.peak_allocated_bytes
    yield f"GPU memory: tensors took {_gib(peak)} at most, the allocator held {_gib(held)}"
    if memory.steady_allocated_bytes and peak > 1.3 * memory.steady_allocated_bytes:
        why = " (cudnn.benchmark's trials are among it)" if split.facts.get("cudnn_benchmark") else ""
        yield f"the peak is {_gib(peak - memory.steady_allocated_bytes)} above what was seen at the start of backward in ordinary steps{why}"
    if memory.alloc_retries:
        yield (
            f"the allocator emptied its cache {memory.alloc_retries} times for want of memory, and each time the GPU stood still: "
            "a smaller batch, or PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
        )
    if memory.inactive_split_bytes and memory.inactive_split_bytes > 0.2 * held:
        yield f"fragmented: {_gib(memory.inactive_split_bytes)} of {_gib(held)} are free pieces that cannot be given back (expandable_segments:True)"


def _process_notes(observation: Observation) -> Iterator[str]:
    workers = workers_of(observation)
    if workers:
        cores, disk = sum(use.cores for use in workers), sum(use.disk for use in workers) / len(workers)
        yield f"{len(workers)} loader workers use {cores:.1f} cores together and wait for a disk {_percent(disk)} of the time"
    used = sum(use.cores for use in observation.processes)
    if observation.processes:
        yield f"all processes together use {used:.1f} of {observation.cores} cores"
    for use in observation.processes:
        if use.role == "training" and (use.disk > 0.2):
            yield f"process {use.pid} waits for a disk {_percent(use.disk)} of the time"
        if use.role == "training" and use.busy_threads is not None and use.busy_threads > observation.cores:
            yield f"process {use.pid} has {use.busy_threads} busy threads for {observation.cores} cores"
    for gpu in observation.gpus:
        dips = f", below a third in {_percent(gpu.low)} of the samples" if 0.1 < gpu.low < 0.9 else ""
        yield f"GPU {gpu.index} ({gpu.name or 'unnamed'}) was busy {_percent(gpu.busy)} of the time{dips}"
    yield from observation.blind


def _blind_sentence(observation: Observation) -> str:
    """Say what can be said without a split: from the processes alone, or nothing."""
    top = max(observation.processes, key=lambda use: use.cores, default=None)
    if observation.mode == "program":
        return "No training step was seen, so there is nothing to split."
    if top is None:
        return "Nothing was seen of this process."
    if any(use.disk > 0.3 for use in observation.processes):
        slow = max(observation.processes, key=lambda use: use.disk)
        return f"Seen from outside only: process {slow.pid} ({slow.role}) waits for a disk {_percent(slow.disk)} of the time."
    used = sum(use.cores for use in observation.processes)
    limit = "the CPU is the limit, " if used > 0.9 * observation.cores else ""
    return f"Seen from outside only: {limit}{used:.1f} of {observation.cores} cores are in use, most by process {top.pid} ({top.role})."


def _gib(size: int) -> str:
    return f"{size / _GIBIBYTE:.2f} GiB"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"

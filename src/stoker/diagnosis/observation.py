"""All that was gathered about a training, as frozen facts: what the judge judges, what `--json` holds, and what tests write down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Site:
    """A line of somebody's code at which the training thread waited or copied."""

    what: str
    """`.item()`, `.to()`, `DataLoader`, ..."""
    phase: str
    file: str
    line: int
    per_step: float
    """Calls a step."""
    share: float
    """Of the training thread's time."""
    pinned: bool | None
    """Whether the copied tensor lay in page-locked memory; None: no copy to a GPU."""
    non_blocking: bool | None


@dataclass(frozen=True, kw_only=True)
class Breathing:
    """How evenly the waiting for data is spread over the steps."""

    variation: float
    """Standard deviation of a step's waiting over its mean."""
    period_steps: int | None
    """After how many steps the waiting repeats (autocorrelation above 0.4); None: no period."""


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """Steps far longer than the others: a checkpoint, the start of an epoch."""

    count: int
    seconds: float
    chief: str
    """The phase that most of it was spent in."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a training process, read but never reset."""

    rss_bytes: int | None
    """The most that was resident."""
    peak_allocated_bytes: int | None
    """The most that tensors took on the GPU since the program began."""
    peak_reserved_bytes: int | None
    """The most that PyTorch's allocator held of the GPU."""
    steady_allocated_bytes: int | None
    """The most seen at the beginning of a backward, after the warm-up: near the top of an ordinary step."""
    reserved_bytes: int | None
    """What the allocator holds at the end."""
    inactive_split_bytes: int | None
    """Free pieces of blocks that are partly in use: they cannot be given back."""
    alloc_retries: int | None
    """How often the allocator had to empty its cache and try again."""
    series: tuple[tuple[float, float], ...]
    """Seconds since the first step; bytes, on the GPU when there is one, else resident."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the time of one training process goes. Without py-spy's or the observer's eyes there is no split."""

    pid: int
    rank: int | None
    source: str
    """`observer` (exact, step by step) or `samples` (stacks, so many a second)."""
    steps: int | None
    """Ordinary training steps it is a mean of; None: samples know no steps."""
    step_s: float | None
    """Mean wall seconds of a step, the observer's own time taken out."""
    median_s: float | None
    samples: int
    """Stack samples of the training thread; 0 for the observer."""
    shares: dict[str, float]
    """Of the training thread's time, by phase; they add up to 1."""
    gpu_shares: dict[str, float] | None
    """Of the GPU stream's time, by the phase that enqueued it: in `data` and `sync` the stream was empty. None: no GPU."""
    batch: int | None
    """Samples a step, of this process."""
    data_cpu: float | None
    """Of the waiting for data, the share that the training thread itself spent computing."""
    breathing: Breathing | None
    waits_s: tuple[float, ...]
    """Waiting for data of each step, in their order."""
    warmup_s: tuple[float, ...]
    """Durations of the first steps."""
    pauses: Pauses | None
    evaluation_s: float
    """Seconds in steps with an evaluation in them."""
    observed_s: float
    """Seconds of the window."""
    sites: tuple[Site, ...]
    facts: dict[str, Any]
    """What the process told: optimizer, model, loaders, settings."""
    memory: Memory | None
    cost: float | None
    """The observer's own time over the step's, at least: its writing is measured, its clock readings are counted at their cost in a tight loop."""
    typical: tuple[tuple[tuple[str, float, float], ...], ...]
    """Some consecutive steps: phase, start and duration in seconds."""


@dataclass(frozen=True, kw_only=True)
class ProcessUse:
    """What one process of the training did, seen from outside. What may not be read is None."""

    pid: int
    role: str
    """`training`, `worker` (of a data loader) or `other`."""
    name: str
    cores: float
    """CPU seconds a second."""
    disk: float
    """Share of the samples in which it waited in the kernel for a disk (state D)."""
    read_bytes_s: float | None
    """Read from storage, not from the page cache."""
    faults_s: float | None
    """Page faults a second."""
    switches_s: float | None
    """Involuntary context switches a second: it was made to wait for a core."""
    rss_bytes: int | None
    threads: int | None
    busy_threads: int | None
    """Threads that used more than a tenth of a core."""


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """What NVML said of one GPU."""

    index: int
    name: str | None
    busy: float
    """Mean share of the time in which a kernel ran."""
    low: float
    """Share of the samples in which it was busy for less than a third of the time."""
    memory_used_bytes: int | None
    series: tuple[tuple[float, float], ...]
    """Seconds since the first sample; share busy."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Everything that is known."""

    command: str
    mode: str
    """`program` or `process`."""
    cores: int
    """Cores that this machine gives us (affinity and cgroup quota)."""
    seconds: float
    """How long was looked."""
    splits: tuple[Split, ...]
    """One a training process."""
    processes: tuple[ProcessUse, ...]
    gpus: tuple[GpuUse, ...]
    blind: tuple[str, ...]
    """What could not be seen, and why."""
    ended: str | None
    """How the program ended, when it did before the verdict."""
    boost: bool
    """Whether this Stoker has the command `boost`."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

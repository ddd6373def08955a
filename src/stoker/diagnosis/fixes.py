"""What would make the steps shorter, and by how much at most: every gain is computed from the measured shares, with its formula."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stoker.diagnosis.observation import Observation, ProcessUse, Site, Split
from stoker.runs.fields import number, part

_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
_MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class Fix:
    """One thing to change."""

    what: str
    where: str | None
    """As `train.py:20`."""
    gain: float | None
    """How many times faster a step would be; None: the split does not tell."""
    bound: bool
    """Whether the gain is an upper bound (everything measured there would vanish)."""
    formula: str
    """How the gain comes from what was measured."""
    caution: str | None
    """What else it changes; None: nothing."""


def fixes(observation: Observation, split: Split) -> tuple[Fix, ...]:
    """Return the fixes that this split calls for, the largest gain first, those without a computed gain last."""
    found = [
        *_loader(observation, split),
        *_worker_start(split),
        *_evaluation(split),
        *_syncs(observation, split),
        *_launches(observation, split),
        *_copies(split),
        *_optimizer(split),
        *_threads(observation, split),
        *_python(split),
        *_arithmetic(split),
    ]
    worth = [fix for fix in found if fix.gain is None or fix.gain >= 1.02]
    return tuple(sorted(worth, key=lambda fix: -(fix.gain or 0.0)))


def share(split: Split, phase: str) -> float:
    """Return the share of a phase in what a step takes: on a GPU, of the stream's time, since there the CPU may wait without harm."""
    return (split.gpu_shares or split.shares).get(phase, 0.0)


def at_most(fraction: float) -> float:
    """Return how many times faster a step is without a share of it."""
    return 1 / max(1e-3, 1 - fraction)


def loader_of(split: Split) -> dict[str, Any] | None:
    """Return the facts of the data loader that the training fetches from, as far as they are known."""
    loaders = split.facts.get("loaders")
    found = [entry for entry in loaders if isinstance(entry, dict)] if isinstance(loaders, list) else []
    return found[0] if found else None


def workers_of(observation: Observation) -> list[ProcessUse]:
    """Return the loader's workers as seen from outside."""
    return [use for use in observation.processes if use.role == "worker"]


def place(file: str, line: Any) -> str | None:
    """Return `train.py:20`, relative to the working directory when that is shorter."""
    if not file:
        return None
    shown = os.path.relpath(file) if os.path.isabs(file) else file
    shown = file if shown.startswith("..") else shown
    return f"{shown}:{line}"


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits a step: 1.3 s, 42 ms, 310 us."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _amount(split: Split, fraction: float) -> str:
    """Return a share as time of a step, or as percent where the steps are not known."""
    return duration(fraction * split.step_s) if split.step_s else f"{100 * fraction:.0f} %"


def _without(split: Split, fraction: float) -> str:
    whole = duration(split.step_s) if split.step_s else "100 %"
    return f"{whole} / ({whole} − {_amount(split, fraction)})"


def _loader(observation: Observation, split: Split) -> Iterator[Fix]:
    waits = share(split, "data")
    if waits < 0.03:
        return
    loader = loader_of(split)
    if loader is None:
        yield _batches_beside(split, waits)
    elif not number(loader.get("num_workers")):
        yield _first_workers(observation, split, loader, waits)
    else:
        yield _more_workers(observation, split, loader, waits)
    if observation.boost:
        yield Fix(
            what=f"run it as `stoker boost -- {observation.command}`: the same numbers from a faster loader",
            where=None,
            gain=at_most(waits),
            bound=True,
            formula=_without(split, waits),
            caution="it replays the loaders that it knows, and leaves the others as they are: --explain says which",
        )


def _batches_beside(split: Split, waits: float) -> Fix:
    site = next((site for site in split.sites if site.phase == "data"), None)
    seen = split.source == "samples"
    what = "give the loader more workers, or each sample less work" if seen else "prepare batches beside the training (a DataLoader with workers)"
    return Fix(
        what=what,
        where=place(site.file, site.line) if site else None,
        gain=at_most(waits),
        bound=True,
        formula=_without(split, waits),
        caution=None if seen else "no DataLoader was seen: everything before a step's first copy or forward is counted as data",
    )


def _first_workers(observation: Observation, split: Split, loader: dict[str, Any], waits: float) -> Fix:
    """num_workers=0: workers overlap loading with the rest, as far as there are cores for it."""
    rest = 1 - waits
    computes = (split.data_cpu if split.data_cpu is not None else 1.0) > 0.5
    most = observation.cores if computes else _MOST_WORKERS  # the training thread itself mostly waits
    workers = max(1, min(most, math.ceil(waits / max(rest, 1e-3))))
    used = next((use.cores for use in observation.processes if use.pid == split.pid), 0.0)
    floor = used / observation.cores if computes else 0.0
    new = max(rest, waits / workers, floor)
    cores = f", {used:.1f} cores' work on {observation.cores}" if computes and floor > 0 else ""
    return Fix(
        what=f"DataLoader(num_workers={workers}): loading then runs beside the step, not in it",
        where=place(str(loader.get("file") or ""), loader.get("line")),
        gain=1 / new,
        bound=True,
        formula=f"step / max(rest {_amount(split, rest)}, loading {_amount(split, waits)} / {workers}{cores})",
        caution="random transforms draw other numbers in workers than in the training process",
    )


def _more_workers(observation: Observation, split: Split, loader: dict[str, Any], waits: float) -> Fix:
    """The k workers that there are give one batch a step, all at work: k' would give k'/k."""
    count = int(number(loader.get("num_workers")) or 1)
    where = place(str(loader.get("file") or ""), loader.get("line"))
    workers = workers_of(observation)
    needed = min(_MOST_WORKERS, math.ceil(count / max(1 - waits, 1e-3)))
    busy = sum(use.cores for use in workers) / len(workers) if workers else None
    spare = observation.cores - sum(use.cores for use in observation.processes)
    if busy is not None and busy > 0.6 and spare < 0.5:
        return Fix(
            what=f"make each sample cheaper (smaller files, fewer transforms): the {count} workers use {busy * len(workers):.1f} cores, "
            f"and of {observation.cores} none is free",
            where=where,
            gain=at_most(waits),
            bound=True,
            formula=_without(split, waits),
            caution=None,
        )
    if busy is not None and sum(use.disk for use in workers) / len(workers) > 0.2:
        return Fix(
            what=f"bring the data nearer (local disk, memory, fewer and larger files): the workers wait for the disk {_disk(workers)} of the time",
            where=where,
            gain=at_most(waits),
            bound=True,
            formula=_without(split, waits),
            caution=None,
        )
    most = count + max(1, math.floor(spare)) if busy is not None and busy > 0.6 else needed
    chosen = max(count + 1, min(needed, most))
    seen = "" if busy is None else f": each worker uses {100 * busy:.0f} % of a core"
    return Fix(
        what=f"DataLoader(num_workers={chosen}) in the place of {count}{seen}",
        where=where,
        gain=1 / max(1 - waits, count / chosen),
        bound=True,
        formula=f"step / max(rest {_amount(split, 1 - waits)}, step · {count}/{chosen})",
        caution="another number of workers gives random transforms other numbers",
    )


def _disk(workers: list[ProcessUse]) -> str:
    return f"{100 * sum(use.disk for use in workers) / len(workers):.0f} %"


def _worker_start(split: Split) -> Iterator[Fix]:
    loader, pauses = loader_of(split), split.pauses
    if loader is None or pauses is None or pauses.chief != "data" or not number(loader.get("num_workers")) or loader.get("persistent_workers"):
        return
    fraction = pauses.seconds / max(split.observed_s, 1e-9)
    yield Fix(
        what="persistent_workers=True: the workers are started anew for each epoch",
        where=place(str(loader.get("file") or ""), loader.get("line")),
        gain=at_most(min(fraction, 0.9)),
        bound=True,
        formula=f"{duration(split.observed_s)} / ({duration(split.observed_s)} − {duration(pauses.seconds)} in {pauses.count} pauses)",
        caution="it changes the random numbers from the second epoch on",
    )


def _evaluation(split: Split) -> Iterator[Fix]:
    fraction = split.evaluation_s / max(split.observed_s, 1e-9)
    if fraction < 0.1:
        return
    yield Fix(
        what="evaluate half as often",
        where=None,
        gain=at_most(fraction / 2),
        bound=False,
        formula=f"{duration(split.observed_s)} / ({duration(split.observed_s)} − {duration(split.evaluation_s)} of evaluation / 2)",
        caution=None,
    )


def _syncs(observation: Observation, split: Split) -> Iterator[Fix]:
    idle = idle_gpu(observation, split)
    for site in [site for site in split.sites if site.phase == "sync" and (site.per_step >= 0.5 or split.source == "samples")][:2]:
        fraction = site.share if idle is None else min(site.share, idle)
        measured = _amount(split, site.share)
        limit = "" if idle is None else f", of which the GPU was idle at most {_amount(split, idle)}"
        yield Fix(
            what=f"{site.what} in {_often(site)} waits for the GPU: read it every 50th step, or sum on the GPU and read once an epoch",
            where=place(site.file, site.line),
            gain=at_most(fraction),
            bound=True,
            formula=f"{_without(split, fraction)}: waiting {measured}{limit}",
            caution=None,
        )


def _often(site: Site) -> str:
    if site.per_step <= 0:
        return "the step"
    return "every step" if site.per_step < 1.5 else f"every step ({site.per_step:.0f} times)"


def idle_gpu(observation: Observation, split: Split) -> float | None:
    """Return how much of the time the GPU had nothing to do: from NVML when it was there, else from the stream's gaps."""
    if observation.gpus:
        return 1 - sum(gpu.busy for gpu in observation.gpus) / len(observation.gpus)
    if split.gpu_shares:
        return split.gpu_shares.get("data", 0.0) + split.gpu_shares.get("sync", 0.0) + split.gpu_shares.get("other", 0.0)
    return None


def _launches(observation: Observation, split: Split) -> Iterator[Fix]:
    """The stream is never empty for long, and yet the GPU idles: between kernels, for Python to launch the next."""
    idle = idle_gpu(observation, split)
    if not observation.gpus or not split.gpu_shares or idle is None or idle < 0.25:
        return
    between = max(0.0, idle - split.gpu_shares.get("data", 0.0) - split.gpu_shares.get("sync", 0.0) - split.gpu_shares.get("other", 0.0))
    yield Fix(
        what="give the GPU more at a time: a larger batch, torch.compile(mode='reduce-overhead') or CUDA graphs",
        where=None,
        gain=at_most(between),
        bound=True,
        formula=f"{_without(split, between)}: idle within forward, backward and optimizer",
        caution="a larger batch trains differently",
    )


def _copies(split: Split) -> Iterator[Fix]:
    fraction = share(split, "copy")
    slow = [site for site in split.sites if site.phase == "copy" and (site.pinned is False or site.non_blocking is False)]
    if fraction < 0.02 or not slow:
        return
    site = slow[0]
    missing = [
        text for flag, text in ((site.pinned, "pin_memory=True in the loader"), (site.non_blocking, "non_blocking=True here")) if flag is False
    ]
    yield Fix(
        what=f"{site.what} copies while the GPU waits: {' and '.join(missing)}",
        where=place(site.file, site.line),
        gain=at_most(fraction),
        bound=True,
        formula=_without(split, fraction),
        caution=None,
    )


def _optimizer(split: Split) -> Iterator[Fix]:
    fraction, facts = share(split, "optimizer"), part(split.facts, "optimizer")
    name = str(facts.get("name") or "")
    if fraction < 0.05 or facts.get("fused") or (facts and name not in _FUSED):
        return
    called = f"{name}(fused=True)" if name else "fused=True for the optimizer"
    tensors = number(facts.get("tensors"))
    yield Fix(
        what=f"{called}: one pass over memory for all parameters" + (f" in place of {tensors:,.0f} tensors' operations" if tensors else ""),
        where=None,
        gain=at_most(fraction),
        bound=True,
        formula=_without(split, fraction),
        caution="fused arithmetic rounds differently in the last bits",
    )


def _threads(observation: Observation, split: Split) -> Iterator[Fix]:
    threads = number(split.facts.get("threads"))
    if threads is None or split.facts.get("device") != "cpu":
        return
    used = next((use.cores for use in observation.processes if use.pid == split.pid), None)
    compute = share(split, "forward") + share(split, "backward")
    expected = compute * threads + (1 - compute)
    if threads > observation.cores:
        what = f"OMP_NUM_THREADS={observation.cores}: torch starts {threads:.0f} threads for {observation.cores} cores (affinity and cgroup quota)"
    elif threads > 1 and compute > 0.3 and used is not None and used < 0.7 * expected:
        what = f"OMP_NUM_THREADS=1: torch's {threads:.0f} threads use {used:.1f} cores, so that they mostly wait for each other"
    else:
        return
    yield Fix(
        what=what, where=None, gain=None, bound=False, formula="the split does not tell; run it both ways", caution="the order of additions changes"
    )


def _python(split: Split) -> Iterator[Fix]:
    fraction = share(split, "other")
    if fraction < 0.1:
        return
    site = next((site for site in split.sites if site.phase == "other"), None)
    line = f": `{site.what}`" if site and site.what else ""
    yield Fix(
        what=f"Python between the phases (metrics, logging, own arithmetic): do it less often, or on the device{line}",
        where=place(site.file, site.line) if site else None,
        gain=at_most(fraction),
        bound=True,
        formula=_without(split, fraction),
        caution=None,
    )


def _arithmetic(split: Split) -> Iterator[Fix]:
    """For a step that computes: what a split cannot price, and the command that can."""
    facts = split.facts
    if share(split, "forward") + share(split, "backward") < 0.6 or not facts:
        return
    options = []
    if facts.get("device") == "cuda":
        options += ["bf16 autocast"] if not facts.get("autocast") else []
        options += ["TF32 (torch.set_float32_matmul_precision('high'))"] if not facts.get("autocast") and not facts.get("tf32") else []
    if number(facts.get("convolutions")) and facts.get("channels_last") is False:
        options.append("channels_last")
    if facts.get("compiled") is False:
        options.append("torch.compile")
    if options:
        yield Fix(
            what=f"not in use here: {', '.join(options)}",
            where=None,
            gain=None,
            bound=False,
            formula="the split does not tell; `stoker verify` measures what they give on this machine",
            caution="they round differently",
        )

"""The whole verification: gathers the readings part by part, then judges them."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from stoker import __version__, arithmetic
from stoker.bench import verdicts
from stoker.bench.ceilings import Ceilings, better, measure_bandwidth, measure_ceilings, precisions
from stoker.bench.compiled import compiled
from stoker.bench.compute import better_of, conv_pool, resnet, with_ceiling
from stoker.bench.feeding import copies, jpegs, synthetic
from stoker.bench.handshake import handshake
from stoker.bench.machine import chosen, described, unused_gpu, versions
from stoker.bench.neighbours import Patience, disturbances, look, neighbours
from stoker.bench.plan import Plan, plan_for
from stoker.bench.readings import Check, Device, Reading, Verification
from stoker.bench.rounds import free_memory
from stoker.bench.switches import kept_switches, set_tf32
from stoker.host import Host, facts

_DEAD = "nothing can be measured: the handshake failed"


def verify(*, device: str | None = None, quick: bool = False, on_part: Callable[[str], object] = lambda part: None) -> Verification:
    """Verify this machine: handshake, feeding, compute, each with a verdict.

    `device` is cpu, cuda or cuda:N; None takes the first GPU that works, else the CPU. `on_part` is told what begins. Takes about a minute, or
    with `quick` some 10 s on a GPU. torch's switches, threads and random streams are afterwards as before; on a CPU the C library keeps
    freed memory from then on (arithmetic.use_large_allocations).
    Raises BadValue and NoGpu for a device that cannot be had, DiskFull when the photos cannot be written.
    """
    begin = time.perf_counter()
    host, place = facts(), chosen(device)
    start = look(place)  # before torch starts on the GPU: its own process would count as another's
    with kept_switches(), torch.cuda.device(place) if place.type == "cuda" else contextlib.nullcontext():
        arithmetic.limit_threads(host.limits.cores)
        torch.backends.cudnn.benchmark = True
        set_tf32(False)
        about = described(place, host)
        checks, ceilings = _checks(place, about, plan_for(place.type, quick=quick), host, unused_gpu(place, device, host), on_part)
        found = neighbours(start)
        disturbed = disturbances(found)
        return Verification(
            stoker=__version__,
            made=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - begin, 1),
            quick=quick,
            host=host.hostname,
            system=host.system,
            device=about,
            versions=versions(place, host),
            neighbours=found,
            notices=(*disturbed, *verdicts.drifts(ceilings)),
            checks=tuple(verdicts.doubted(check) for check in checks) if disturbed else checks,
        )


def _checks(
    place: torch.device, about: Device, plan: Plan, host: Host, unused: str, on_part: Callable[[str], object]
) -> tuple[tuple[Check, ...], Ceilings]:
    begin, patience = time.perf_counter(), Patience(plan.patience_s)
    on_part("handshake: kernels, products, all-reduce")
    usable = precisions(about, plan)
    greeted = handshake(place, about, usable, host, unused)
    first = verdicts.judge_handshake(greeted)
    if any(reading.name == "handshake.kernel" and reading.failed for reading in greeted):
        dead = [_skipped("feeding", "Feeding"), _skipped("compute", "Compute")]
        return (first, *dead), Ceilings(readings=())
    on_part("feeding: copies and loaders")
    patience.wait()
    fed = [
        *_part("feeding.copy", "Copies to the GPU", lambda: copies(place, about, plan), place),
        *_part("feeding.synthetic", "Loaders of decoded images", lambda: synthetic(place, about, plan), place),
        *_part("feeding.jpeg", "Loaders of JPEG files", lambda: jpegs(place, about, plan), place),
    ]
    if place.type == "cpu":
        arithmetic.use_large_allocations()  # as Stoker's trainer does; the plain loaders had to be measured without
    on_part("compute: ceilings, conv-relu-pool, ResNet-50")
    computed, ceilings = _compute(place, usable, plan, begin, patience, on_part)
    second = verdicts.judge_feeding(fed, about, verdicts.appetite(computed))
    return (first, second, verdicts.judge_compute(computed, about, ceilings)), ceilings


def _compute(
    place: torch.device, usable: dict[str, str], plan: Plan, begin: float, patience: Patience, on_part: Callable[[str], object]
) -> tuple[list[Reading], Ceilings]:
    def pool() -> list[Reading]:
        patience.wait()
        return _part("compute.pool", "Conv-relu-pool forward", lambda: conv_pool(place, usable, plan), place)

    def bandwidth(known: Ceilings) -> Ceilings:
        return better(known, Ceilings(readings=tuple(_part("", "", lambda: list(measure_bandwidth(place, plan).readings), place))))

    patience.wait()
    ceilings = _ceilings(place, usable, plan)
    pooled = pool()
    ceilings = bandwidth(ceilings)
    patience.wait()
    trained = _part("compute.resnet50", "ResNet-50 training step", lambda: resnet(place, usable, plan), place)
    ceilings = bandwidth(ceilings)
    eager = [*better_of(pooled, pool()), *trained]
    if not plan.quick:
        on_part("compute: compiled")
    left_s = plan.total_s - plan.ceilings_s - (time.perf_counter() - begin)
    built = _part("compute.compiled", "Compiled", lambda: compiled(place, plan, eager, left_s), place)
    # Once more at the end: whoever disturbed the first time may be gone, and a chip that throttles shows.
    patience.wait()
    ceilings = better(ceilings, _ceilings(place, usable, plan))
    return [*ceilings.readings, *(with_ceiling(reading, ceilings) for reading in [*eager, *built])], ceilings


def _ceilings(place: torch.device, usable: dict[str, str], plan: Plan) -> Ceilings:
    measured = _part("compute.ceilings", "Ceilings", lambda: list(measure_ceilings(place, usable, plan).readings), place)
    return Ceilings(readings=tuple(measured))


def _part(name: str, title: str, measure: Callable[[], list[Reading]], place: torch.device) -> list[Reading]:
    """Return what a part gives; a part that torch cannot compute, or that finds no memory, is a reading that says so."""
    try:
        return measure()
    except (RuntimeError, MemoryError) as error:
        lines = str(error).strip().splitlines()
        reading = Reading(name=f"{name}.failed", title=title, failed=(lines[0] if lines else type(error).__name__)[:300])
    free_memory(place)
    return [reading]


def _skipped(name: str, title: str) -> Check:
    reading = replace(Reading(name=f"{name}.all", title=title, skipped=_DEAD), verdict="skipped", why=_DEAD)
    return Check(name=name, title=title, verdict="skipped", sentence=f"Skipped: {_DEAD}.", hint="", readings=(reading,))

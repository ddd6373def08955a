"""The mean step of a recording: shares by phase, waiting that breathes, pauses, lines of code, memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from stoker.diagnosis.observation import Breathing, Memory, Pauses, Site, Split
from stoker.diagnosis.recording import Recording, loaders
from stoker.diagnosis.steps import PHASES, Step, sorted_out, steps_of
from stoker.runs.fields import number

_DRAWN_STEPS = 6
_MOST_WAITS = 2000
_EVEN = 0.4
"""Autocorrelation from which a series is said to repeat."""


def split_of(recording: Recording) -> Split | None:
    """Return the split of a recording, or None when fewer than two steps were seen."""
    every = steps_of(recording)
    window = [step for step in every if recording.window_s is None or step.start_s >= recording.window_s]
    if len(window) < 2:  # a program that ended within its warm-up: its last steps are the best there is
        window = every[-max(2, len(every) // 2) :]
    steps, evaluating, paused = sorted_out(window)
    if len(steps) < 2:
        return None
    total_s = sum(step.duration_s for step in steps) or 1e-9
    waits = tuple(step.host_s["data"] for step in steps)
    return Split(
        pid=int(number(recording.start.get("pid")) or 0),
        rank=_rank(recording),
        source="observer",
        steps=len(steps),
        step_s=total_s / len(steps),
        median_s=statistics.median(step.duration_s for step in steps),
        samples=0,
        shares={phase: sum(step.host_s[phase] for step in steps) / total_s for phase in PHASES},
        gpu_shares=_gpu_shares(steps),
        batch=_batch(recording, steps),
        data_cpu=_data_cpu(steps),
        breathing=breathing(waits),
        waits_s=waits[:_MOST_WAITS],
        warmup_s=tuple(step.duration_s for step in every[:8]),
        pauses=_pauses(paused),
        evaluation_s=sum(step.duration_s for step in evaluating),
        observed_s=window[-1].start_s + window[-1].duration_s - window[0].start_s,
        sites=_sites(recording, steps, total_s),
        facts=recording.facts,
        memory=_memory(recording, every[0].start_s),
        cost=_cost(recording, steps, total_s),
        typical=_typical(steps),
    )


def breathing(waits_s: Sequence[float]) -> Breathing | None:
    """Return how the waiting is spread; None when there are too few steps or there is none."""
    mean = statistics.fmean(waits_s) if waits_s else 0.0
    if len(waits_s) < 8 or mean <= 0:
        return None
    deviation = statistics.pstdev(waits_s)
    return Breathing(
        variation=deviation / mean, period_steps=_period([wait - mean for wait in waits_s], deviation) if deviation > 0.25 * mean else None
    )


def _period(centred: list[float], deviation: float) -> int | None:
    """Return the lag (2 to 32) at which a series is most like itself, when it is that at least by _EVEN and more than at lag 1."""
    length = len(centred)
    power = deviation**2 * length

    def alike(lag: int) -> float:
        return sum(centred[at] * centred[at + lag] for at in range(length - lag)) / power * length / (length - lag)

    lags = range(2, min(33, length // 3))
    found = [(alike(lag), lag) for lag in lags]
    most = max(found, default=(0.0, 0))[0]
    # Multiples of a period are as good as itself: take the first that is nearly the best.
    return next((lag for value, lag in found if value >= max(_EVEN, 0.85 * most, alike(1))), None)


def _rank(recording: Recording) -> int | None:
    text = str(recording.start.get("rank"))
    return int(text) if text.isdecimal() else None


def _gpu_shares(steps: Sequence[Step]) -> dict[str, float] | None:
    known = [step.gpu_s for step in steps if step.gpu_s is not None]
    total_s = sum(sum(seconds.values()) for seconds in known)
    if not known or total_s <= 0:
        return None
    return {phase: sum(seconds[phase] for seconds in known) / total_s for phase in PHASES}


def _batch(recording: Recording, steps: Sequence[Step]) -> int | None:
    """Return samples a step: the batch size times the batches that a step fetched, else the size of the first batch that the model was given."""
    found = loaders(recording)
    fetch = {at for at, site in recording.sites.items() if site.get("what") == "DataLoader"}
    fetched = [sum(segment.phase == "data" and segment.site in fetch for segment in step.segments) for step in steps]
    size = number(found[0].get("batch_size")) if found else None
    if size and any(fetched):
        return int(size * max(1, round(statistics.median(fetched))))
    shape = recording.facts.get("batch_shape")
    first = number(shape[0]) if isinstance(shape, list) and shape else None
    return int(first) if first else None


def _data_cpu(steps: Sequence[Step]) -> float | None:
    known = [(step.data_cpu_s, step.host_s["data"]) for step in steps if step.data_cpu_s is not None]
    waited_s = sum(data for _, data in known)
    return min(1.0, sum(cpu for cpu, _ in known) / waited_s) if waited_s > 0 else None


def _pauses(paused: Sequence[Step]) -> Pauses | None:
    if not paused:
        return None
    by_phase = {phase: sum(step.host_s[phase] for step in paused) for phase in PHASES}
    return Pauses(count=len(paused), seconds=sum(step.duration_s for step in paused), chief=max(by_phase, key=lambda phase: by_phase[phase]))


def _sites(recording: Recording, steps: Sequence[Step], total_s: float) -> tuple[Site, ...]:
    calls: dict[tuple[int, str], list[float]] = {}
    for step in steps:
        for segment in step.segments:
            if segment.site is not None and segment.phase in ("data", "copy", "sync"):
                calls.setdefault((segment.site, segment.phase), []).append(segment.duration_s)
    found = []
    for (at, phase), durations in calls.items():
        site = recording.sites.get(at, {})
        found.append(
            Site(
                what=str(site.get("what") or ""),
                phase=phase,
                file=str(site.get("file") or ""),
                line=int(number(site.get("line")) or 0),
                per_step=len(durations) / len(steps),
                share=sum(durations) / total_s,
                pinned=_flag(site.get("pinned")),
                non_blocking=_flag(site.get("non_blocking")),
            )
        )
    return tuple(sorted(found, key=lambda site: -site.share)[:12])


def _memory(recording: Recording, begin_s: float) -> Memory | None:
    lines = recording.memory
    if not lines:
        return None

    def most(name: str, entries: Sequence[dict[str, Any]] = lines) -> int | None:
        values = [value for entry in entries if (value := number(entry.get(name))) is not None]
        return int(max(values)) if values else None

    after = [entry for entry in lines if recording.window_s is None or (number(entry.get("at_us")) or 0) >= 1e6 * recording.window_s]
    name = "allocated_bytes" if most("allocated_bytes") is not None else "rss_bytes"
    points = [(number(entry.get("at_us")), number(entry.get(name))) for entry in lines]
    return Memory(
        rss_bytes=most("rss_bytes"),
        peak_allocated_bytes=most("peak_allocated_bytes"),
        peak_reserved_bytes=most("peak_reserved_bytes"),
        steady_allocated_bytes=most("allocated_bytes", [entry for entry in after if entry.get("when") == "backward"]),
        reserved_bytes=most("reserved_bytes", lines[-1:]),
        inactive_split_bytes=most("inactive_split_bytes", after),
        alloc_retries=most("alloc_retries"),
        series=tuple((1e-6 * at - begin_s, value) for at, value in points if at is not None and value is not None),
    )


def _cost(recording: Recording, steps: Sequence[Step], total_s: float) -> float | None:
    each_us = number((recording.end or {}).get("cost_us"))
    if each_us is None:
        return None
    return (sum(step.observer_s for step in steps) + 1e-6 * each_us * sum(step.cuts for step in steps)) / total_s


def _typical(steps: Sequence[Step]) -> tuple[tuple[tuple[str, float, float], ...], ...]:
    """Return consecutive steps whose duration together is nearest to that of as many mean steps."""
    count = min(_DRAWN_STEPS, len(steps))
    mean_s = sum(step.duration_s for step in steps) / len(steps)
    sums = [sum(step.duration_s for step in steps[at : at + count]) for at in range(len(steps) - count + 1)]
    at = min(range(len(sums)), key=lambda index: abs(sums[index] - count * mean_s))
    return tuple(tuple((segment.phase, segment.start_s, segment.duration_s) for segment in step.segments) for step in steps[at : at + count])


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None

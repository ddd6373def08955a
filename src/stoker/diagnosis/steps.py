"""Training steps out of a stream of segments: from the end of one optimizer's step to the end of the next."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.diagnosis.recording import Recording, Segment

PHASES = ("data", "copy", "forward", "backward", "optimizer", "sync", "other")
"""As they come in a step. `sync` is waiting for the GPU, `other` is Python between the phases."""
_PAUSE = 8.0
"""A step that is longer than so many medians (and than 50 ms) is a pause: a checkpoint, an evaluation, the start of an epoch."""
_PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step."""

    start_s: float
    duration_s: float
    """Without what the observer took."""
    host_s: dict[str, float]
    """Seconds of the training thread by phase; they add up to the duration."""
    gpu_s: dict[str, float] | None
    """Seconds of the GPU's stream by the phase that enqueued the work; what passes there in `data` and `sync` is idle time. None: no GPU."""
    segments: tuple[Segment, ...]
    evaluates: bool
    """Whether a forward without gradients ran within it."""
    data_cpu_s: float | None
    """CPU time of the training thread while it fetched batches."""
    observer_s: float

    @property
    def cuts(self) -> int:
        """How often the observer read the clock in it."""
        return len(self.segments)


def steps_of(recording: Recording) -> list[Step]:
    """Return the steps of a recording, warm-up included.

    Of several optimizers the one that steps most often (the first of equals) marks the steps. Python between a forward and its backward is the
    loss, and counts as forward. Where no data loader was seen, what passes before the first copy or forward of a step counts as data.
    """
    marks = Counter(segment.site for segment in recording.segments if segment.phase == "step")
    if not marks:
        return []
    most = max(marks.values())
    key = next(segment.site for segment in recording.segments if segment.phase == "step" and marks[segment.site] == most)
    loaded = any(segment.phase == "data" for segment in recording.segments)
    steps, current = [], []
    begun = False
    for segment in recording.segments:
        if segment.phase != "step":
            current.append(segment)
        elif segment.site == key:
            if begun and current:
                steps.append(_step(current, loaded))
            begun, current = True, []
    often = sum(step.evaluates for step in steps) > len(steps) / 2
    return [_forward_without_gradients(step) for step in steps] if often else steps


def sorted_out(steps: Sequence[Step]) -> tuple[list[Step], list[Step], list[Step]]:
    """Return the ordinary steps, those with an evaluation in them, and those that are pauses."""
    training = [step for step in steps if not step.evaluates]
    evaluating = [step for step in steps if step.evaluates]
    if not training:
        return [], evaluating, []
    limit_s = max(_PAUSE_S, _PAUSE * statistics.median(step.duration_s for step in training))
    return [step for step in training if step.duration_s <= limit_s], evaluating, [step for step in training if step.duration_s > limit_s]


def _step(segments: list[Segment], loaded: bool) -> Step:
    named = _relabelled([segment for segment in segments if segment.phase != "observer"], loaded)
    host_s = dict.fromkeys((*PHASES, "evaluation"), 0.0)
    gpu_s = dict.fromkeys((*PHASES, "evaluation"), 0.0)
    for segment in named:
        phase = segment.phase if segment.phase in host_s else "other"
        host_s[phase] += segment.duration_s
        gpu_s[phase] += segment.gpu_s or 0.0
    cpu = [segment.cpu_s for segment in named if segment.cpu_s is not None]
    return Step(
        start_s=segments[0].start_s,
        duration_s=sum(host_s.values()),
        host_s=host_s,
        gpu_s=gpu_s if any(segment.gpu_s is not None for segment in named) else None,
        segments=tuple(named),
        evaluates=host_s["evaluation"] > 0,
        data_cpu_s=sum(cpu) if cpu else None,
        observer_s=sum(segment.duration_s for segment in segments if segment.phase == "observer"),
    )


def _relabelled(segments: list[Segment], loaded: bool) -> list[Segment]:
    """Name what the observer could only call `other`: the loss, and batches that come from no data loader."""
    result, inside = [], False
    started = loaded
    for index, segment in enumerate(segments):
        started = started or segment.phase in ("copy", "forward", "backward")
        if segment.phase == "other" and not started and any(later.phase in ("copy", "forward") for later in segments[index:]):
            segment = segment._replace(phase="data")
        elif segment.phase == "other" and inside and _next_great(segments, index) == "backward":
            segment = segment._replace(phase="forward")
        if segment.phase in ("forward", "backward", "data", "optimizer"):
            inside = segment.phase == "forward"
        result.append(segment)
    return result


def _next_great(segments: list[Segment], index: int) -> str | None:
    return next((later.phase for later in segments[index + 1 :] if later.phase not in ("other", "copy", "sync")), None)


def _forward_without_gradients(step: Step) -> Step:
    """Return a step whose forward without gradients belongs to it (a teacher, an actor): most steps have one, so it is no evaluation."""
    host_s, gpu_s = dict(step.host_s), dict(step.gpu_s) if step.gpu_s else None
    for seconds in (host_s, gpu_s):
        if seconds is not None:
            seconds["forward"] += seconds["evaluation"]
            seconds["evaluation"] = 0.0
    return Step(
        start_s=step.start_s,
        duration_s=step.duration_s,
        host_s=host_s,
        gpu_s=gpu_s,
        segments=tuple(segment._replace(phase="forward") if segment.phase == "evaluation" else segment for segment in step.segments),
        evaluates=False,
        data_cpu_s=step.data_cpu_s,
        observer_s=step.observer_s,
    )

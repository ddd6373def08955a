"""The learning rate over a run, as a pure function of the step: a resumed run needs to remember nothing."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from stoker.errors import BadValue, UnknownName, nearest

NAMES = ("constant", "cosine", "linear", "onecycle")
ONECYCLE_START = 1 / 25
"""The share of the highest rate with which onecycle begins, as torch.optim.lr_scheduler.OneCycleLR's default `div_factor`."""


def factor(name: str, *, step: int, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Return the share of the highest learning rate for `step` (0 .. total_steps - 1).

    All rise during `warmup_steps` (a straight line from near 0; onecycle: half a cosine from 1/25) and are 1 at step `warmup_steps`. Then
    constant stays at 1; linear falls along a straight line ("triangle"), cosine and onecycle along half a cosine, to `final`, which
    is reached at step `total_steps`, the first that is no longer taken. Raises UnknownName and BadValue.
    """
    if name not in NAMES:
        near = nearest(name, NAMES)
        likely = f"did you mean '{near}'? " if near else ""
        raise UnknownName(f"there is no schedule '{name}'", hint=f"{likely}there are: {', '.join(NAMES)}")
    if total_steps < 1 or step < 0 or warmup_steps < 0 or not 0 <= final <= 1:
        raise BadValue(
            f"no schedule has step {step} of {total_steps} with {warmup_steps} of warm-up and ends at {final}",
            hint="steps are counted from 0, there is at least one, and the end is a share between 0 and 1 of the highest rate",
        )
    if step < warmup_steps:
        if name == "onecycle":
            return ONECYCLE_START + (1 - ONECYCLE_START) * _half_cosine(step / warmup_steps)
        return (step + 1) / (warmup_steps + 1)
    if name == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    fallen = progress if name == "linear" else _half_cosine(progress)
    return 1.0 - (1.0 - final) * fallen


def set_rates(
    optimizer: Optimizer, name: str, *, step: int, total_steps: int, warmup_steps: int = 0, final: float = 0.0, freeze: bool = False
) -> float:
    """Set the learning rate of every parameter group for `step`; return that of the first.

    A group whose `span` is below 1 runs through the schedule, down to 0, in that share of the run, and then has a rate of 0. With `freeze`
    its parameters then need no gradient either, which saves the backward pass to it; not with DDP, which waits for every
    gradient, and a compiled model compiles anew at that step unless both states were warmed up (a smaller step undoes it).
    """
    for group in optimizer.param_groups:
        span_steps = max(1, round(group.get("span", 1.0) * total_steps))
        if span_steps >= total_steps:
            share = factor(name, step=step, total_steps=total_steps, warmup_steps=warmup_steps, final=final)
        else:
            over = step >= span_steps
            share = 0.0 if over else factor(name, step=step, total_steps=span_steps, warmup_steps=min(warmup_steps, span_steps - 1))
            if freeze:
                for parameter in group["params"]:
                    parameter.requires_grad_(not over)
                    parameter.grad = None if over else parameter.grad
        group["lr"] = group.get("peak_lr", optimizer.defaults["lr"]) * share
    return float(optimizer.param_groups[0]["lr"])


def _half_cosine(progress: float) -> float:
    """From 0 to 1, flat at both ends."""
    return (1 - math.cos(math.pi * progress)) / 2

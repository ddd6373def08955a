"""The third check: what share of its own ceilings the machine reaches in a small forward pass and in a training step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch

from stoker.bench.ceilings import NUMBER_BYTES, Ceilings
from stoker.bench.plan import Plan
from stoker.bench.readings import Reading
from stoker.bench.resnet import resnet50
from stoker.bench.rounds import fitting, free_memory, rated, timed
from stoker.bench.steps import IMAGE_SIZE, POOL_FLOPS, POOL_NUMBERS, pool_step, resnet_step
from stoker.bench.work import work_of
from stoker.measure import Timing

MakeStep = Callable[[int, str, str, torch.device], Callable[[], object]]
with torch.device("meta"):
    RESNET = work_of(resnet50(), IMAGE_SIZE)
"""Counted once, on shapes alone."""
POOL_TITLE, RESNET_TITLE = "Conv-relu-pool forward", "ResNet-50 training step"
_ROUNDS = 12
_SLOWEST_TURN = 0.25
"""One turn of all variants should take no more than this share of the budget: else the batch is made smaller beforehand."""


def conv_pool(device: torch.device, usable: dict[str, str], plan: Plan) -> list[Reading]:
    """Return the rate of conv-relu-pool in every precision and layout, without ceilings yet."""
    batch, timings = _timings(pool_step, plan.pool_batch, 1, device, usable, plan, plan.pool_s / 2)
    readings = []
    for (precision, layout), timing in timings.items():
        reading = Reading(
            name=f"compute.pool.{precision}.{layout}",
            title=f"{POOL_TITLE}, {precision}, {layout}",
            unit="GB/s",
            facts={"batch": batch, "asked_batch": 128, "precision": precision, "layout": layout},
        )
        readings.append(pool_rated(reading, timing, batch, precision))
    return readings


def resnet(device: torch.device, usable: dict[str, str], plan: Plan) -> list[Reading]:
    """Return the rate of a training step of ResNet-50 in every precision and layout, without ceilings yet."""
    batch, timings = _timings(resnet_step, plan.resnet_batch, 2, device, usable, plan, plan.resnet_s)
    readings = []
    for (precision, layout), timing in timings.items():
        reading = Reading(
            name=f"compute.resnet50.{precision}.{layout}",
            title=f"{RESNET_TITLE}, {precision}, {layout}",
            unit="TFLOP/s",
            facts={"batch": batch, "asked_batch": plan.resnet_batch, "precision": precision, "layout": layout},
        )
        readings.append(resnet_rated(reading, timing, batch))
    return readings


def pool_rated(reading: Reading, timing: Timing, batch: int, precision: str) -> Reading:
    """Return the reading with its rate; POOL_NUMBERS says what is counted."""
    amount = batch * POOL_NUMBERS * NUMBER_BYTES[precision] / 1e9
    rate = rated(reading, timing, amount)
    return replace(rate, facts=reading.facts | {"images_per_s": round(batch / timing.low_s, 1), "step_s": timing.low_s})


def resnet_rated(reading: Reading, timing: Timing, batch: int) -> Reading:
    """Return the reading with its rate; work.py says what is counted."""
    rate = rated(reading, timing, batch * RESNET.training_flops / 1e12)
    return replace(rate, facts=reading.facts | {"images_per_s": round(batch / timing.low_s, 2), "step_s": timing.low_s})


def better_of(first: list[Reading], second: list[Reading]) -> list[Reading]:
    """Return the better of two measurements of the same work, some time apart; what only one of them has stays as it is."""
    later = {reading.name: reading for reading in second if reading.value is not None}
    merged = []
    for reading in first:
        other = later.get(reading.name)
        same = other is not None and other.facts.get("batch") == reading.facts.get("batch")
        merged.append(other if other is not None and same and (other.value or 0.0) > (reading.value or 0.0) else reading)
    return merged


def with_ceiling(reading: Reading, ceilings: Ceilings) -> Reading:
    """Return the reading of a workload with what the measured ceilings allow it at most."""
    precision, batch = reading.facts.get("precision"), reading.facts.get("batch")
    bandwidth, matrix = ceilings.bandwidth, ceilings.matrix(str(precision))
    if reading.value is None or bandwidth is None or matrix is None or not isinstance(batch, int):
        return reading
    number_bytes = NUMBER_BYTES[str(precision)]
    if reading.name.startswith("compute.pool."):
        amount = batch * POOL_NUMBERS * number_bytes
        least_s = max(amount / bandwidth, batch * POOL_FLOPS / matrix)
        return replace(reading, ceiling=amount / least_s / 1e9, ceiling_from="measured bandwidth and matrix rate")
    least_s = RESNET.training_s(batch, number_bytes=number_bytes, flops_s=matrix, bytes_s=bandwidth)
    return replace(reading, ceiling=batch * RESNET.training_flops / least_s / 1e12, ceiling_from="measured bandwidth and matrix rate, layer by layer")


def _timings(
    make: MakeStep, wanted: int, least: int, device: torch.device, usable: dict[str, str], plan: Plan, budget_s: float
) -> tuple[int, dict[tuple[str, str], Timing]]:
    """Time all variants in turn, all with the same batch: the largest that fits into memory and, on a slow device, into the time."""
    variants = list(itertools.product([name for name, reason in usable.items() if not reason], plan.layouts))

    def attempt(batch: int) -> dict[str, Timing]:
        calls = {f"{precision} {layout}": make(batch, precision, layout, device) for precision, layout in variants}
        return timed(calls, device, rounds=_ROUNDS, budget_s=budget_s)

    free_memory(device)
    batch, found = fitting(_affordable(make, wanted, least, device, variants, budget_s), least, attempt, device)
    free_memory(device)
    return batch, {variant: found[" ".join(variant)] for variant in variants}


def _affordable(make: MakeStep, wanted: int, least: int, device: torch.device, variants: list[tuple[str, str]], budget_s: float) -> int:
    """Return the batch, a quarter as often as needed, with which a turn of all variants fits the budget; judged by the smallest batch."""
    timing = timed({"one": make(least, *variants[0], device)}, device, rounds=2, budget_s=0.0)["one"]
    image_s = min(timing.samples_s) / least
    batch = wanted
    while batch // 4 >= least and batch * image_s * len(variants) > 4 * _SLOWEST_TURN * budget_s:
        batch //= 4
    return batch

"""What this machine can do at most, measured on the spot: memory bandwidth and the rate of matrix products in each precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from stoker.bench.plan import Plan
from stoker.bench.readings import Device, Reading
from stoker.bench.rounds import fitting, free_memory, rated, timed
from stoker.bench.switches import set_tf32

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUMBER_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
_EMULATED = 3.0
"""bfloat16 slower than float32 by more than this is emulated: a CPU without instructions for it can take a hundred times as long."""
_SMALLEST_MATRIX = 512
_LEAST_COPY_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The readings, and what follows from them."""

    readings: tuple[Reading, ...]

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second."""
        return _best(self.readings, "compute.bandwidth.", 1e9)

    def matrix(self, precision: str) -> float | None:
        """FLOPs a second in a precision."""
        return _best(self.readings, f"compute.matrix.{precision}.", 1e12)


def precisions(device: Device, plan: Plan) -> dict[str, str]:
    """Return every precision of the plan, with the reason why it is left out, or nothing. A GPU without bf16 has fp16 in its place."""
    if device.kind == "cuda":
        assert device.capability is not None
        ampere = device.capability >= (8, 0)
        wanted = tuple("fp16" if name == "bf16" and not ampere else name for name in plan.precisions)
        reasons = {name: "" if ampere or name != "tf32" else "GPUs before Ampere (8.0) have no TF32" for name in wanted}
        return reasons if any(not reason for name, reason in reasons.items() if name != "fp16") else {"fp32": "", **reasons}
    return {name: _cpu_reason(name) for name in plan.precisions}


def measure_ceilings(device: torch.device, usable: dict[str, str], plan: Plan) -> Ceilings:
    """Measure bandwidth and matrix rates."""
    readings = [*_bandwidths(device, plan)]
    names = [name for name, reason in usable.items() if not reason]
    readings += _matrices(device, names, plan)
    if device.type == "cpu":
        readings += _convolutions(names, plan)
    titles = {name: f"Matrix product, {name}" for name, reason in usable.items() if reason}
    readings += [Reading(name=f"compute.matrix.{name}.mm", title=titles[name], unit="TFLOP/s", skipped=usable[name]) for name in titles]
    free_memory(device)
    return Ceilings(readings=tuple(readings))


def measure_bandwidth(device: torch.device, plan: Plan) -> Ceilings:
    """Measure the bandwidth alone: on a shared host it changes within seconds, so it is worth several looks."""
    found = Ceilings(readings=tuple(_bandwidths(device, plan)))
    free_memory(device)
    return found


def better(first: Ceilings, second: Ceilings) -> Ceilings:
    """Return the better reading of each that was measured twice; the fact `drift` says by what share they differ at most."""
    later = {reading.name: reading for reading in second.readings}
    merged = []
    for reading in first.readings:
        other = later.get(reading.name, reading)
        if reading.value is None or other.value is None:
            merged.append(reading if reading.value is not None else other)
            continue
        best = max(reading, other, key=lambda one: one.value or 0.0)
        drifts = [float(one.facts.get("drift", 0.0)) for one in (reading, other)]
        if other is not reading:
            drifts.append(other.value / reading.value - 1)
        merged.append(replace(best, facts=best.facts | {"drift": round(max(max(drifts), -min(drifts)), 4)}))
    return Ceilings(readings=tuple(merged))


def _bandwidths(device: torch.device, plan: Plan) -> list[Reading]:
    def attempt(size_bytes: int) -> list[Reading]:
        source = torch.ones(size_bytes // 4, device=device)
        other, target = torch.ones_like(source), torch.empty_like(source)
        calls: dict[str, Callable[[], object]] = {
            "copy": lambda: target.copy_(source),
            "triad": lambda: torch.add(source, other, alpha=3.0, out=target),
        }
        timings = timed(calls, device, rounds=2 * plan.rounds, budget_s=plan.ceilings_s / 3)
        facts = {"array_bytes": size_bytes}
        return [
            rated(Reading(name="compute.bandwidth.copy", title="Memory, copy", unit="GB/s", facts=facts), timings["copy"], 2 * size_bytes / 1e9),
            rated(Reading(name="compute.bandwidth.triad", title="Memory, a + 3b", unit="GB/s", facts=facts), timings["triad"], 3 * size_bytes / 1e9),
        ]

    return fitting(plan.copy_bytes, _LEAST_COPY_BYTES, attempt, device)[1]


def _matrices(device: torch.device, names: list[str], plan: Plan) -> list[Reading]:
    readings = []
    budget_s = plan.ceilings_s / 3 / max(1, len(names))
    for name in names:
        set_tf32(name == "tf32")
        found = [_matrix(device, name, size, plan.rounds, budget_s / len(plan.matrix_sizes)) for size in plan.matrix_sizes]
        readings.append(max(found, key=lambda reading: reading.value or 0.0))
    return readings


def _matrix(device: torch.device, name: str, wanted: int, rounds: int, budget_s: float) -> Reading:
    def attempt(size: int) -> Reading:
        a, b = (torch.randn(size, size, device=device, dtype=DTYPES[name]) for _ in range(2))
        out = torch.empty_like(a)
        timing = timed({name: lambda: torch.mm(a, b, out=out)}, device, rounds=rounds, budget_s=budget_s)[name]
        reading = Reading(name=f"compute.matrix.{name}.mm", title=f"Matrix product, {name}", unit="TFLOP/s", facts={"size": size})
        return rated(reading, timing, 2.0 * size**3 / 1e12)

    return fitting(wanted, _SMALLEST_MATRIX, attempt, device)[1]


def _convolutions(names: list[str], plan: Plan) -> list[Reading]:
    """Return the rate of a large 3x3 convolution on the CPU: oneDNN's, which is not the library of the matrix product."""
    batch, channels, side = (2, 256, 28) if plan.quick else (8, 256, 28)
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        images = torch.randn(batch, channels, side, side, dtype=DTYPES[name]).contiguous(memory_format=torch.channels_last)
        weights = torch.randn(channels, channels, 3, 3, dtype=DTYPES[name]).contiguous(memory_format=torch.channels_last)

        def convolve(images: torch.Tensor = images, weights: torch.Tensor = weights) -> None:
            with torch.no_grad():
                F.conv2d(images, weights, padding=1)

        calls[name] = convolve
    timings = timed(calls, torch.device("cpu"), rounds=plan.rounds, budget_s=plan.ceilings_s / 3)
    amount = 2.0 * batch * channels * channels * 9 * side * side / 1e12
    facts = {"batch": batch, "channels": channels, "side": side}
    return [
        rated(Reading(name=f"compute.matrix.{name}.conv", title=f"Convolution 3x3, {name}", unit="TFLOP/s", facts=facts), timings[name], amount)
        for name in names
    ]


def _cpu_reason(name: str) -> str:
    if name == "fp32":
        return ""
    a32, a16 = torch.randn(256, 256), torch.randn(256, 256, dtype=DTYPES[name])
    calls: dict[str, Callable[[], object]] = {"fp32": lambda: a32 @ a32, name: lambda: a16 @ a16}
    timings = timed(calls, torch.device("cpu"), rounds=4, budget_s=1.0)
    slower = min(timings[name].samples_s) / min(timings["fp32"].samples_s)
    return f"{name} is emulated on this CPU ({slower:.0f} times slower than fp32)" if slower > _EMULATED else ""


def _best(readings: tuple[Reading, ...], prefix: str, scale: float) -> float | None:
    found = [reading.value * scale for reading in readings if reading.name.startswith(prefix) and reading.value is not None]
    return max(found, default=None)

"""What is thought of the readings: pure judgement on written-down numbers, so that every verdict is tested without a machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stoker.bench.ceilings import Ceilings
from stoker.bench.readings import Check, Device, Reading, worst

SHEET_FLOORS = {"bandwidth": 0.7, "fp32": 0.6, "tf32": 0.5, "bf16": 0.5, "fp16": 0.5}
"""Shares of the maker's peak below which a GPU gives less than it should. Choices of ours, set low on purpose: data sheets count boost clocks
that cards under a power limit do not hold, and a wrong alarm costs more trust than a missed tenth."""
LINK_FLOOR = 0.6
"""Of the PCIe link, for copies out of pinned memory: packet headers alone take a tenth."""
WORKLOAD_FLOORS = {"pool": 0.25, "resnet50": 0.25}
"""Of what the measured ceilings allow: below a quarter something other than the chip decides. Quiet two-core CPU: see docs/verify.md."""
DRIFT = 0.15
"""Ceilings that differ by more between their measurements are said."""
_WHY_CUDA = "`stoker doctor --why cuda` names the broken link"


@dataclass(frozen=True, kw_only=True)
class Appetite:
    """What the device would eat."""

    images_per_s: float
    batch: int
    title: str


def judge_handshake(readings: list[Reading]) -> Check:
    """Return the first check."""
    judged = tuple(_right(reading) for reading in readings)
    verdict = worst([reading.verdict for reading in judged])
    bad = [reading for reading in judged if reading.verdict in ("wrong", "low")]
    if bad:
        sentence, hint = f"{bad[0].title}: {bad[0].why}", _handshake_hint(bad[0])
    else:
        tries = sum(reading.unit == "error" and reading.verdict == "ok" for reading in judged)
        sentence, hint = f"The device answers, and all {tries} results are right.", ""
    return Check(name="handshake", title="Handshake", verdict=verdict, sentence=sentence, hint=hint, readings=judged)


def judge_compute(readings: list[Reading], device: Device, ceilings: Ceilings) -> Check:
    """Return the third check: ceilings against the maker's sheet, workloads against the ceilings."""
    judged = tuple(_computed(reading, readings, device, ceilings) for reading in readings)
    verdict = worst([reading.verdict for reading in judged])
    low = [reading for reading in judged if reading.verdict in ("low", "wrong")]
    best = appetite(readings)
    if low:
        sentence = f"{low[0].title}: {low[0].why}"
        hint = "look for other processes, throttling, a power limit or a slow slot: `stoker doctor`"
    elif best is None:
        sentence, hint = "The training step could not be measured.", ""
    else:
        share = next(reading.share for reading in judged if reading.title == best.title)
        of = f", {share:.0%} of what memory and matrix rate allow" if share else ""
        sentence, hint = f"ResNet-50 trains at {_count(best.images_per_s)} images/s{of}.", ""
    return Check(name="compute", title="Compute", verdict=verdict, sentence=sentence, hint=hint, readings=judged)


def judge_feeding(readings: list[Reading], device: Device, eats: Appetite | None) -> Check:
    """Return the second check: the best loader against what the device would eat."""
    judged, sentences, hints = [], [], []
    for reading in readings:
        if reading.name.startswith("feeding.copy."):
            judged.append(_copied(reading))
    for kind in ("synthetic", "jpeg"):
        mine = [reading for reading in readings if reading.name.startswith(f"feeding.{kind}")]
        found, sentence, hint = _fed(mine, device, eats)
        judged += found
        sentences.append(sentence)
        hints.append(hint)
    low = [reading for reading in judged if reading.verdict == "low"]
    verdict = worst([reading.verdict for reading in judged])
    sentence = sentences[-1] or sentences[0]
    hint = hints[-1] or hints[0]
    if low and not hint:
        sentence, hint = f"{low[0].title}: {low[0].why}", _feeding_hint(low[0])
    return Check(name="feeding", title="Feeding", verdict=verdict, sentence=sentence, hint=hint, readings=tuple(judged))


def appetite(readings: list[Reading]) -> Appetite | None:
    """Return the rate of the fastest training step; None when none was measured."""
    found = [reading for reading in readings if reading.name.startswith("compute.resnet50.") and reading.value is not None]
    best = max(found, key=lambda reading: float(reading.facts.get("images_per_s", 0.0)), default=None)
    if best is None or not best.facts.get("images_per_s"):
        return None
    return Appetite(images_per_s=float(best.facts["images_per_s"]), batch=int(best.facts.get("batch", 0)), title=best.title)


def doubted(check: Check) -> Check:
    """Return the check of a machine that was not quiet: what is low may be low for that alone."""
    if check.verdict != "low":
        return check
    return replace(check, hint=f"first run it again on a quiet machine (see the notices); then: {check.hint}")


def drifts(ceilings: Ceilings) -> list[str]:
    """Return a sentence when a ceiling differed much between begin and end."""
    found = [(abs(float(reading.facts["drift"])), reading) for reading in ceilings.readings if reading.facts.get("drift") is not None]
    if not found or max(found, key=lambda pair: pair[0])[0] <= DRIFT:
        return []
    size, reading = max(found, key=lambda pair: pair[0])
    return [
        f"{reading.title} differed by {size:.0%} in the course of the run: machine or host was not quiet, or it throttled. The best value counts."
    ]


def _right(reading: Reading) -> Reading:
    if reading.skipped:
        return replace(reading, verdict="skipped", why=reading.skipped)
    if reading.failed:
        return replace(reading, verdict="low" if reading.name == "handshake.cudnn" else "wrong", why=reading.failed)
    if reading.unit != "error":
        return replace(reading, verdict="ok", why=", ".join(f"{value}" for value in reading.facts.values()))
    value, allowed = reading.value, reading.ceiling or 0.0
    if value is not None and math.isfinite(value) and value <= allowed:
        return replace(reading, verdict="ok", why="every number is exact" if value == 0 else f"error {value:.1e}, rounding allows {allowed:.1e}")
    if value is None or not math.isfinite(value):
        return replace(reading, value=None, verdict="wrong", why="the result is not a number")
    if allowed == 0:
        return replace(reading, verdict="wrong", why=f"{value:,.0f} numbers are wrong")
    return replace(reading, verdict="wrong", why=f"the result is wrong: error {value:.1e}, rounding allows {allowed:.1e}")


def _handshake_hint(reading: Reading) -> str:
    if reading.name in ("handshake.seen", "handshake.kernel", "handshake.cudnn"):
        return _WHY_CUDA
    if reading.name == "handshake.versions":
        return "start the image anew, and install nothing into it"
    if reading.name == "handshake.all_reduce":
        return "training on several GPUs or processes will fail likewise; `stoker doctor` looks at NCCL's settings and /dev/shm"
    return "do not train on this: memory, chip or a library gives wrong numbers; `stoker doctor` looks for ECC and Xid errors"


def _computed(reading: Reading, readings: list[Reading], device: Device, ceilings: Ceilings) -> Reading:
    if reading.skipped:
        return replace(reading, verdict="skipped", why=reading.skipped)
    if reading.failed:
        return replace(reading, verdict="low", why=reading.failed)
    _, group, precision, *_ = reading.name.split(".")
    if group in ("bandwidth", "matrix"):
        return _against_sheet(reading, "bandwidth" if group == "bandwidth" else precision, device, ceilings)
    rivals = [
        other for other in readings if other.name.startswith(f"compute.{group}.{precision}.") and other.value and not other.facts.get("compiled")
    ]
    if reading.facts.get("compiled"):
        ratio = reading.facts.get("ratio")
        return replace(reading, verdict="noted", why=f"{ratio:.2f} times as fast as without compiling, in turn" if isinstance(ratio, float) else "")
    best = max(rivals, key=lambda other: other.value or 0.0)
    if best.name != reading.name and reading.value:
        return replace(reading, verdict="noted", why=f"{(best.value or 0.0) / reading.value:.1f} times slower than {best.facts.get('layout')}")
    return _against(reading, WORKLOAD_FLOORS[group], "of what the measured ceilings allow")


def _against_sheet(reading: Reading, key: str, device: Device, ceilings: Ceilings) -> Reading:
    peak = device.sheet.get(key)
    if device.kind == "cpu":
        measured = ceilings.bandwidth if key == "bandwidth" else ceilings.matrix(key)
        scale = 1e9 if key == "bandwidth" else 1e12
        share = f"{reading.value * scale / measured:.0%} of the best measured here" if reading.value and measured else ""
        return replace(reading, ceiling=measured / scale if measured else None, ceiling_from="the best measured here", verdict="noted", why=share)
    if peak is None:
        return replace(reading, verdict="noted", why="the catalogue has no peak for this device")
    filled = replace(reading, ceiling=peak / (1e9 if key == "bandwidth" else 1e12), ceiling_from=f"data sheet of {device.model}")
    if reading.name == "compute.bandwidth.triad":  # copy is the one that is judged
        return replace(filled, verdict="noted", why=f"{filled.share or 0:.0%} of the data sheet")
    return _against(filled, SHEET_FLOORS[key], "of the data sheet")


def _copied(reading: Reading) -> Reading:
    if reading.skipped or reading.failed:
        return replace(reading, verdict="skipped" if reading.skipped else "low", why=reading.skipped or reading.failed)
    if reading.name == "feeding.copy.pinned" and reading.ceiling:
        return _against(reading, LINK_FLOOR, "of the PCIe link")
    return replace(reading, verdict="noted", why=f"{reading.share:.0%} of the PCIe link" if reading.share else "")


def _against(reading: Reading, floor: float, of: str) -> Reading:
    share = reading.share
    if share is None:
        return replace(reading, verdict="noted", why="there is no ceiling to hold it against")
    if share < floor:
        return replace(reading, verdict="low", why=f"{share:.0%} {of}, at least {floor:.0%} is expected")
    return replace(reading, verdict="ok", why=f"{share:.0%} {of}")


def _fed(readings: list[Reading], device: Device, eats: Appetite | None) -> tuple[list[Reading], str, str]:
    """Judge the loaders of one kind of image by the best of them. Returns the readings, the sentence and the hint."""
    judged = [_plainly(reading) for reading in readings]
    measured = [reading for reading in readings if reading.value]
    if not measured:
        return judged, "", ""
    best = max(measured, key=lambda reading: reading.value or 0.0)
    rate = best.value or 0.0
    if eats is None:
        return judged, f"The best loader gives {_count(rate)} images/s; what the device eats could not be measured.", ""
    verdict, sentence, hint = _hunger(best, rate, device, eats)
    judged = [replace(reading, verdict=verdict, why=sentence) if reading.name == best.name else reading for reading in judged]
    return judged, sentence, hint


def _hunger(best: Reading, rate: float, device: Device, eats: Appetite) -> tuple[str, str, str]:
    gives, wants = _count(rate), _count(eats.images_per_s)
    if device.kind == "cpu":
        if rate > eats.images_per_s:
            cost = eats.images_per_s / rate
            return (
                "ok",
                f"The loader gives {gives} images/s; the CPU trains {wants} with the same cores: feeding takes {_percent(cost)} of its time.",
                "",
            )
        return (
            "low",
            f"The loader gives {gives} images/s, fewer than the {wants} that the CPU trains.",
            "decode the images once, or make them smaller",
        )
    if rate >= eats.images_per_s:
        return "ok", f"The loader gives {gives} images/s, the GPU eats {wants}: it stays fed.", ""
    cores = cores_needed(best, rate, device, eats.images_per_s)
    sentence = f"The loader gives {gives} images/s, the GPU eats {wants}: it will starve. About {cores} cores are needed, there are {device.cores}."
    return "low", sentence, "give the job more CPU cores, smaller images, or images that are decoded once and kept in memory"


def cores_needed(best: Reading, rate: float, device: Device, wanted: float) -> int:
    """Return the cores with which the loader would give `wanted` images a second, each core giving as much as now."""
    workers = int(best.facts.get("workers") or 0)
    busy = float(best.facts.get("cores") or min(max(1, workers), device.cores))
    return math.ceil(wanted / (rate / max(busy, 0.1)))


def _plainly(reading: Reading) -> Reading:
    if reading.skipped:
        return replace(reading, verdict="skipped", why=reading.skipped)
    if reading.failed:
        return replace(reading, verdict="low", why=reading.failed)
    return replace(reading, verdict="noted", why="")


def _feeding_hint(reading: Reading) -> str:
    if "shm" in reading.failed or "shared memory" in reading.failed or "Bus error" in reading.failed:
        return "give the container more shared memory, for example `--shm-size=2g`; `stoker doctor` computes how much a loader needs"
    if reading.name.startswith("feeding.copy."):
        return "the card may sit in a slow slot or its link may have lost lanes: `stoker doctor`"
    return "`stoker doctor` looks at cores, shared memory and limits"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"

"""What was measured and what is thought of it: readings, checks and the whole verification as frozen values, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.errors import ReportBroken

FORMAT = 1
"""The number that the JSON carries; another one is another shape."""
VERDICTS = ("wrong", "low", "ok", "noted", "skipped")
"""From worst to least said. `noted`: measured, and there is nothing that it should reach."""
_MOST_BYTES = 20_000_000
_HINT = "make a new one with `stoker verify --json FILE`"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One thing that was measured or tried. A rate is that of the best quarter of its rounds: what the machine gives undisturbed."""

    name: str
    """Stable, with dots: compute.resnet50.bf16.channels_last."""
    title: str
    unit: str = ""
    """GB/s, TFLOP/s, images/s, or `error` (largest error as a part of the sum of the absolute products); empty: yes or no."""
    value: float | None = None
    """None: not measured, see `skipped` and `failed`."""
    low: float | None = None
    """The third quartile of the rounds' times as a rate (the slowest, of fewer than four rounds)."""
    high: float | None = None
    """The best round."""
    n: int = 0
    """Rounds."""
    ceiling: float | None = None
    """In the same unit: what this machine should give at most; of an `error`: what rounding allows."""
    ceiling_from: str = ""
    """Where the ceiling comes from."""
    skipped: str = ""
    """Why nothing was measured."""
    failed: str = ""
    """What went wrong when it was tried."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a reader must know: batch size, FLOPs, images a second, ..."""
    verdict: str = ""
    """One of VERDICTS; empty until judged."""
    why: str = ""
    """The reason for the verdict, in a sentence."""

    @property
    def share(self) -> float | None:
        """value / ceiling."""
        return None if self.value is None or not self.ceiling else self.value / self.ceiling


@dataclass(frozen=True, kw_only=True)
class Check:
    """One of the three checks: handshake, feeding, compute."""

    name: str
    title: str
    verdict: str
    sentence: str
    """The result as one would say it."""
    hint: str
    """What to do about it; empty when there is nothing to do."""
    readings: tuple[Reading, ...]


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that was verified."""

    kind: str
    """cpu or cuda."""
    index: int
    name: str
    memory_bytes: int | None
    capability: tuple[int, int] | None
    """Compute capability of a GPU."""
    cores: int
    """CPU cores that this process may use."""
    threads: int
    """Threads of one operation on the CPU."""
    model: str | None
    """The catalogue's name for it; None: not in the catalogue, or a part of a card (MIG)."""
    sheet: dict[str, float]
    """The maker's peaks from the catalogue: bandwidth (bytes/s), fp32, tf32, fp16, bf16 (FLOP/s), link (bytes/s). Empty on a CPU."""
    sheet_source: str
    """Where the catalogue has them from."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What else ran on the machine meanwhile."""

    load: float | None
    """Processes that ran or waited, mean of the last minute, when it began."""
    others_cores: float | None
    """Cores that other processes kept busy, mean over the verification."""
    stolen_cores: float | None
    """Cores that the hypervisor gave to other machines."""
    machine_cores: int | None
    busiest: tuple[str, ...]
    """Names of the processes that took most, when it began."""
    gpu_processes: tuple[str, ...]
    """Processes that used the GPU before the verification did."""
    gpu_busy: float | None
    """Share of time in which the GPU worked before the verification began, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All of it."""

    stoker: str
    """Stoker's version."""
    made: str
    """When, ISO 8601."""
    seconds: float
    """How long it took."""
    quick: bool
    host: str
    system: str
    device: Device
    versions: dict[str, str]
    """Name to version: python, torch, cuda, cudnn, nccl, driver, torchvision, ..."""
    neighbours: Neighbours
    notices: tuple[str, ...]
    """What a reader must know before believing the numbers."""
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of the checks."""
        return worst([check.verdict for check in self.checks])

    @property
    def exit_code(self) -> int:
        """0: nothing is low or wrong; 1: something is low; 2: something is wrong."""
        return {"wrong": 2, "low": 1}.get(self.verdict, 0)

    @property
    def readings(self) -> dict[str, Reading]:
        """Every reading by its name."""
        return {reading.name: reading for check in self.checks for reading in check.readings}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"format": FORMAT, "verdict": self.verdict, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, record: Any) -> Verification:
        """Return what `as_dict` gave. Raises ReportBroken for anything else."""
        if not isinstance(record, dict) or "checks" not in record:
            raise ReportBroken("this is no verification", hint=_HINT)
        if record.get("format") != FORMAT:
            raise ReportBroken(f"the verification has format {record.get('format')!r}; this Stoker reads format {FORMAT}", hint=_HINT)
        try:
            checks = tuple(_check(entry) for entry in _list(record["checks"]))
            return cls(
                **_fields(cls, record, skip=("device", "neighbours", "checks")),
                device=Device(**_fields(Device, record["device"])),
                neighbours=Neighbours(**_fields(Neighbours, record["neighbours"])),
                checks=checks,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ReportBroken(f"the verification is damaged: {str(error) or type(error).__name__}", hint=_HINT) from error


def worst(verdicts: list[str]) -> str:
    """Return the worst of some verdicts; of none: skipped. What is only noted counts as ok beside others."""
    return next((verdict for verdict in VERDICTS if verdict in verdicts), "skipped")


def read_verification(path: Path) -> Verification:
    """Read the JSON of an earlier verification. Raises ReportBroken when it is not there, is no such file, or is of another format."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ReportBroken(f"{path} is too large to be a verification", hint=_HINT)
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportBroken(f"{path} cannot be read ({error.strerror or error})", hint="give the path of a JSON that `stoker verify` wrote") from error
    except (ValueError, RecursionError) as error:
        raise ReportBroken(f"{path} is no JSON", hint=_HINT) from error
    try:
        return Verification.from_dict(record)
    except ReportBroken as error:
        raise ReportBroken(f"{path}: {error.message}", hint=error.hint) from error


def _check(record: Any) -> Check:
    readings = tuple(Reading(**_fields(Reading, entry)) for entry in _list(record["readings"]))
    return Check(**_fields(Check, record, skip=("readings",)), readings=readings)


def _fields(kind: type, record: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass out of a dictionary, each of the type that its annotation says. Raises KeyError, ValueError."""
    if not isinstance(record, dict):
        raise ValueError(f"{kind.__name__} is no object")
    return {entry.name: _typed(record[entry.name], str(entry.type), entry.name) for entry in dataclasses.fields(kind) if entry.name not in skip}


def _typed(value: Any, annotation: str, name: str) -> Any:
    if value is None and annotation.endswith("| None"):
        return None
    kind = annotation.removesuffix(" | None")
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if name == "verdict" and value not in ("", *VERDICTS):
        raise ValueError(f"there is no verdict {value!r:.60}")
    if kind in ("int", "bool", "str") and type(value).__name__ == kind:
        return value
    if kind == "tuple[int, int]" and isinstance(value, list | tuple) and len(value) == 2 and all(type(entry) is int for entry in value):
        return tuple(value)
    if kind == "tuple[str, ...]" and all(isinstance(entry, str) for entry in _list(value)):
        return tuple(value)
    if kind == "dict[str, Any]" and isinstance(value, dict):
        return value
    if kind in ("dict[str, str]", "dict[str, float]") and isinstance(value, dict):
        inner = kind.split(", ")[1].removesuffix("]")
        return {str(key): _typed(entry, inner, f"{name}.{key}") for key, entry in value.items()}
    raise ValueError(f"{name} is {value!r:.60}, not {annotation}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("a list is missing")
    return list(value)

"""What every benchmark shares: its arguments, its claims with their goals, and a record of the machine beside every number.

    python benchmarks/NAME.py [--quick] [--json FILE] [--data PATH]

A claim is one line, `claim NAME VALUE UNIT goal GOAL ok|short`; the exit status is 1 when one falls short.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from stoker.files import write_text_atomically
from stoker.measure import Ratio, Timing

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One number and its goal."""

    name: str
    value: float
    unit: str
    goal: float
    kept: bool

    def __str__(self) -> str:
        return f"claim {self.name} {_plain(self.value)} {self.unit} goal {_plain(self.goal)} {'ok' if self.kept else 'short'}"


@dataclass
class Benchmark:
    """One run of a benchmark script."""

    name: str
    quick: bool
    """Whether to spend seconds instead of minutes: the numbers are then rougher."""
    data: Path
    """Folder with real data sets; may not exist."""
    json_path: Path | None
    claims: list[Claim] = field(default_factory=list)
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a reader must know: the data, the batch size, what was left out."""

    def measured(self, name: str, timing: Timing, **more: Any) -> None:
        """Print and keep a measurement; `more`: numbers derived from it."""
        extra = "".join(f", {key} {_plain(value) if isinstance(value, float) else value}" for key, value in more.items())
        print(f"{name}: {timing}{extra}", flush=True)
        self.measurements[name] = {
            **{"n": timing.n, "median_s": timing.median_s, "low_s": timing.low_s, "high_s": timing.high_s, "cpu_s": timing.cpu_s},
            **{"samples_s": timing.samples_s, **more},
        }

    def compared(self, name: str, ratio: Ratio) -> None:
        """Print and keep a ratio of two measurements."""
        print(f"{name}: {ratio}", flush=True)
        self.measurements[name] = asdict(ratio)

    def fact(self, name: str, value: Any) -> None:
        """Print and keep something that is no measurement."""
        print(f"{name}: {value}", flush=True)
        self.facts[name] = value

    def claim(self, name: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Claim that `value` reaches its goal. Exactly one of `at_least`, `at_most`; `name` and `unit` are single words."""
        if (at_least is None) == (at_most is None) or " " in name + unit:
            raise ValueError(f"claim {name!r} needs one goal, and a name and a unit of one word")
        goal = at_least if at_least is not None else at_most
        assert goal is not None
        kept = value >= goal if at_least is not None else value <= goal
        self.claims.append(Claim(name=name, value=value, unit=unit, goal=goal, kept=kept))

    def finish(self) -> NoReturn:
        """Print the claims, write the JSON, and exit: 0 when every claim is kept, 1 when one is short."""
        for claim in self.claims:
            print(claim, flush=True)
        if self.json_path is not None:
            write_text_atomically(self.json_path, json.dumps(self.record(), indent=1) + "\n")
        raise SystemExit(0 if all(claim.kept for claim in self.claims) else 1)

    def record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "benchmark": self.name,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "quick": self.quick,
            "hardware": hardware(),
            "versions": versions(),
            "facts": self.facts,
            "claims": [asdict(claim) for claim in self.claims],
            "measurements": self.measurements,
        }


def benchmark(description: str | None) -> Benchmark:
    """Read the command line of the script that is running."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; rougher numbers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    data_help = "folder with real data sets (default: STOKER_DATA, else ../shared/data)"
    parser.add_argument("--data", type=Path, metavar="PATH", default=_data_folder(), help=data_help)
    arguments = parser.parse_args()
    return Benchmark(name=Path(sys.argv[0]).stem, quick=arguments.quick, data=arguments.data, json_path=arguments.json)


def hardware() -> dict[str, Any]:
    """Return what these numbers were taken on."""
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch is not None and torch.cuda.is_available() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu_model(), "cores": cores, "architecture": platform.machine(), "system": platform.platform(), "gpus": gpus}


def versions() -> dict[str, str]:
    """Return the versions that matter to a number; a package that is not installed is absent."""
    found = {"python": platform.python_version()}
    for package in ("stoker", "torch", "torchvision", "numpy", "pillow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _data_folder() -> Path:
    return Path(os.environ.get("STOKER_DATA") or REPOSITORY.parent / "shared" / "data")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"

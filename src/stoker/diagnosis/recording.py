"""What an observed process wrote about itself: read as far as it goes, since the process may have been killed in the middle of a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stoker.runs.fields import number, part

_HEAD_BYTES, _TAIL_BYTES = 2**16, 2**12


class Segment(NamedTuple):
    """A stretch of the training thread's time within one phase."""

    phase: str
    start_s: float
    """On the process's own clock; `Recording.clock_s` more is seconds since 1970."""
    duration_s: float
    gpu_s: float | None
    """What passed on the GPU between the events at its two ends; None: not known."""
    site: int | None
    """Which line of code, as a key of `Recording.sites`; for the phase `step`, which optimizer."""
    cpu_s: float | None
    """CPU time of the thread within it; None: not measured."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One process."""

    start: dict[str, Any]
    """pid, parent, rank, argv, versions."""
    facts: dict[str, Any]
    """Optimizer, model, loaders, settings."""
    sites: dict[int, dict[str, Any]]
    segments: tuple[Segment, ...]
    memory: tuple[dict[str, Any], ...]
    window_s: float | None
    """When the warm-up was over; None: it was not."""
    end: dict[str, Any] | None
    """How the observation ended; None: the process was killed, or runs still."""

    @property
    def trained(self) -> bool:
        """Whether any step was seen."""
        return any(segment.phase == "step" for segment in self.segments)

    @property
    def clock_s(self) -> float:
        """Add this to the segments' times for seconds since 1970."""
        return number(self.start.get("clock_s")) or 0.0


def read_recordings(folder: Path) -> tuple[Recording, ...]:
    """Return the recordings in a folder, by rank and process number. A file that cannot be read is left out."""
    found = [recording for path in sorted(folder.glob("process-*.jsonl")) if (recording := read_recording(path)) is not None]
    return tuple(sorted(found, key=lambda recording: (whole(recording.start.get("rank")), whole(recording.start.get("pid")))))


def read_recording(path: Path) -> Recording | None:
    """Return what a process wrote; lines that are no JSON objects, or not as they should be, are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    entries = [entry for line in lines if (entry := parsed(line)) is not None]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_kind.setdefault(str(entry.get("kind")), []).append(entry)
    if "start" not in by_kind:
        return None
    facts = {key: value for entry in by_kind.get("facts", []) for key, value in entry.items() if key != "kind"}
    sites = {int(at): entry for entry in by_kind.get("site", []) if (at := number(entry.get("number"))) is not None}
    rows = (row for entry in by_kind.get("segments", []) if isinstance(entry.get("v"), list) for row in entry["v"])
    windows = [value for entry in by_kind.get("window", []) if (value := number(entry.get("at_us"))) is not None]
    return Recording(
        start=by_kind["start"][0],
        facts=facts,
        sites=sites,
        segments=tuple(segment for row in rows if (segment := _segment(row)) is not None),
        memory=tuple(by_kind.get("memory", [])),
        window_s=1e-6 * windows[0] if windows else None,
        end=by_kind["end"][-1] if "end" in by_kind else None,
    )


def progress(folder: Path) -> tuple[int, int]:
    """Return how many processes of a folder train, and how many of these have ended their observation. Reads little of each file."""
    training = ended = 0
    for head, tail in both_ends(folder, tail_bytes=_TAIL_BYTES):
        training += b'{"optimizer":' in head
        ended += b'{"optimizer":' in head and b'"kind": "end"' in tail
    return training, ended


def both_ends(folder: Path, *, tail_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the beginning and the last `tail_bytes` of what each process wrote; one that cannot be read is left out."""
    for path in folder.glob("process-*.jsonl"):
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD_BYTES)
                file.seek(max(0, path.stat().st_size - tail_bytes))
                tail = file.read()
        except OSError:
            continue
        yield head, tail


def loaders(recording: Recording) -> list[dict[str, Any]]:
    """Return what is known about the data loaders that were iterated over."""
    value = recording.facts.get("loaders")
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def optimizer(recording: Recording) -> dict[str, Any]:
    """Return what is known about the first optimizer."""
    return part(recording.facts, "optimizer")


def parsed(line: str) -> dict[str, Any] | None:
    """Return a line's JSON object; None when it is none, or was cut."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _segment(row: Any) -> Segment | None:
    if not isinstance(row, list) or len(row) not in (3, 6) or not isinstance(row[0], str):
        return None
    start, duration, gpu, site, cpu = (number(value) for value in (*row[1:], None, None, None)[:5])
    if start is None or duration is None or duration < 0:
        return None
    seconds = None if gpu is None else max(0.0, 1e-6 * gpu)
    return Segment(row[0], 1e-6 * start, 1e-6 * duration, seconds, None if site is None else int(site), None if cpu is None else 1e-6 * cpu)


def whole(value: Any) -> int:
    """Return a number written in digits; -1 for anything else."""
    text = str(value)
    return int(text) if text.isdecimal() else -1

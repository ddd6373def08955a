"""What recorded processes wrote about their training (`stoker.boost.recording`), read as far as it goes: a process may have been killed."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stoker.diagnosis.recording import both_ends, parsed, whole
from stoker.runs.fields import listed, number

_TAIL_BYTES = 2**18


class StepRow(NamedTuple):
    """The state of a process when an optimizer had done a step; times are the process's own clock."""

    at_us: float
    cpu_us: float
    """CPU time of this process, all its threads."""
    data_us: float
    """Waited for batches since the beginning."""
    batches: int
    losses: int
    """Backwards begun so far."""
    optimizer: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of training."""

    seconds: float
    steps: int
    data_s: float
    """Waited for batches by the thread that trains."""
    work_s: float | None
    """CPU seconds of the process and its children; None: not known."""

    @property
    def step_s(self) -> float:
        """Mean wall seconds a step, with all that lies between steps."""
        return self.seconds / max(1, self.steps)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One process."""

    start: dict[str, Any]
    losses: tuple[str, ...]
    """Hexadecimal floats, or `sha256:...` of values that are more than one number."""
    steps: tuple[StepRow, ...]
    first: dict[str, Any]
    """When the first batch was asked for or the first step done, and the CPU seconds before it."""
    begin: dict[str, Any]
    """The end of the warm-up; empty: it was not over."""
    end: dict[str, Any]
    """Empty: the process was killed."""

    @property
    def window(self) -> Span | None:
        """From the end of the warm-up to the end; None with fewer than two steps in it."""
        since = number(self.begin.get("at_s"))
        rows = [row for row in self.steps if since is None or row.at_us >= 1e6 * since - 1]
        if len(rows) < 3:
            return None
        until = number(self.end.get("at_s"))
        begin_s = 1e-6 * rows[0].at_us if since is None else since
        end_s = 1e-6 * rows[-1].at_us if until is None else until
        data_s = number(self.end.get("data_s")) if until is not None else None
        return Span(
            seconds=end_s - begin_s,
            steps=len(rows) - 1,
            data_s=(1e-6 * rows[-1].data_us if data_s is None else data_s) - 1e-6 * rows[0].data_us,
            work_s=_between(self.begin, self.end),
        )

    @property
    def whole(self) -> Span | None:
        """From the first batch or step to the end, evaluation, checks and warm-up included; None when neither was seen or the process was killed."""
        begin_s, end_s = number(self.first.get("at_s")), number(self.end.get("at_s"))
        if begin_s is None or end_s is None:
            return None
        data_s = number(self.end.get("data_s")) or 0.0
        return Span(seconds=end_s - begin_s, steps=len(self.steps), data_s=data_s, work_s=_between(self.first, self.end))

    @property
    def median_step_s(self) -> float | None:
        """Median time between two steps after the warm-up."""
        since = number(self.begin.get("at_s")) or 0.0
        times = [1e-6 * row.at_us for row in self.steps if row.at_us >= 1e6 * since - 1]
        return statistics.median(b - a for a, b in itertools.pairwise(times)) if len(times) > 2 else None

    @property
    def weights(self) -> str | None:
        """Hash of the weights at the end."""
        value = self.end.get("weights")
        return value if isinstance(value, str) else None

    @property
    def batches(self) -> int:
        """How many batches were fetched from data loaders."""
        return int(number(self.end.get("batches")) or (self.steps[-1].batches if self.steps else 0))

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What boost noted: see `stoker.boost.notes.Note`."""
        return [note for note in listed(self.end, "notes") if isinstance(note, dict)]


def read_records(folder: Path) -> tuple[Record, ...]:
    """Return the processes that fetched a batch, began a backward or did a step: by rank, then in the order in which they began."""
    found = [record for path in folder.glob("process-*.jsonl") if (record := read_record(path)) is not None]
    trained = [record for record in found if record.first or record.losses]
    return tuple(sorted(trained, key=lambda record: (whole(record.start.get("rank")), number(record.first.get("at_s")) or 0.0)))


def read_record(path: Path) -> Record | None:
    """Return what a process wrote; None for a file that cannot be read. Broken lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    entries = [entry for line in lines if (entry := parsed(line)) is not None]

    def of(kind: str) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry.get("kind") == kind]

    return Record(
        start=next(iter(of("start")), {}),
        losses=tuple(str(value) for entry in of("losses") for value in listed(entry, "v")),
        steps=tuple(StepRow(*row) for entry in of("steps") for row in listed(entry, "v") if _is_row(row)),
        first=next(iter(of("first")), {}),
        begin=next(iter(of("begin")), {}),
        end=next(reversed(of("end")), {}),
    )


def all_at_limit(folder: Path) -> bool:
    """Whether every process that trains has done the steps that were asked for. Reads little of each file.

    Where all of them are leaving by themselves there is nothing to stop, and how they end is still to be seen.
    """
    training, ended, leaving, expected = 0, 0, 0, 1
    for head, tail in both_ends(folder, tail_bytes=_TAIL_BYTES):
        if b'"kind": "steps"' not in head:
            continue
        training += 1
        ended += b'"kind": "end"' in tail
        leaving += b'"kind": "end", "why": "exit"' in tail
        start = parsed(head.split(b"\n", 1)[0].decode(errors="replace")) or {}
        expected = max(expected, whole(start.get("local_world_size")))
    return 0 < training <= ended and ended >= expected and leaving < ended


def _between(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    begin_s, end_s = number(one.get("work_s")), number(other.get("work_s"))
    return None if begin_s is None or end_s is None else end_s - begin_s


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == len(StepRow._fields) and all(number(value) is not None for value in row)

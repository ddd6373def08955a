"""The processes of a training from outside: CPU, disk waits, reads, faults and threads out of /proc, without touching them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from stoker.diagnosis.observation import ProcessUse
from stoker.host.place import read

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_SAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The counters of one process at one moment."""

    state: str
    cpu_s: float
    faults: int
    threads: int
    rss_bytes: int
    read_bytes: int | None
    switches: int | None


@dataclass(kw_only=True)
class Watch:
    """Samples a process and its descendants."""

    pid: int
    """The process at the top."""
    samples: deque[tuple[float, dict[int, Reading]]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    names: dict[int, str] = field(default_factory=dict)
    thread_cpu: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)
    """By process and thread: CPU seconds at the first and at the latest look."""
    workers: set[int] = field(default_factory=set)
    """Processes that were seen to be a loader's workers; they may be gone when it is asked."""

    def look(self) -> None:
        """Take a sample. Raises nothing."""
        now, members = time.time(), family(self.pid)
        for pid in members:
            self._name(pid)
            self._threads(pid)
        readings = {pid: reading for pid in members if (reading := reading_of(pid)) is not None}
        if readings:
            self.samples.append((now, readings))

    def uses(self, training: Sequence[int], since_s: float = 0.0, until_s: float = float("inf")) -> tuple[ProcessUse, ...]:
        """Return what each process did between two moments (seconds since 1970), the training ones first."""
        chosen = [(at, readings) for at, readings in self.samples if since_s <= at <= until_s]
        if len(chosen) < 2:
            chosen = list(self.samples)
        found = [use for pid in {pid for _, readings in chosen for pid in readings} if (use := self._use(pid, chosen, training)) is not None]
        order = {"training": 0, "worker": 1, "other": 2}
        return tuple(sorted(found, key=lambda use: (order[use.role], use.pid)))

    def _use(self, pid: int, chosen: list[tuple[float, dict[int, Reading]]], training: Sequence[int]) -> ProcessUse | None:
        seen = [(at, readings[pid]) for at, readings in chosen if pid in readings]
        if len(seen) < 2 or seen[-1][0] - seen[0][0] < 0.2:
            return None
        (begin, first), (end, last) = seen[0], seen[-1]
        span = end - begin
        threads = self.thread_cpu.get(pid, {})
        busy = sum(latest - earliest > 0.1 * span for earliest, latest in threads.values())
        return ProcessUse(
            pid=pid,
            role="training" if pid in training else "worker" if pid in self.workers else "other",
            name=self.names.get(pid, "?"),
            cores=max(0.0, last.cpu_s - first.cpu_s) / span,
            disk=sum(reading.state == "D" for _, reading in seen) / len(seen),
            read_bytes_s=_rate(first.read_bytes, last.read_bytes, span),
            faults_s=_rate(first.faults, last.faults, span),
            switches_s=_rate(first.switches, last.switches, span),
            rss_bytes=max(reading.rss_bytes for _, reading in seen),
            threads=last.threads,
            busy_threads=busy if threads else None,
        )

    def _name(self, pid: int) -> None:
        comm = read(Path(f"/proc/{pid}/comm")) or "?"
        if pid not in self.names:
            command = (read(Path(f"/proc/{pid}/cmdline")) or "").replace("\0", " ").strip()
            self.names[pid] = command or comm
            if pid != self.pid and is_worker(pid, comm):
                self.workers.add(pid)
        elif comm.startswith("pt_data"):  # a worker gives itself this name a moment after its birth
            self.workers.add(pid)

    def _threads(self, pid: int) -> None:
        known = self.thread_cpu.setdefault(pid, {})
        try:
            tasks = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            return
        for task in tasks:
            fields = _stat(Path(f"/proc/{pid}/task/{task}/stat"))
            if fields:
                cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
                known[task] = (known.get(task, (cpu_s, cpu_s))[0], cpu_s)


def family(pid: int) -> tuple[int, ...]:
    """Return a process and its descendants, or nothing when it is gone."""
    found, at = [pid], 0
    while at < len(found):
        children = _children(found[at])
        if children is None:  # a kernel without these files: psutil reads all of /proc instead
            return _family_by_psutil(pid)
        found += [child for child in children if child not in found]
        at += 1
    return tuple(found) if Path(f"/proc/{pid}").exists() else ()


def _children(pid: int) -> list[int] | None:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    texts = [read(Path(f"/proc/{pid}/task/{task}/children")) for task in tasks]
    if texts and all(text is None for text in texts) and Path(f"/proc/{pid}/task").exists():
        return None
    return [int(word) for text in texts if text for word in text.split() if word.isdecimal()]


def _family_by_psutil(pid: int) -> tuple[int, ...]:
    try:
        return (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
    except psutil.Error:
        return ()


def is_worker(pid: int, name: str) -> bool:
    """Whether a process is a data loader's worker: torch names it so, or multiprocessing made it (its resource tracker is none)."""
    if name.startswith("pt_data"):
        return True
    try:
        command, parent = psutil.Process(pid).cmdline(), psutil.Process(pid).parent()
        forked = parent is not None and parent.cmdline() == command and "torchrun" not in " ".join(command)
    except psutil.Error:
        return False
    text = " ".join(command)
    return forked or ("multiprocessing.spawn" in text and "spawn_main" in text)


def reading_of(pid: int) -> Reading | None:
    """Return the counters of a process; None when it is gone or a zombie. Source of the fields: proc(5)."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    if fields is None or fields[0] == "Z":
        return None
    return Reading(
        state=fields[0],
        cpu_s=(int(fields[11]) + int(fields[12])) * _TICK_S,
        faults=int(fields[7]) + int(fields[9]),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * _PAGE,
        read_bytes=_named(Path(f"/proc/{pid}/io"), "read_bytes"),
        switches=_named(Path(f"/proc/{pid}/status"), "nonvoluntary_ctxt_switches"),
    )


def _stat(path: Path) -> list[str] | None:
    """Return the fields of a stat file from the third (state) on: the second, the name in brackets, may hold spaces."""
    fields = (read(path) or "").rpartition(")")[2].split()
    return fields if len(fields) > 21 else None


def _named(path: Path, name: str) -> int | None:
    for line in (read(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key == name and value.strip().isdecimal():
            return int(value)
    return None


def _rate(first: int | None, last: int | None, span: float) -> float | None:
    return None if first is None or last is None else max(0, last - first) / span

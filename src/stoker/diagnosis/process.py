"""Looks at a process that runs already, from outside: its stacks through py-spy when that is there, its counters in any case."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil

from stoker.diagnosis.gpus import GpuWatch
from stoker.diagnosis.observation import Observation, Split
from stoker.diagnosis.processes import Watch, family
from stoker.diagnosis.stacks import sample
from stoker.errors import ProcessMissing
from stoker.host import find_limits

_MOST_SPIED = 8


def observe_process(pid: int, *, seconds: float, boost: bool) -> Observation:
    """Look at a process and its descendants for so many seconds. Raises ProcessMissing when it is not there or another user's."""
    command = _command(pid)
    gpus, processes = GpuWatch(), Watch(pid=pid)
    gpus.open()
    begin = due = time.monotonic()
    with ThreadPoolExecutor(_MOST_SPIED) as pool:
        spied = [pool.submit(sample, one, seconds, gpu=gpus.there) for one in _pythons(pid)]
        while time.monotonic() - begin < seconds:
            gpus.look()
            if time.monotonic() >= due:
                due += 0.25
                processes.look()
            if not processes.samples or not psutil.pid_exists(pid):
                break
            time.sleep(0.05 if gpus.there else 0.25)
        processes.look()
        splits, blind = _answers(pid, spied)
    lasted_s = time.monotonic() - begin
    observation = Observation(
        command=command,
        mode="process",
        cores=find_limits().cores,
        seconds=lasted_s,
        splits=splits,
        processes=processes.uses([split.pid for split in splits] or [pid]),
        gpus=gpus.uses([]),
        blind=blind,
        ended=None if psutil.pid_exists(pid) else "it ended while it was looked at",
        boost=boost,
    )
    gpus.close()
    if not observation.processes and not observation.splits and observation.ended:
        raise ProcessMissing(f"process {pid} ended before anything could be seen of it", hint="choose one that runs: ps -eo pid,args | grep python")
    return observation


def _command(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        owner, command = process.uids().real, " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess as error:
        raise ProcessMissing(f"there is no process {pid}", hint="ps -eo pid,args | grep python shows those that run") from error
    except psutil.AccessDenied as error:
        raise ProcessMissing(f"process {pid} may not be looked at", hint="run the same command as its owner, or as root") from error
    if os.geteuid() not in (0, owner):
        raise ProcessMissing(f"process {pid} belongs to another user", hint="run the same command as its owner, or as root")
    return command


def _pythons(pid: int) -> list[int]:
    """Return the Python processes of a family but those that torch named its loader's workers; the one that was asked for in any case.

    Other processes that multiprocessing made may be ranks or workers: their stacks will tell.
    """
    found = [pid]
    for one in family(pid)[1:]:
        try:
            process = psutil.Process(one)
            name, comm = os.path.basename(process.exe()), process.name()
        except (psutil.Error, OSError):
            continue
        if "python" in name and not comm.startswith("pt_data"):
            found.append(one)
    return found[:_MOST_SPIED]


def _answers(pid: int, spied: list[Future[tuple[Split | None, str | None]]]) -> tuple[tuple[Split, ...], tuple[str, ...]]:
    """Return the splits of those that train (when none does, of the process that was asked for), and why the others could not be seen."""
    answers = [future.result() for future in spied]
    splits = [split for split, _ in answers if split is not None]
    train = [split for split in splits if split.shares["backward"] + split.shares["optimizer"] + split.shares["forward"] > 0.01]
    chosen = train or [split for split in splits if split.pid == pid]
    reasons = dict.fromkeys(reason for _, reason in answers if reason is not None) if not chosen else {}
    return tuple(chosen), tuple(reasons)

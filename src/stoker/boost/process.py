"""Which process of a training this is: who says something at the exit, and whose report has which name."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import parent_process
from pathlib import Path

FIRST_PID = "STOKER_BOOST_PID"
"""Set by `stoker boost`: the process that became the program, when that is a Python; 0 when it is something else (a shell, say)."""

_started_s = time.time()


def is_worker() -> bool:
    """Whether this process serves another one (a worker of a DataLoader, of a pool): it says nothing."""
    if multiprocessing.current_process().daemon:
        return True
    worker = sys.modules.get("torch.utils.data._utils.worker")
    return getattr(worker, "_worker_info", None) is not None


def rank() -> int | None:
    """Return this process's rank in a distributed training; None when there is none, or it cannot be known any more."""
    told = os.environ.get("RANK", "")
    if told.isdecimal():
        return int(told)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return None


def speaks() -> bool:
    """Whether this process says its line at the exit."""
    return not is_worker() and rank() in (None, 0)


def name() -> str:
    """Return `SpawnProcess-1` in a child of multiprocessing, an empty text elsewhere and where ranks tell them apart."""
    return multiprocessing.current_process().name if parent_process() is not None and rank() is None else ""


def script() -> str:
    """Return `torchrun`, `train.py`: what this process was started as, told where it is a launcher and its children do the work."""
    name = Path((getattr(sys, "argv", None) or [""])[0]).name
    return "" if name.startswith("-") else name


def is_first() -> bool:
    """Whether this is the very program that `stoker boost` was given."""
    return os.environ.get(FIRST_PID) == str(os.getpid())


def report_path(path: Path, noted: bool) -> Path | None:
    """Return where this process writes the report that is asked for as `path`; None when it writes none. `noted`: it has something to tell."""
    number = rank()
    if is_worker() or (not noted and not is_first()):
        return None
    if number is not None:
        own = path if number == 0 else _marked(path, f"rank{number}")
        return own if parent_process() is None or _is_main_of_rank() else _marked(own, f"pid{os.getpid()}")
    first = os.environ.get(FIRST_PID, "0")
    if parent_process() is not None or (first != "0" and not is_first()):
        return _marked(path, f"pid{os.getpid()}")
    if not noted and path.exists() and path.stat().st_mtime >= _started_s - 1:
        return None  # torchrun itself, say: rank 0 has written it
    return path


def _is_main_of_rank() -> bool:
    """Whether a child of multiprocessing is a rank itself (mp.spawn) and not a child of one: it then has joined the group."""
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed is not None and distributed.is_available() and distributed.is_initialized())


def _marked(path: Path, mark: str) -> Path:
    return path.with_name(f"{path.stem}.{mark}{path.suffix}")

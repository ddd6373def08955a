"""All facts gathered at once, each section in a thread of its own with a time limit: a dead network disk must not hang the doctor."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.doctor.facts import Facts
from stoker.doctor.facts.cluster import gather_cluster
from stoker.doctor.facts.containers import gather_containers
from stoker.doctor.facts.driver import gather_driver
from stoker.doctor.facts.gpus import gather_gpus
from stoker.doctor.facts.memory import gather_memory
from stoker.doctor.facts.processor import gather_processor
from stoker.doctor.facts.python import gather_python
from stoker.doctor.facts.services import gather_services
from stoker.doctor.facts.storage import gather_storage
from stoker.doctor.facts.system import gather_system
from stoker.doctor.facts.variables import gather_variables

# Longer than the longest time limit inside a section (importing torch in a child process: 20 s).
_LIMIT_S = 25.0


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the doctor is to look at, beyond the machine itself."""

    python: str | None = None
    """The Python to examine: a program, a name on PATH or the folder of an environment; None: the one that is in use."""
    data: Path | None = None
    """The data set that will be trained on: its disk is measured, its size compared with memory."""
    nodes: tuple[str, ...] = ()
    """Other machines, as ssh knows them, whose clocks are compared."""


def gather(scope: Scope | None = None, *, limit_s: float = _LIMIT_S) -> Facts:
    """Gather everything. Raises nothing; a section that failed or did not end in time is named in `Facts.unread`."""
    scope = scope or Scope()
    sections: dict[str, Callable[[], Any]] = {
        "system": gather_system,
        "processor": gather_processor,
        "memory": gather_memory,
        "storage": lambda: gather_storage(scope.data),
        "driver": gather_driver,
        "gpus": gather_gpus,
        "containers": gather_containers,
        "python": lambda: gather_python(scope.python),
        "cluster": lambda: gather_cluster(scope.nodes),
        "services": gather_services,
        "variables": lambda: gather_variables(os.environ),
    }
    found, unread = _all_at_once(sections, limit_s)
    return Facts(gathered=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), unread=unread, **found)


def _all_at_once(sections: dict[str, Callable[[], Any]], limit_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def one(name: str, gather_one: Callable[[], Any]) -> None:
        try:
            found[name] = gather_one()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:500]

    # Daemons: a thread that hangs in the kernel must not keep the program from ending.
    threads = {name: threading.Thread(target=one, args=(name, work), daemon=True) for name, work in sections.items()}
    for thread in threads.values():
        thread.start()
    end = time.monotonic() + limit_s
    for name, thread in threads.items():
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            failed[name] = f"no answer within {limit_s:g} s"
    # A copy: a late thread may still write into `found`.
    return {name: value for name, value in found.copy().items() if name not in failed}, failed

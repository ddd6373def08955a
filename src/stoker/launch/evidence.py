"""What can still be read of how a container ended: from its engine, its control group, the kernel's log, and its own."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from stoker import shell
from stoker.host.kernel_log import kernel_text
from stoker.host.place import filesystem_root, read
from stoker.launch.atonce import at_once
from stoker.launch.containers import Container
from stoker.launch.ending import REFUSED, Ending
from stoker.launch.engine import ANSWER_S, Engine, rows_of
from stoker.launch.monitor import killed_for_memory
from stoker.launch.stops import stopped_by

_TAIL_LINES = 200
_TAIL_BYTES = 64 * 1024
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
# As systemd's log says it of a unit.
_OOM_KILLER = "killed by the OOM killer"
# Between the clock of the engine and that of the kernel.
_CLOCKS_S = 2.0


def gather(engine: Engine, container: Container) -> Ending:
    """Ask the engine for the state and the log of a container, and read the kernel's. Raises nothing; what is gone is left out."""
    inspected, log = at_once([lambda: _inspected(engine, container.id), lambda: log_tail(engine, container.id)])
    assert isinstance(inspected, dict)
    state, host = (inspected.get(part) or {} for part in ("State", "HostConfig"))
    # Between two tries of one that is started again and again, its last end counts.
    running = bool(state.get("Running")) and not state.get("Restarting")
    code = container.exit_code if not state else None if running or _never_ran(state) else int(state.get("ExitCode") or 0)
    counted = killed_for_memory(container.container, container.started) or (running and _killed_in_group(filesystem_root(), state))
    told = bool(state.get("OOMKilled")) or counted
    return Ending(
        code=code,
        oom_killed=told or (code == 128 + signal.SIGKILL and _killed_in_scope(engine, container)),
        memory_bytes=int(host.get("Memory") or 0) or None,
        shm_bytes=int(host.get("ShmSize") or 0) or None,
        pids=pids if (pids := int(host.get("PidsLimit") or 0)) > 0 else None,
        refused=running and _refused_in_group(filesystem_root(), state, container.id),
        read_only=bool(host.get("ReadonlyRootfs")),
        log_tail=str(log),
        kernel=() if code == 0 or (running and not counted) else kernel_lines(container),
        stopped_by=None if running else stopped_by(container.id, container.started) or (_killed_by(engine, container) if code in _STOPPED else None),
        told=str(state.get("Error") or ""),
        ours=container.ours,
    )


def log_tail(engine: Engine, container_id: str) -> str:
    """Return the last lines of a log, at most 64 kB."""
    done = shell.run([engine.program, "logs", "--tail", str(_TAIL_LINES), container_id], timeout_s=ANSWER_S)
    return f"{done.out[-_TAIL_BYTES:]}\n{done.err[-_TAIL_BYTES:]}" if done.ok else ""


def kernel_lines(container: Container) -> tuple[str, ...]:
    """Return the lines of the kernel's log about what it killed and refused in this container, and about GPUs while it ran."""
    text, _ = kernel_text(filesystem_root())
    lines = (text or "").splitlines()
    # The id stands in other fields too, when somebody else was killed while it asked for memory.
    own = rf"(?:oom-kill:.*task_memcg=[^,]*|{REFUSED} in .*){re.escape(container.id)}"
    about = [line for line in lines if container.id and re.search(own, line)]
    gpus = [line for line in lines if container.gpus != "none" and re.search("NVRM: Xid|fallen off the bus", line)]
    return tuple(line for found in (about, gpus) for line in [one for one in found if _during(one, container)][-5:])


def _inspected(engine: Engine, container_id: str) -> dict[str, Any]:
    done = shell.run([engine.program, "inspect", "--type", "container", container_id], timeout_s=ANSWER_S)
    return next(iter(rows_of(done.out)), {})


def _never_ran(state: dict[str, Any]) -> bool:
    return str(state.get("Status")) in ("created", "configured", "initialized") and not state.get("ExitCode")


def _during(line: str, container: Container) -> bool:
    """Whether a line of the kernel was written while the container ran. A line without a time counts."""
    found = re.match(r"\[ *(\d+\.\d+)\]", line)
    if not found or container.started is None:
        return True
    moment = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + float(found[1])
    return container.started - _CLOCKS_S <= moment <= (container.ended or time.time()) + _CLOCKS_S


def _killed_in_group(root: Path, state: dict[str, Any]) -> bool:
    """Whether the kernel killed something in the control group of a container that runs."""
    for path in _group_files(root, int(state.get("Pid") or 0)):
        if found := re.search(r"^oom_kill (\d+)$", read(path) or "", re.MULTILINE):
            return int(found[1]) > 0
    return False


def _refused_in_group(root: Path, state: dict[str, Any], container_id: str) -> bool:
    """Whether the kernel refused a process in the control group of a container that runs."""
    own = _groups(root, int(state.get("Pid") or 0), "pids")
    # Since Linux 6.11 the group with the limit counts, which may be the one around the group of the process.
    around = [group.parent for group in own if container_id in group.parent.name]
    return any(re.search(r"^max [1-9]", read(group / "pids.events") or "", re.MULTILINE) for group in (*own, *around))


def _killed_in_scope(engine: Engine, container: Container) -> bool:
    """Whether systemd says so, which has a scope for each of podman's containers and lets its person read about it.

    Where all of a group is killed at once, the group is gone before podman's monitor has looked at it (seen with 4.3 on cgroup v2).
    """
    if engine.name != "podman" or container.started is None or not (filesystem_root() / "run/systemd/system").is_dir():
        return False
    own = ["--user"] if os.geteuid() != 0 else []
    words = ["journalctl", *own, "--unit", f"libpod-{container.id}.scope", "--since", f"@{int(container.started)}"]
    return _OOM_KILLER in shell.run([*words, "--output", "cat", "--no-pager", "--quiet"], timeout_s=ANSWER_S).out


def _group_files(root: Path, pid: int) -> list[Path]:
    """Return where the kernel counts what it killed in the group of a process: version 2, and version 1."""
    return [group / name for group in _groups(root, pid, "memory") for name in ("memory.events", "memory.oom_control")]


def _groups(root: Path, pid: int, controller: str) -> list[Path]:
    """Return the control groups of a process that may know of a controller: version 2, and version 1."""
    groups = dict(re.findall(r"^\d+:([^:]*):(.*)$", read(root / f"proc/{pid}/cgroup") or "", re.MULTILINE)) if pid else {}
    places = {"": "sys/fs/cgroup", controller: f"sys/fs/cgroup/{controller}"}
    return [root / f"{place}{groups[name]}" for name, place in places.items() if name in groups]


def _killed_by(engine: Engine, container: Container) -> str | None:
    """Return the engine's command that sent it a signal, where the engine remembers."""
    if container.started is None:
        return None
    # Each in its way, both would wait for more to come.
    only = ["--stream=false", "--format", "json"] if engine.name == "podman" else ["--until", "0s", "--format", "{{json .}}"]
    words = ["events", "--since", str(int(container.started)), *only, "--filter", f"container={container.id}", "--filter", "event=kill"]
    done = shell.run([engine.program, *words], timeout_s=20.0)
    return f"`{engine.name} stop`, `{engine.name} kill`, or a signal to its foreground run" if done.ok and '"kill"' in done.out else None

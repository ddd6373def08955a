"""Other processes of this machine: Jupyter servers, open doors, and who keeps the cores busy."""

from __future__ import annotations

import itertools
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from stoker.doctor.facts.jupyter import Jupyter, find_servers, is_server
from stoker.doctor.facts.processes import Process, find_processes, home_of, ticks_of
from stoker.doctor.facts.ssh import root_by_password
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Busy:
    """A process that kept cores busy while the doctor looked."""

    pid: int
    name: str
    uid: int | None = None
    cores: float = 0.0
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What else runs here."""

    processes: int | None = None
    """How many processes can be seen."""
    jupyter: tuple[Jupyter, ...] = ()
    busy: tuple[Busy, ...] = ()
    """The busiest first, without the doctor's own; looked for only where the load is above the number of cores."""
    docker_socket: str | None = None
    """The path of Docker's or Podman's socket, when there is one here."""
    docker_socket_writable: bool | None = None
    docker_ports: tuple[str, ...] = ()
    """Addresses on which a Docker daemon listens without TLS, as tcp://0.0.0.0:2375."""
    ssh_root: tuple[str, ...] = ()
    """Lines of a running sshd's configuration that let root in by password; empty: it does not, or there is no sshd."""


_SCAN_S = 0.3
_WATCH_S = 0.25
_MOST_BUSY = 5
_SOCKETS = ("var/run/docker.sock", "run/docker.sock", "run/podman/podman.sock")


def gather_services(root: Path | None = None) -> Services:
    """Look through /proc. Raises nothing; 0.3 s at most with thousands of processes, and as much again where the cores are overloaded."""
    root = root or filesystem_root()
    processes = find_processes(root, limit_s=_SCAN_S)
    socket = next((name for name in _SOCKETS if _is_socket(root / name)), None)
    return Services(
        processes=len(processes) or None,
        jupyter=_jupyter(root, processes),
        busy=_busy(root, processes),
        docker_socket=f"/{socket}" if socket else None,
        docker_socket_writable=os.access(root / socket, os.W_OK) if socket else None,
        docker_ports=_docker_ports(root, processes),
        ssh_root=_ssh_root(root, processes),
    )


def _jupyter(root: Path, processes: list[Process]) -> tuple[Jupyter, ...]:
    servers = [process for process in processes if is_server(process.arguments)]
    uids = dict.fromkeys([os.getuid(), *(process.uid for process in servers)])
    homes = [os.environ.get("HOME"), *(home_of(uid) for uid in uids)]
    return find_servers(root, servers, [root / home.lstrip("/") for home in dict.fromkeys(homes) if home])


def _busy(root: Path, processes: list[Process]) -> tuple[Busy, ...]:
    """Watch the processes for a quarter of a second where more wants to run than there are cores."""
    if not _overloaded(root):
        return ()
    begun = time.monotonic()
    time.sleep(_WATCH_S)
    after = ticks_of(root, processes, limit_s=_SCAN_S)
    seconds = (time.monotonic() - begun) * os.sysconf("SC_CLK_TCK")
    ours = {os.getpid(), os.getppid()}
    parents = ours - {0, 1}  # whatever has no parent any more is a child of 1
    used = [
        Busy(pid=process.pid, name=process.name, uid=process.uid, cores=round((after[process.pid] - process.ticks) / seconds, 2))
        for process in processes
        if process.pid in after and process.pid not in ours and process.parent not in parents
    ]
    return tuple(sorted((one for one in used if one.cores >= 0.2), key=lambda one: -one.cores)[:_MOST_BUSY])


def _overloaded(root: Path) -> bool:
    try:
        return float((read(root / "proc/loadavg") or "").split()[0]) > (os.cpu_count() or 1)
    except (ValueError, IndexError):
        return False


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _docker_ports(root: Path, processes: list[Process]) -> tuple[str, ...]:
    """Return the TCP addresses of a Docker daemon that does not ask for certificates."""
    daemons = [process.arguments for process in processes if process.name == "dockerd"]
    if not daemons:
        return ()
    configured = _json(root / "etc/docker/daemon.json")
    if configured.get("tlsverify") is True or any(argument in ("--tlsverify", "--tlsverify=true") for line in daemons for argument in line):
        return ()
    hosts = configured.get("hosts")
    addresses = [argument.rpartition("=")[2] for line in daemons for argument in line] + (hosts if isinstance(hosts, list) else [])
    return tuple(dict.fromkeys(address for address in addresses if isinstance(address, str) and address.startswith("tcp://")))


def _json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _ssh_root(root: Path, processes: list[Process]) -> tuple[str, ...]:
    """Look at the configuration of the SSH server that runs; its listening process is the one with -D or with "sshd:" and "listener" in its title."""
    for process in processes:
        if process.name == "sshd" and ("-D" in process.arguments or "listener" in " ".join(process.arguments)):
            arguments = process.arguments
            given = [following for option, following in itertools.pairwise(arguments) if option == "-f"]
            return root_by_password(root, given[0] if given else "/etc/ssh/sshd_config")
    return ()

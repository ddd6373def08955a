"""The network and the other machines: names, interfaces, RDMA devices and clocks."""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from stoker import shell
from stoker.doctor.facts.answers import ask_all
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface."""

    name: str
    up: bool | None = None
    loopback: bool = False
    speed_mbit: int | None = None
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RdmaPort:
    """One port of an RDMA device (InfiniBand or RoCE)."""

    device: str
    """As mlx5_0."""
    port: int = 1
    active: bool | None = None
    link_layer: str | None = None
    """InfiniBand or Ethernet."""
    rate: str | None = None
    """As `400 Gb/sec (4X NDR)`."""


@dataclass(frozen=True, kw_only=True)
class OtherNode:
    """Another machine, asked over ssh for its time."""

    name: str
    error: str | None = None
    """Why it did not answer; None: it did."""
    offset_s: float | None = None
    """Its clock minus ours."""
    uncertainty_s: float | None = None
    """Half the time that the question took: the offset is no better known than that."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """This machine's place in the network."""

    hostname: str | None = None
    hostname_addresses: tuple[str, ...] = ()
    hostname_error: str | None = None
    """Why the machine's own name resolves to nothing; None: it resolves, or was not asked."""
    hostname_s: float | None = None
    """How long resolving it took."""
    interfaces: tuple[Interface, ...] = ()
    rdma: tuple[RdmaPort, ...] = ()
    rdma_nodes: tuple[str, ...] = ()
    """Device nodes with which a process here can use RDMA: /dev/infiniband/uverbs0, ..."""
    clock_synchronised: bool | None = None
    """Whether the kernel says that something keeps its clock right (adjtimex); None: not known."""
    nodes: tuple[OtherNode, ...] = ()
    """Those that were named with --nodes."""


_NAME_S = 3.0
_SSH_S = 8.0
_STA_UNSYNC = 0x40
"""Source: linux/timex.h."""


def gather_cluster(nodes: tuple[str, ...] = (), root: Path | None = None) -> Cluster:
    """Read the network's facts from /sys, resolve our own name (3 s at most), ask the clocks of `nodes` by ssh (8 s at most, all at once)."""
    root = root or filesystem_root()
    hostname = socket.gethostname()
    begun = time.monotonic()
    answer = ask_all({"name": partial(_resolved, hostname)}, limit_s=_NAME_S).get("name", ((), f"no answer within {_NAME_S:g} s"))
    took = time.monotonic() - begun
    asked = ask_all({node: partial(_ask_node, node) for node in dict.fromkeys(nodes)}, limit_s=_SSH_S + 1)
    return Cluster(
        hostname=hostname,
        hostname_addresses=answer[0],
        hostname_error=answer[1],
        hostname_s=round(took, 3),
        interfaces=_interfaces(root),
        rdma=_rdma(root),
        rdma_nodes=tuple(f"/dev/infiniband/{name}" for name in _names(root / "dev/infiniband") if name.startswith("uverbs")),
        clock_synchronised=_clock(),
        nodes=tuple(asked.get(node, OtherNode(name=node, error=f"no answer within {_SSH_S:g} s")) for node in dict.fromkeys(nodes)),
    )


def _resolved(hostname: str) -> tuple[tuple[str, ...], str | None]:
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return (), f"{type(error).__name__}: {error}"[:300]
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found)), None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _interfaces(root: Path) -> tuple[Interface, ...]:
    addresses = _addresses()
    folder = root / "sys/class/net"
    return tuple(_interface(folder / name, addresses.get(name, ())) for name in _names(folder) if (folder / name).is_dir())


def _interface(folder: Path, addresses: tuple[str, ...]) -> Interface:
    state, flags, speed = read(folder / "operstate"), read(folder / "flags") or "", read(folder / "speed") or ""
    bits = int(flags, 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", flags) else 0
    return Interface(
        name=folder.name,
        up=(state == "up" or (state == "unknown" and bool(bits & 1))) if state else None,  # lo and tunnels say unknown; bit 0 is IFF_UP
        loopback=bool(bits & 8),  # IFF_LOOPBACK
        speed_mbit=int(speed) if speed.isdecimal() and 0 < int(speed) < 2**31 else None,
        addresses=addresses,
    )


def _addresses() -> dict[str, tuple[str, ...]]:
    try:
        found = psutil.net_if_addrs()
    except (OSError, RuntimeError):
        return {}
    kinds = (socket.AF_INET, socket.AF_INET6)
    return {name: tuple(entry.address.partition("%")[0] for entry in entries if entry.family in kinds) for name, entries in found.items()}


def _rdma(root: Path) -> tuple[RdmaPort, ...]:
    folder = root / "sys/class/infiniband"
    ports = [(device, port) for device in _names(folder) for port in _names(folder / device / "ports") if port.isdecimal()]
    return tuple(_port(folder / device / "ports" / port, device, int(port)) for device, port in ports)


def _port(folder: Path, device: str, number: int) -> RdmaPort:
    state = read(folder / "state")
    active = state.endswith("ACTIVE") if state else None  # as "4: ACTIVE"
    return RdmaPort(device=device, port=number, active=active, link_layer=read(folder / "link_layer"), rate=read(folder / "rate"))


def _clock() -> bool | None:
    """Ask the kernel with adjtimex, which only reads here. The status word stands after modes and four longs; source: adjtimex(2)."""
    if struct.calcsize("l") != 8:
        return None
    try:
        answer = ctypes.create_string_buffer(512)
        if ctypes.CDLL(None).adjtimex(answer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not struct.unpack_from("i", answer, 40)[0] & _STA_UNSYNC


def _ask_node(node: str) -> OtherNode:
    """Ask another machine for its time; ours is taken in the middle of the question."""
    if not re.fullmatch(r"[\w.@:%\[\]][\w.@:%\[\]-]*", node):
        return OtherNode(name=node, error="this is no name of a machine")
    begun = time.time()
    outcome = shell.run(["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "--", node, "date", "+%s.%N"], timeout_s=_SSH_S)
    ended = time.time()
    told = re.search(r"^(\d{9,11}(\.\d+)?)", outcome.out, re.MULTILINE)
    if not outcome.ok or not told:
        lines = [line for line in (outcome.err or outcome.out).splitlines() if line.strip()]
        return OtherNode(name=node, error=(lines[-1] if lines else f"ssh ended with status {outcome.code}")[:300])
    return OtherNode(name=node, offset_s=float(told[1]) - (begun + ended) / 2, uncertainty_s=(ended - begun) / 2)

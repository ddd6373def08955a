"""Who can reach an address of this machine, and under which names."""

from __future__ import annotations

import getpass
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")

_BRIDGE = re.compile(r"docker\d+|podman\d+|br-[0-9a-f]{12}|cni.*|veth.*|virbr\d+")
"""Networks of containers and virtual machines inside this machine."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An address of a network that this machine is on."""

    card: str
    """As `eth0`."""
    address: str
    network: str
    """As `192.0.2.0/24`."""


def is_loopback(address: str) -> bool:
    """Whether only this machine itself reaches an address."""
    return ipaddress.ip_address(address).is_loopback


def interfaces() -> tuple[Interface, ...]:
    """Return the addresses of this machine that others can reach."""
    return tuple(
        Interface(card=card, address=str(address.ip), network=str(address.network))
        for card, held in psutil.net_if_addrs().items()
        if not _BRIDGE.fullmatch(card)
        for address in _addresses(held)
        if not address.ip.is_loopback and not address.ip.is_link_local
    )


def names(address: str) -> tuple[str, ...]:
    """Return the names and addresses under which others reach what listens on `address`, the best first; none for this machine's own."""
    if is_loopback(address):
        return ()
    host = socket.gethostname()
    listened = ipaddress.ip_address(address)
    found = [one.address for one in interfaces() if _same_kind(one.address, address)] if listened.is_unspecified else [address]
    return tuple(dict.fromkeys([*([host] if _HOST.fullmatch(host) else []), *found]))


def audience(address: str) -> str:
    """Say who reaches `address`, as the end of a sentence."""
    if is_loopback(address):
        return "this machine only"
    everywhere = ipaddress.ip_address(address).is_unspecified
    networks = [f"{one.network} ({one.card})" for one in interfaces() if one.address == address or (everywhere and _same_kind(one.address, address))]
    return f"everybody who reaches this machine from {', '.join(networks) or address}" + (
        "" if _is_private(networks, address) else " or the internet"
    )


def connectable(address: str) -> str:
    """Return an address at which this machine itself reaches what listens on `address`."""
    given = ipaddress.ip_address(address)
    return address if not given.is_unspecified else "127.0.0.1" if given.version == 4 else "::1"


def way_here(environment: Mapping[str, str]) -> str | None:
    """Return how this machine is reached from the one that somebody came from by ssh, as `ann@192.0.2.7`; None: they did not."""
    _, _, address, port = (environment.get("SSH_CONNECTION", "").split() + [""] * 4)[:4]
    if not address:
        return None
    person = environment.get("SUDO_USER") or environment.get("USER") or getpass.getuser()
    return f"ssh://{person}@{in_address(address)}:{port}" if port != "22" else f"{person}@{address}"


def in_address(host: str) -> str:
    """Return a host as a web address has it."""
    return f"[{host}]" if ":" in host else host


def _is_private(networks: list[str], address: str) -> bool:
    found = [ipaddress.ip_network(network.split()[0]) for network in networks]
    return all(network.is_private for network in found) and (bool(found) or ipaddress.ip_address(address).is_private)


def _same_kind(one: str, listened: str) -> bool:
    # `::` takes IPv4 as well, unless the system says otherwise.
    return ":" in listened or ":" not in one


def _addresses(held: list[psutil._common.snicaddr]) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    for one in held:
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.netmask:
            # An IPv6 mask as `ffff:ffff::` is not what the module reads: count its bits.
            bits = bin(int(ipaddress.ip_address(one.netmask))).count("1")
            yield ipaddress.ip_interface(f"{one.address.partition('%')[0]}/{bits}")

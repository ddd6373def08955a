"""Ports of this machine: whether one is free, the next that is, and none given twice to starts at the same moment."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

from stoker.errors import BadValue, PortTaken
from stoker.launch.locks import held

_TRIES = 200
_HIGHEST = 65535


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a program could listen on this port of this address. Raises BadValue for what is no address of this machine."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
        # Else a port whose last connections are only just closed counts as taken; engines listen with it, too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            # With SO_REUSEADDR two may bind a port of one address and of all; only one may listen.
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise _no_address(address) from error
            return False
    return True


def is_answered(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something listens on this port. Unlike `is_free` it takes the port from nobody who is about to listen, not even for a moment."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def next_free(first: int, address: str = "127.0.0.1") -> int:
    """Return the first free port from `first` on. Raises PortTaken, BadValue."""
    with reserved(first, address) as port:
        return port


@contextlib.contextmanager
def reserved(first: int, address: str = "127.0.0.1", *, only: bool = False) -> Iterator[int]:
    """Yield a free port from `first` on (`only`: that one or none), which no other start of ours is given until the block ends.

    Between this look and the engine's own lies a second: of twenty starts at once all would take the same port. Raises PortTaken, BadValue.
    """
    last = first if only else min(first + _TRIES - 1, _HIGHEST)
    for port in range(first, last + 1):
        with held("ports", str(port), wait=False) as ours:
            if ours and is_free(port, address):
                yield port
                return
    told = f"port {first} of {address} is" if only else f"the ports {first} to {last} of {address} are"
    raise PortTaken(f"{told} in use, or not to be had", hint=f"`ss -ltnp 'sport = :{first}'` says by whom; choose another one with --port")


def _family(address: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError as error:
        raise _no_address(address) from error


def _no_address(address: str) -> BadValue:
    return BadValue(
        f"{address!r} is no address of this machine",
        hint="`ip -brief address` lists them; 0.0.0.0 is all of them, 127.0.0.1 is for this machine only",
    )

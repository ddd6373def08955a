"""Ports of a program inside that answer on this machine: `run -p`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from stoker.errors import BadValue
from stoker.launch.ports import reserved
from stoker.launch.request import Port

LOOPBACK = "127.0.0.1"
_PUBLISH = re.compile(r"(?:(?P<host>[0-9]{1,5}):)?(?P<inside>[0-9]{1,5})")
_HIGHEST = 65535
_UNPRIVILEGED = 1024
_MORE = 8000
"""80 becomes 8080, as one is used to."""


@contextlib.contextmanager
def published(texts: Sequence[str], address: str | None) -> Iterator[tuple[Port, ...]]:
    """Yield the ports that INSIDE or HOST:INSIDE say. Without HOST it is the same port, or the next that is free: no other start of ours is given it
    until the block ends. Raises BadValue, PortTaken.
    """
    with contextlib.ExitStack() as stack:
        ports: dict[int, Port] = {}
        for text in texts:
            port = _port(text, address or LOOPBACK, stack)
            if port.host in ports:
                raise BadValue(f"-p {text}: port {port.host} is published twice", hint="give each a port of its own on this machine")
            ports[port.host] = port
        yield tuple(ports.values())


def _port(text: str, address: str, stack: contextlib.ExitStack) -> Port:
    found = _PUBLISH.fullmatch(text)
    numbers = [int(number) for number in (found["host"], found["inside"]) if number] if found else []
    if not numbers or not all(0 < number <= _HIGHEST for number in numbers):
        hint = "write it as -p 8080 or -p 8080:80 (this machine:inside)"
        raise BadValue(f"-p {text!r:.100} is no port", hint=f"{hint}; the address is --listen's" if text.count(":") > 1 else hint)
    inside = numbers[-1]
    if len(numbers) == 2:
        return Port(host=numbers[0], inside=inside, address=address)
    first = inside if inside >= _UNPRIVILEGED else inside + _MORE
    return Port(host=stack.enter_context(reserved(first, address)), inside=inside, address=address)

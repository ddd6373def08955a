"""Free ports, and none given twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import pytest

from stoker.errors import BadValue, PortTaken
from stoker.launch.ports import is_answered, is_free, next_free, reserved


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_that_listens_is_taken(taken: int) -> None:
    assert is_answered(taken)
    assert not is_answered(next_free(taken))
    assert not is_free(taken)
    assert not is_free(taken, "0.0.0.0")
    assert next_free(taken) > taken


def test_a_port_of_all_addresses_is_taken_for_each() -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        assert not is_free(listening.getsockname()[1], "127.0.0.1")


def test_a_port_whose_last_connection_is_only_just_closed_is_free() -> None:
    with socket.socket() as server:
        # As every server does.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert is_free(port)


def test_a_port_that_was_named_is_not_replaced(taken: int) -> None:
    with pytest.raises(PortTaken, match=f"port {taken} of 127.0.0.1"), reserved(taken, only=True):
        pass


@pytest.mark.parametrize("address", ["192.0.2.99", "gpu1", "", "1.2.3.4.5", "2001:db8::1"])
def test_what_is_no_address_of_this_machine_is_said(address: str) -> None:
    with pytest.raises(BadValue, match="no address of this machine"):
        next_free(8888, address)


def test_a_reserved_port_is_nobody_elses() -> None:
    first = next_free(20000)
    with reserved(first) as one, reserved(first) as two:
        assert one != two
    with reserved(first) as again:
        assert again == one


def _hold(first: int, held: Event) -> None:
    with reserved(first):
        held.set()
        time.sleep(60)


def test_a_killed_start_holds_no_port() -> None:
    first = next_free(21000)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=_hold, args=(first, held))
    other.start()
    assert held.wait(20)
    with reserved(first) as port:
        assert port != first
    assert other.pid
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with reserved(first) as port:
        assert port == first

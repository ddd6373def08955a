"""Who can reach an address, and the names that a notebook answers to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stoker.launch import reach
from stoker.start.certificate import server_names


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def card(family: int, address: str, netmask: str | None) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=address, netmask=netmask)

    cards = {
        "lo": [card(2, "127.0.0.1", "255.0.0.0"), card(10, "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")],
        "eth0": [card(2, "10.1.2.3", "255.255.0.0"), card(10, "fe80::1%eth0", "ffff:ffff:ffff:ffff::"), card(17, "02:00:00:00:00:01", None)],
        "docker0": [card(2, "172.17.0.1", "255.255.0.0")],
        "eth1": [card(2, "8.8.4.4", "255.255.255.0"), card(10, "2600::7", "ffff:ffff:ffff:ffff::")],
    }
    monkeypatch.setattr("psutil.net_if_addrs", lambda: cards)
    monkeypatch.setattr("socket.gethostname", lambda: "gpu1")


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("127.0.0.1", ()),
        ("127.8.0.1", ()),
        ("::1", ()),
        ("10.1.2.3", ("gpu1", "10.1.2.3")),
        ("0.0.0.0", ("gpu1", "10.1.2.3", "8.8.4.4")),
        ("::", ("gpu1", "10.1.2.3", "8.8.4.4", "2600::7")),
    ],
)
def test_names(address: str, names: tuple[str, ...]) -> None:
    assert reach.names(address) == names
    # The image's start takes them all.
    assert set(names) <= set(server_names({"STOKER_NAMES": " ".join(names)}))


def test_a_host_name_that_is_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "bad name!")
    assert reach.names("10.1.2.3") == ("10.1.2.3",)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "this machine only"),
        ("10.1.2.3", "everybody who reaches this machine from 10.1.0.0/16 (eth0)"),
        ("8.8.4.4", "everybody who reaches this machine from 8.8.4.0/24 (eth1) or the internet"),
        ("0.0.0.0", "everybody who reaches this machine from 10.1.0.0/16 (eth0), 8.8.4.0/24 (eth1) or the internet"),
    ],
)
def test_audience(address: str, said: str) -> None:
    assert reach.audience(address) == said


def test_what_listens_everywhere_is_asked_here() -> None:
    assert [reach.connectable(address) for address in ("0.0.0.0", "::", "10.1.2.3")] == ["127.0.0.1", "::1", "10.1.2.3"]
    assert reach.in_address("::1") == "[::1]"


@pytest.mark.parametrize(
    ("connection", "way"),
    [
        ("", None),
        ("10.9.9.9 50000 10.1.2.3 22", "ann@10.1.2.3"),
        ("10.9.9.9 50000 10.1.2.3 2022", "ssh://ann@10.1.2.3:2022"),
        ("2600::9 50000 2600::7 2022", "ssh://ann@[2600::7]:2022"),
    ],
)
def test_the_way_back_from_where_somebody_came(connection: str, way: str | None) -> None:
    assert reach.way_here({"SSH_CONNECTION": connection, "USER": "ann"}) == way

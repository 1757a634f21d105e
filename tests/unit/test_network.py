"""Interfaces and addresses of this machine, whatever it is."""

from __future__ import annotations

import socket

import pytest

from ernie_m.base import network
from ernie_m.base.network import interface_of, is_loopback, own_address_towards, own_addresses, own_name


def test_the_way_to_this_machine_is_its_loopback() -> None:
    assert own_address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") == "", "nobody's"


def test_each_own_address_belongs_to_an_interface_of_the_system() -> None:
    interfaces = {name for _, name in socket.if_nameindex()}
    for address in own_addresses():
        assert interface_of(address) in interfaces - {"lo"}
        assert own_address_towards(address) == address


@pytest.mark.parametrize(
    ("address", "is_it"), [("127.0.1.1", True), ("::1", True), ("10.0.0.1", False), ("fe80::1%lo", False)]
)
def test_loopback_is_what_no_other_host_reaches(address: str, is_it: bool) -> None:
    assert is_loopback(address) == is_it


def test_an_own_name_in_the_way_debian_has_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "127.0.1.1")  # stands for itself, as a name in /etc/hosts would
    assert own_name() == {"name": "127.0.1.1", "addresses": ["127.0.1.1"], "loopback": ["127.0.1.1"]}
    monkeypatch.setattr(socket, "gethostname", lambda: "nobody.invalid")
    assert own_name() == {"name": "nobody.invalid", "addresses": [], "loopback": []}


def test_addresses_for_containers_of_this_host_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpirun's ranks meet at the first one: no other host reaches docker0."""
    found = [("lo", "127.0.0.1"), ("docker0", "172.17.0.1"), ("eth0", "10.0.0.5"), ("ib0", "10.1.0.5")]
    entries = [(name, socket.inet_aton(address)) for name, address in found]
    monkeypatch.setattr(network, "_ipv4_interfaces", lambda: entries)
    assert own_addresses() == ["10.0.0.5", "10.1.0.5", "172.17.0.1"]

"""This machine's network interfaces: which of them leads to a host, and which addresses its own name has."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SIOCGIFCONF = 0x8912  # Linux: the IPv4 addresses of all interfaces, an interface's further ones included
IFREQ_BYTES = 40
MAX_ADDRESSES = 1024
ANY_PORT = 9
FOR_CONTAINERS = ("docker", "podman", "virbr", "veth", "cni", "lxc")
"""How interfaces begin that lead to containers and virtual machines of this host alone."""


def own_address_towards(host: str) -> str:
    """The address from which this machine would talk to `host`; nothing is sent. Raises OSError where no route exists."""
    family, _, _, _, where = socket.getaddrinfo(host, ANY_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface with this address, e.g. 'eth0'; '' if there is none."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    with suppress(OSError):
        if wanted.version == 6:
            return _of_ipv6(wanted.packed)
        return next((name for name, packed in _ipv4_interfaces() if packed == wanted.packed), "")
    return ""


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address: 127.0.0.1, Debian's 127.0.1.1 for the host's own name, ::1."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def own_name() -> dict[str, object]:
    """This host's name, and the addresses that the name has on this host ([]: unknown)."""
    name, addresses = socket.gethostname(), []
    with suppress(OSError):
        addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(name, ANY_PORT, type=socket.SOCK_DGRAM)})
    return {"name": name, "addresses": addresses, "loopback": [a for a in addresses if is_loopback(a)]}


def own_addresses() -> list[str]:
    """This machine's IPv4 addresses that others may reach, in the system's order, those for its own containers last."""
    of_containers_last = sorted(_ipv4_interfaces(), key=lambda entry: entry[0].startswith(FOR_CONTAINERS))
    addresses = [socket.inet_ntoa(packed) for _, packed in of_containers_last]
    return [address for address in addresses if not is_loopback(address)]


def own_addresses_of(names: Iterable[str]) -> list[str]:
    """This host's addresses that the names and addresses mean on other hosts too; [] where one of them leaves it open.

    That is a name which stands for a loopback here (Debian's 127.0.1.1) or for nothing here: others may know it otherwise.
    """
    found: dict[str, None] = {}
    for name in names:
        resolved: list[str] = []
        with suppress(OSError):
            resolved = [str(entry[4][0]) for entry in socket.getaddrinfo(name, ANY_PORT, type=socket.SOCK_DGRAM)]
        own = [address for address in resolved if _is_own(address) and (address == name or not is_loopback(address))]
        if not own:
            return []
        found.update(dict.fromkeys(own))
    return list(found)


def _is_own(address: str) -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _ipv4_interfaces() -> list[tuple[str, bytes]]:
    """(interface, address) of all."""
    found = array.array("B", bytes(MAX_ADDRESSES * IFREQ_BYTES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("iL", len(found), found.buffer_info()[0])
        num_bytes = struct.unpack("iL", fcntl.ioctl(any_socket, SIOCGIFCONF, request))[0]
    entries = [found[start : start + IFREQ_BYTES].tobytes() for start in range(0, num_bytes, IFREQ_BYTES)]
    names = [entry[:16].partition(b"\0")[0].decode() for entry in entries]
    return [(name.partition(":")[0], entry[20:24]) for name, entry in zip(names, entries, strict=True)]  # eth0:1 is eth0


def _of_ipv6(packed: bytes) -> str:
    lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").split("\n")
    return next((line.split()[-1] for line in lines if line.startswith(packed.hex())), "")


def meeting_address() -> str:
    """Where the ranks of this job meet, as their launcher said."""
    return os.environ.get("MASTER_ADDR") or socket.gethostname()

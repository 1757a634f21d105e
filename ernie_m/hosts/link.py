"""TCP between two hosts: does a connection open, from which address, and how fast is it.

A `Listener` on one host answers, in threads, `connect` and `stream` of others. Each connection starts with a line that holds
the doctor's secret. The port is open to the network for as long as the agent lives, and serves nobody else
(ernie_m.base.admission).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from ernie_m.base.admission import OPENING_SECONDS, Waiting, accepted, read_line, shows
from ernie_m.base.network import interface_of, own_addresses_of

PATIENCE = 30.0
"""Seconds without a byte until a connection counts as dead."""
PIECE_BYTES = 1 << 18
LONGEST_LINE = 4096
READY = b"{}"


class Listener:
    """Accepts at the addresses that others will try, until the process ends.

    If `port` is 0 or taken, the system chooses one. Where the names do not say which addresses of this host they mean
    elsewhere, it is all of them.
    """

    def __init__(self, port: int, secret: str, names: Sequence[str] = (), num_peers: int = 1) -> None:
        self._opening, self._waiting = _opening_of(secret), Waiting(num_peers)
        try:
            everywhere = _listening("", port)  # as rank 0 will: torch takes all addresses
        except OSError:
            everywhere = _listening("", 0)
        self.port = int(everywhere.getsockname()[1])
        addresses = own_addresses_of(names)
        if addresses:
            everywhere.close()
        self.sockets = [_listening(address, self.port) for address in addresses] or [everywhere]
        for listening in self.sockets:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = accepted(listening)
                self._waiting.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            try:
                if not shows(read_line(connection, LONGEST_LINE, OPENING_SECONDS), self._opening):
                    return
            finally:
                self._waiting.remove(connection)
            connection.settimeout(PATIENCE)
            connection.sendall(READY + b"\n")
            num_bytes, buffer = 0, bytearray(PIECE_BYTES)
            while received := connection.recv_into(buffer):
                num_bytes += received
            connection.sendall(json.dumps({"bytes": num_bytes}).encode() + b"\n")


def connect(host: str, port: int, secret: str) -> dict[str, Any]:
    """Open a connection to a Listener: this end's address and interface ('' if unknown), and the seconds it took.

    Raises OSError when nobody, or somebody else, answers.
    """
    started = time.monotonic()
    with _opened(host, port, secret) as connection:
        seconds = time.monotonic() - started
        address = str(connection.getsockname()[0]).removeprefix("::ffff:")
        return {"address": address, "interface": interface_of(address), "seconds": seconds}


def stream(host: str, port: int, secret: str, seconds: float) -> dict[str, Any]:
    """Send for so many seconds; returns the Gbit/s that arrived, counted by the receiver. Raises OSError."""
    piece = bytes(PIECE_BYTES)
    with _opened(host, port, secret) as connection:
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        num_bytes = _counted(read_line(connection, LONGEST_LINE, PATIENCE), f"{host}:{port}")
        return {"gbit_per_second": 8e-9 * num_bytes / (time.monotonic() - started)}


def _opened(host: str, port: int, secret: str) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=OPENING_SECONDS)
    try:
        connection.sendall(_opening_of(secret) + b"\n")
        if read_line(connection, LONGEST_LINE, OPENING_SECONDS) != READY:
            raise _another_program(f"{host}:{port}")
        connection.settimeout(PATIENCE)
    except BaseException as error:
        connection.close()
        if isinstance(error, ConnectionError) and error.errno is None:
            raise _another_program(f"{host}:{port}") from None
        raise
    return connection


def _opening_of(secret: str) -> bytes:
    return json.dumps({"secret": secret}).encode()


def _counted(line: bytes, place: str) -> int:
    """The receiver's count of bytes."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        return int(json.loads(line)["bytes"])
    raise _another_program(place)


def _another_program(place: str) -> ConnectionError:
    return ConnectionError(f"{place} is answered by another program")


def _listening(address: str, port: int) -> socket.socket:
    if address:
        return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be switched off all the same
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))

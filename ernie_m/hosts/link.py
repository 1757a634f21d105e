"""TCP between two hosts: does a connection open, from which address, and how fast is it.

A `Listener` on one host answers, in threads, `connect` and `stream` of others. Each connection starts with a line of JSON
that holds the doctor's secret: the port is open to the network for as long as the agent lives, and serves nobody else.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

from ernie_m.base.network import interface_of

PATIENCE = 30.0
"""Seconds without a byte until a connection counts as dead."""
OPENING_PATIENCE = 10.0
PIECE_BYTES = 1 << 18


class Listener:
    """Accepts on all addresses until the process ends. If `port` is 0 or taken, the system chooses one."""

    def __init__(self, port: int, secret: str) -> None:
        self.secret = secret
        try:
            self._socket = _listening(port)
        except OSError:
            self._socket = _listening(0)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(PATIENCE)
            if json.loads(_line(connection)).get("secret") != self.secret:
                return
            connection.sendall(b"{}\n")
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
        num_bytes = json.loads(_line(connection))["bytes"]
        return {"gbit_per_second": 8e-9 * num_bytes / (time.monotonic() - started)}


def _opened(host: str, port: int, secret: str) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=OPENING_PATIENCE)
    try:
        connection.sendall(json.dumps({"secret": secret}).encode() + b"\n")
        if _line(connection) != b"{}":
            raise ConnectionError(f"{host}:{port} is answered by another program")
        connection.settimeout(PATIENCE)
    except BaseException:
        connection.close()
        raise
    return connection


def _line(connection: socket.socket) -> bytes:
    """A line without its end, or what came before the connection ended. Read byte by byte: what follows is not ours."""
    line = b""
    while (byte := connection.recv(1)) not in (b"", b"\n") and len(line) < 4096:
        line += byte
    return line


def _listening(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be switched off all the same
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))

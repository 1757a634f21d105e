"""Who is let in at a port of a job. It is open to whole networks, and serves those who know the job's token alone.

1. A connection shows the token in its first line, whole within OPENING_SECONDS; else it is closed.
2. Of those that have not shown it yet, the newest few stay. A rank shows it at once, so no idle crowd can keep it out.
3. Where no file can be opened, accepting pauses. It would be tried again at once otherwise, on a whole core.

Nothing that a stranger sends is parsed.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import socket
import threading
import time

OPENING_SECONDS = 10.0
PAUSE_SECONDS = 0.5
FEW = 16
"""Connections without a token that may wait beside two of each expected peer."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PIECE_BYTES = 1 << 16
_LEAST_SECONDS = 0.01  # what has come is read by a process that was suspended beyond the deadline, too


class Waiting:
    """The connections that have not shown the token, at most two for each of `num_peers` and FEW more."""

    def __init__(self, num_peers: int) -> None:
        self.most = 2 * num_peers + FEW
        self._lock = threading.Lock()
        self._sockets: dict[socket.socket, None] = {}

    def add(self, connection: socket.socket) -> None:
        """A new one; the oldest is hung up where there are too many."""
        with self._lock:
            self._sockets[connection] = None
            oldest = next(iter(self._sockets)) if len(self._sockets) > self.most else None
            if oldest is not None:
                del self._sockets[oldest]
        if oldest is not None:
            hang_up(oldest)

    def remove(self, connection: socket.socket) -> None:
        """It has shown the token, or is gone."""
        with self._lock:
            self._sockets.pop(connection, None)


def hang_up(connection: socket.socket) -> None:
    """End it in both directions; a thread that reads it finds its end, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def accepted(listening: socket.socket) -> tuple[socket.socket, object]:
    """The next connection. Raises OSError, after a pause where the cause is that nothing more can be opened."""
    try:
        return listening.accept()
    except OSError as error:
        if error.errno in _NO_FILES:
            time.sleep(PAUSE_SECONDS)
        raise


def read_line(connection: socket.socket, most_bytes: int, seconds: float) -> bytes:
    """The next line without its end, whole within `seconds`; nothing may follow it before it is answered.

    Raises OSError for an end, for a line that is longer or late, and for what follows; without an errno where the other end
    is to blame. The socket's timeout is `seconds` afterwards.
    """
    deadline, line = time.monotonic() + seconds, bytearray()
    try:
        while True:
            connection.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
            piece = connection.recv(_PIECE_BYTES)
            line += piece
            if b"\n" in piece:
                break
            if not piece:
                raise ConnectionResetError("the connection was closed")
            if len(line) > most_bytes:
                raise ConnectionError(f"a line of more than {most_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError("no whole line in time")
    finally:
        connection.settimeout(seconds)
    if len(line) > most_bytes + 1 or line.index(b"\n") != len(line) - 1:
        raise ConnectionError("more than a line")
    return bytes(line[:-1])


def shows(line: bytes, expected: bytes) -> bool:
    """Whether the line begins with the expected bytes, compared in a time that tells nothing of them."""
    return hmac.compare_digest(line[: len(expected)], expected)

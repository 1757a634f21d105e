"""Heartbeats: how the ranks of a job tell each other that they work, and how a dead or hung rank is found.

Rank 0 keeps a board. Every beat, each rank writes its newest post on it and reads the posts of all. Why not torch's
TCPStore? When its host is stopped or cut off, a call to it never returns, whatever its timeout; when its host died, every
rank prints a C++ backtrace. Time is counted in beats seen, and clocks of two hosts are never compared. Time in which this
rank was suspended too (a frozen container) does not count as silence of the others.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from ernie_m.base.admission import OPENING_SECONDS, Waiting, accepted, hang_up, read_line, shows

QUICK_BEATS = 3
"""Missed beats that mean death if there is a second sign of it: a closed connection, a collective that raised."""
GRACE_BEATS = 5
"""How many beats to wait for other ranks, which may know more."""
_LONGEST_LINE = 1 << 16

GO_ON = "this rank ends; restart with the same command, it goes on from the newest checkpoint"

Incident = dict[str, Any]
Post = dict[str, Any]


class Board(socketserver.ThreadingTCPServer):
    """Rank 0's board. A line of JSON in: a rank's post; a line out: all posts, closed connections, the incident.

    It listens at one address, the one that the ranks meet at, and keeps one connection for each rank. A post begins with the
    job's token; who shows none is nobody's (ernie_m.base.admission).
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, address: str, port: int, job: str, world_size: int) -> None:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        self.address_family, *_, where = next((f for f in found if f[0] == socket.AF_INET), found[0])
        self.waiting = Waiting(world_size)
        super().__init__(where, _Connection)  # type: ignore[arg-type]  # four items for IPv6
        self._job, self._world_size = job, world_size
        self._token = opening_of(job)
        self._lock = threading.Lock()
        self._posts: dict[int, bytes] = {}
        self._incident: Incident | None = None
        self._connection: dict[int, _Connection | None] = {}
        self._closed: set[int] = set()
        self._gone: set[int] = set()
        self._news = 0
        self._told: dict[int, int] = {}
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = accepted(self.socket)
        self.waiting.add(connection)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that is not from a rank of this job is closed; nothing is printed."""

    def is_ours(self, line: bytes) -> bool:
        return shows(line, self._token)

    def exchange(self, line: bytes, connection: _Connection | None = None) -> tuple[bytes, int, int]:
        """Put a post on the board. Returns the reply, the rank, and the number of the newest news in the reply.

        Raises ValueError for a line that is not a post of this job.
        """
        if not self.is_ours(line):
            raise ValueError("not a rank of this job")
        post = json.loads(line)
        rank = int(post["rank"])
        if not 0 <= rank < self._world_size:
            raise ValueError(f"rank {rank} of {self._world_size}")
        with self._lock:
            before = self._connection.get(rank)
            self._posts[rank], self._connection[rank] = line.strip(), connection
            self._closed.discard(rank)
            self._incident = self._incident or post["incident"]
            if post["gone"] is not None:
                self._gone.add(rank)
            rest = json.dumps({"closed": sorted(self._closed), "incident": self._incident}).encode()
            reply = b'{"posts": [' + b", ".join(self._posts.values()) + b"], " + rest[1:] + b"\n"
            news = self._news
        if before is not None and before is not connection:  # a rank that reconnects leaves its old connection behind
            hang_up(before.connection)
        return reply, rank, news

    def told(self, rank: int, news: int) -> None:
        self._told[rank] = news

    def hung_up(self, rank: int, connection: _Connection) -> None:
        with self._lock:
            if self._connection.get(rank) is connection:
                self._closed.add(rank)

    def tell(self, ranks: Iterable[int], seconds: float) -> None:
        """Stay up until these ranks have read what is on the board now, or have hung up, or `seconds` are over."""
        with self._lock:
            self._news += 1
        _wait_until(lambda: all(r in self._closed or self._told.get(r, 0) >= self._news for r in ranks), seconds)

    def wait_for_farewells(self, ranks: Iterable[int], seconds: float) -> None:
        """Stay up until these ranks have said farewell or hung up, or `seconds` are over."""
        _wait_until(lambda: all(r in self._closed or r in self._gone for r in ranks), seconds)


class _Connection(socketserver.StreamRequestHandler):
    server: Board

    def handle(self) -> None:
        rank = -1
        try:
            line = read_line(self.connection, _LONGEST_LINE, OPENING_SECONDS)
            if not self.server.is_ours(line):
                return
            self.server.waiting.remove(self.connection)
            self.connection.settimeout(None)
            while line:
                reply, rank, news = self.server.exchange(line, self)
                self.wfile.write(reply)
                self.server.told(rank, news)
                line = self.rfile.readline(_LONGEST_LINE)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the rank died, or it never was one
        finally:
            self.server.waiting.remove(self.connection)
            self.server.hung_up(rank, self)


def opening_of(job: str) -> bytes:
    """How each post of the job begins."""
    return json.dumps({"job": job})[:-1].encode()


class Wire:
    """A rank's connection to the board; reconnects at the next exchange after each failure."""

    def __init__(self, address: str, port: int, timeout: float, world_size: int) -> None:
        self._place, self._timeout = (address, port), timeout
        self._longest = (world_size + 1) * _LONGEST_LINE
        self._socket: socket.socket | None = None

    def exchange(self, line: bytes) -> bytes:
        """Send a line and read one; raises OSError."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._place, self._timeout)
                self._place = self._socket.getpeername()[:2]  # a reconnection must not wait for a name server
            self._socket.sendall(line)
            return read_line(self._socket, self._longest, self._timeout)
        except ConnectionResetError:
            self.close()
            raise ConnectionResetError("the board closed the connection") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def _named(ranks: Iterable[int], hosts: Iterable[str]) -> str:
    """'rank 3 on host b'; 'ranks 2, 3 on host b and rank 5 on host c'."""
    by_host: dict[str, list[str]] = {}
    for rank, host in zip(ranks, hosts, strict=True):
        by_host.setdefault(host, []).append(str(rank))
    return " and ".join(f"rank{'s' * (len(r) > 1)} {', '.join(r)} on host {host}" for host, r in by_host.items())


class Judge:
    """Finds out, from the posts that one rank reads, which rank is dead or hung.

    `gap`: seconds since the last look, without those in which this rank was suspended.
    """

    def __init__(self, rank: int, world_size: int, beat: float, timeout: float, hang: float) -> None:
        self._rank, self._beat, self._timeout, self._hang = rank, beat, timeout, hang
        self._posts: dict[int, Post] = {}
        self._silent = [0.0] * world_size
        self._unread = self._parted = 0.0

    def hear(self, table: dict[str, Any], gap: float, in_a_hurry: bool) -> Incident | None:
        """The incident that is on the board, or that follows from the posts; None when all is well.

        `in_a_hurry`: a collective raised on this rank, so that fewer missed beats are enough.
        """
        self._unread = 0.0
        self._silent = [seconds + gap for seconds in self._silent]
        for post in table["posts"]:
            rank = post["rank"]
            if rank not in self._posts or post["beat"] != self._posts[rank]["beat"]:
                self._silent[rank] = 0.0
            self._posts[rank] = post
        return table["incident"] or self._left(gap, in_a_hurry) or self._dead(table["closed"], in_a_hurry) or self._hung()

    def miss(self, gap: float, is_refused: bool, in_a_hurry: bool) -> Incident | None:
        """The board could not be reached. After a while rank 0 counts as dead, unless it had ended in order.

        If the connection is not even refused, this host may be the one that is cut off: the others get time to say so.
        """
        if 0 in self._posts and self._posts[0]["gone"] is not None:
            return self._left(gap, in_a_hurry)
        self._unread += gap
        patience = QUICK_BEATS * self._beat if is_refused or in_a_hurry else self._timeout
        if self._unread < patience + GRACE_BEATS * self._beat:
            return None
        self._silent[0] = self._unread
        return self._lost([0])

    def in_order(self, incident: Incident) -> list[int]:
        """The ranks that are left after it, the lowest first: the order in which they may print it."""
        here = [r for r in range(len(self._silent)) if r not in self._posts or self._posts[r]["gone"] is None]
        return [r for r in here if r not in incident["ranks"]] or here

    def _left(self, gap: float, in_a_hurry: bool) -> Incident | None:
        left = [rank for rank, post in sorted(self._posts.items()) if post["gone"]]
        self._parted += gap if left else 0.0
        # all ranks may end for the same reason: give each the time to end by itself
        if not left or (self._parted < GRACE_BEATS * self._beat and not in_a_hurry):
            return None
        return self._incident("dead", left, f"stopped: {self._posts[left[0]]['gone']}; this rank ends too")

    def _dead(self, closed: Iterable[int], in_a_hurry: bool) -> Incident | None:
        quick = QUICK_BEATS * self._beat
        over = {}
        for rank, silent in enumerate(self._silent):
            if rank != self._rank and not (rank in self._posts and self._posts[rank]["gone"] is not None):
                over[rank] = silent - (quick if in_a_hurry or rank in closed else self._timeout)
        # ranks of one host die together, but are missed one after another: wait a moment for the others
        if max(over.values(), default=0.0) < 2 * self._beat:
            return None
        return self._lost([rank for rank, seconds in over.items() if seconds >= 0])

    def _lost(self, ranks: list[int]) -> Incident:
        last = self._posts[ranks[0]]["what"] if ranks[0] in self._posts else "it never met the others"
        return self._incident(
            "dead", ranks, f"gave no sign of life for {self._silent[ranks[0]]:.0f} s (last: {last}); {GO_ON}"
        )

    def _hung(self) -> Incident | None:
        here = {rank: post for rank, post in sorted(self._posts.items()) if post["gone"] is None}
        behind = min((post["points"] for post in here.values()), default=0)
        hung = [rank for rank, post in here.items() if post["points"] == behind]
        for rank, post in here.items():
            # waiting ranks stopped later; but all may wait for one that is allowed a longer silence
            is_to_blame = rank in hung or post["allowed"] > self._hang
            if post["still"] < (post["allowed"] if is_to_blame else post["allowed"] / 2):
                return None
        if not hung:
            return None
        first = here[hung[0]]
        where = f"no progress for {first['still']:.0f} s (last: {first['what']})"
        if len(hung) == len(here):
            return self._incident("hung", hung, f"all stand still: {where}; {GO_ON}")
        return self._incident("hung", hung, f"hung while the others wait: {where}; {GO_ON}")

    def _incident(self, kind: str, ranks: list[int], story: str) -> Incident:
        hosts = [self._posts[rank]["host"] if rank in self._posts else "(unknown)" for rank in ranks]
        message = f"{_named(ranks, hosts)} {story}"
        return {"time": time.time(), "kind": kind, "ranks": ranks, "hosts": hosts, "seen_by": self._rank, "message": message}

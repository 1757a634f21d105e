"""A heartbeat per rank: a dead or hung rank ends the whole job in bounded time, with one line that names it."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ernie_m.base.console import EXIT_PEER_LOST, InputError
from ernie_m.base.files import open_kept
from ernie_m.base.network import meeting_address
from ernie_m.base.run_files import INCIDENTS_FILE
from ernie_m.training.heartbeat import GRACE_BEATS, Board, Incident, Judge, Wire

LAST_WORDS_SECONDS = 10.0
"""The incident's record and the line together may take this long."""
EXPLAINED_SECONDS = 30.0
"""After `explain` the main thread ends the rank; it has this long, then the watchdog does."""


class Watchdog:
    """Watches all ranks from each of them. Make it (`meet`), call `progress` all along, and end by `stop` or `leave`.

    dead: no heartbeat for `timeout_seconds`; a few missing beats are enough if the connection is closed too. hung:
    heartbeats arrive, but all ranks wait, and those furthest behind made no progress for `hang_timeout_seconds`. Either
    ends every rank with EXIT_PEER_LOST. If the interpreter of a rank is stuck in C code, or the process was stopped
    (SIGSTOP), faulthandler's timer ends it 10 s after the hang timeout, with a traceback and code 1. A run of one rank has
    only this timer.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        address: str,
        port: int,
        run_folder: Path,
        timeout_seconds: float = 60.0,
        hang_timeout_seconds: float = 100.0,
        job: str = "",
    ) -> None:
        """Start watching. Rank 0 opens the board at `port` (0: any, see `port`), before the others are made.

        `job`: a name that all ranks of this job have, and ranks of other jobs do not. Raises InputError when rank 0's
        board cannot be reached.
        """
        self.rank, self.world_size, self.address, self.port = rank, world_size, address, port
        self.host = os.environ.get("ERNIE_M_HOST") or socket.gethostname()
        self._job, self._timeout, self._hang = job, timeout_seconds, hang_timeout_seconds
        self._beat = min(2.0, timeout_seconds / 10)
        self._incidents = run_folder / INCIDENTS_FILE
        self._incident_bytes = self._incidents.stat().st_size if self._incidents.exists() else 0
        self._mark, self._allowed = (0, 0, "the start"), hang_timeout_seconds  # (marks, shared marks, what)
        self._marks_seen, self._still, self._beats = 0, 0.0, 0
        self._judge = Judge(rank, world_size, self._beat, timeout_seconds, hang_timeout_seconds)
        self._was_stopped = False
        self._gone: str | None = None
        self._incident: Incident | None = None
        self._is_explaining = False
        self._explained, self._ended = threading.Event(), threading.Event()
        self._board: Board | None = None
        self._wire = Wire(address, port, 4 * self._beat, world_size)
        if world_size > 1 and rank == 0:
            self._board = _opened(address, port, job, world_size)
            self.port = self._board.server_address[1]
        if world_size > 1:
            self._meet_the_board()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    @classmethod
    def meet(
        cls, rank: int, world_size: int, run_folder: Path, share: Callable[[Any], Any], address: str = "", **settings: Any
    ) -> Watchdog:
        """Make the watchdogs of all ranks; a collective. `share`: a broadcast, every rank gets what rank 0 gave.

        `address`: this host's for the other ranks (default: MASTER_ADDR); rank 0's board listens there and nowhere else.
        `settings`: those of the constructor.
        """
        port = settings.pop("port", 0)
        if rank == 0:
            place = address or meeting_address()
            watchdog = cls(rank, world_size, place, port, run_folder, job=uuid.uuid4().hex, **settings)
            reached = meeting_address() if "%" in place else place  # each host names its own interface in an IPv6 address
            share((reached, watchdog.port, watchdog._job))
            return watchdog
        place, port, job = share(None)
        return cls(rank, world_size, place, port, run_folder, job=job, **settings)

    def progress(self, what: str, shared: bool = True) -> None:
        """Say what this rank does next. Only these calls prove that it goes on.

        `shared`: all ranks make this call, in the same order; False for what only some do, such as rank 0's files. The
        number of shared calls tells which rank is behind, so make one just before each collective. A call costs a tuple.
        """
        marks, points, _ = self._mark
        self._mark = (marks + 1, points + shared, what)

    @contextlib.contextmanager
    def allow_silence(self, seconds: float, what: str) -> Iterator[None]:
        """Allow `seconds` (or the hang timeout, if longer) without progress within the block."""
        before = self._allowed
        self._allowed = max(seconds, self._hang)
        self.progress(what, shared=False)
        try:
            yield
        finally:
            self.progress(f"after {what}", shared=False)
            self._allowed = before

    def explain(self, wait: float) -> str | None:
        """For when a collective raised: the line that says which rank died. None: no rank died within `wait` seconds.

        Needs about ten beats (20 s by default). With a line, the incident is written down and the other ranks know it; the
        caller prints the line and ends this rank with EXIT_PEER_LOST. With None the fault is this rank's own: call `leave`.
        """
        self._is_explaining = True
        if self.world_size > 1:
            self._explained.wait(wait)
            if self._incident is not None:  # found in time; its record may take a moment more
                self._explained.wait(LAST_WORDS_SECONDS + GRACE_BEATS * self._beat)
                return str(self._incident["message"])
        self._is_explaining = False
        return None

    @property
    def is_spokesman(self) -> bool:
        """Whether this rank is the one, of those that are left after the incident, that prints the line."""
        return self._incident is not None and self._judge.in_order(self._incident)[:1] == [self.rank]

    def stop(self) -> None:
        """An orderly end: the others go on without this rank. Rank 0 waits until all have ended, at most the timeout."""
        self._part("", self._timeout)

    def leave(self, reason: str) -> None:
        """This rank ends by a fault of its own. The others end a few beats later, and print its `reason`."""
        self._part(" ".join(reason.split())[:1000] or "no reason given", GRACE_BEATS * self._beat)

    def _part(self, gone: str, seconds: float) -> None:
        if self._gone is not None:
            return
        self._gone = gone
        self._ended.set()
        self._thread.join((GRACE_BEATS + 1) * self._beat)
        faulthandler.cancel_dump_traceback_later()
        if self.world_size == 1 or self._thread.is_alive():
            return
        with contextlib.suppress(OSError):
            self._exchange()
        self._wire.close()
        if self._board is not None and self._incident is None:
            others = range(1, self.world_size)
            (self._board.tell if gone else self._board.wait_for_farewells)(others, seconds)
            self._board.shutdown()
            self._board.server_close()

    def _meet_the_board(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._judge.hear(self._exchange(), 0.0, False)  # to know rank 0's host if it dies before the next beat
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    place = f"rank 0's watchdog at {self.address}:{self.port}"
                    way_out = "open the ports between the hosts"
                    raise InputError(f"host {self.host} cannot reach {place} ({error}); {way_out}", True) from None
                time.sleep(self._beat)

    def _exchange(self) -> dict[str, Any]:
        """Put this rank's post on the board and return the board's reply; raises OSError."""
        self._beats += 1
        _, points, what = self._mark
        post = {"job": self._job, "rank": self.rank, "host": self.host, "beat": self._beats, "gone": self._gone}
        post |= {"points": points, "what": what[:500], "still": self._still, "allowed": self._allowed}
        line = json.dumps(post | {"incident": self._incident}).encode() + b"\n"
        if self._board is not None:
            return json.loads(self._board.exchange(line)[0])
        reply = self._wire.exchange(line)
        try:
            return json.loads(reply)
        except ValueError:
            raise ConnectionResetError("another program listens there") from None

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            faulthandler.dump_traceback_later(self._hang + LAST_WORDS_SECONDS, exit=True, file=2)
            before = time.monotonic()
            if self._ended.wait(self._beat):
                return
            now = time.monotonic()
            # what stopped this thread for long may have stopped the others too: it does not count
            self._was_stopped |= now - before > GRACE_BEATS * self._beat
            gap, last = min(now - last, GRACE_BEATS * self._beat), now
            incident = self._look(gap) if self.world_size > 1 else None
            if incident:
                self._end(incident)
                return

    def _look(self, gap: float) -> Incident | None:
        marks = self._mark[0]
        self._still = 0.0 if marks != self._marks_seen else self._still + gap
        self._marks_seen = marks
        try:
            table = self._exchange()
        except OSError as error:
            return self._judge.miss(gap, isinstance(error, ConnectionRefusedError), self._is_explaining)
        return self._judge.hear(table, gap, self._is_explaining)

    def _end(self, incident: Incident) -> None:
        """Tell the others, write the incident down, end the process (or let the caller of `explain` do it)."""
        self._incident = incident
        with contextlib.suppress(OSError):
            self._incident = incident = self._exchange()["incident"]  # another rank's, where that came first
        words = threading.Thread(target=self._last_words, args=(incident,), daemon=True)
        words.start()
        words.join(LAST_WORDS_SECONDS)  # a disk or a pipe that hangs must not keep this rank
        if self._board is not None:
            self._board.tell(set(self._judge.in_order(incident)) - {0}, GRACE_BEATS * self._beat)
        self._explained.set()
        if self._is_explaining and self._ended.wait(EXPLAINED_SECONDS):
            return
        os._exit(EXIT_PEER_LOST)

    def _last_words(self, incident: Incident) -> None:
        order = self._judge.in_order(incident)
        place = order.index(self.rank) if self.rank in order else len(order)
        if place:  # time for the ranks before it to hear of the incident and print it
            time.sleep(2 * self._beat + min(0.2 * place, 2.0))
        is_first = self._record(incident)
        if self._is_explaining:
            return
        if is_first:
            os.write(2, f"error: {incident['message']}\n".encode())  # sys.stderr's lock may be held by a hung thread
        sys.stdout.flush()
        sys.stderr.flush()

    def _record(self, incident: Incident) -> bool:
        """Append the incident; False when another rank did, or when this rank was stopped and is the one that was missed.

        When the network is cut in two, each side blames the other. Then both incidents are there, for a supervisor to judge.
        """
        try:
            with open(open_kept(self._incidents, os.O_RDWR | os.O_APPEND), "a+", encoding="utf-8") as file:
                with contextlib.suppress(OSError):  # some network file systems lock nothing
                    fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(self._incident_bytes)
                recorded = [_ranks_in(line) for line in file]
                if incident["ranks"] in recorded or (self._was_stopped and any(self.rank in ranks for ranks in recorded)):
                    return False
                file.write(json.dumps(incident | {"seen_by": self.rank}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.write(2, f"warning: {self._incidents}: {error.strerror}; the incident is not on record\n".encode())
        return True


def _opened(address: str, port: int, job: str, world_size: int) -> Board:
    try:
        return Board(address, port, job, world_size)
    except OSError as error:
        way_out = "MASTER_ADDR must be an address of rank 0's host"
        raise InputError(f"rank 0's watchdog cannot listen at {address}:{port} ({error}); {way_out}", True) from None


def _ranks_in(line: str) -> list[int]:
    try:
        return list(json.loads(line)["ranks"])
    except (ValueError, KeyError, TypeError):
        return []

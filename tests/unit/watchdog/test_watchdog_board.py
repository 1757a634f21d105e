"""Strangers at rank 0's board: they are few, soon gone, never parsed, and keep no rank out."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base import admission
from ernie_m.base.admission import FEW, accepted, read_line
from ernie_m.base.console import InputError
from ernie_m.base.network import own_addresses
from ernie_m.training import heartbeat
from ernie_m.training.heartbeat import Board, Wire
from ernie_m.training.watchdog import Watchdog

WORLD = 2
CROWD = 400
PATIENCE = 30.0


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board("127.0.0.1", 0, "ours", WORLD)
    yield made
    made.shutdown()
    made.server_close()


def post(rank: int, job: str = "ours", **more: Any) -> bytes:
    return json.dumps({"job": job, "rank": rank, "incident": None, "gone": None} | more).encode() + b"\n"


def wire(board: Board, timeout: float = PATIENCE) -> Wire:
    return Wire("127.0.0.1", board.server_address[1], timeout, WORLD)


def call(board: Board) -> socket.socket:
    return socket.create_connection(("127.0.0.1", board.server_address[1]), PATIENCE)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_hung_up(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def test_a_crowd_of_idle_strangers_holds_few_files_and_keeps_no_rank_out(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "OPENING_SECONDS", 1000)
    most, before, threads = 2 * WORLD + FEW, open_files(), threading.active_count()
    with contextlib.ExitStack() as crowd:
        strangers = [crowd.enter_context(call(board)) for _ in range(CROWD)]
        assert all(map(is_hung_up, strangers[:-most]))
        until(lambda: open_files() - before - CROWD <= most, "strangers are hung up")
        assert threading.active_count() - threads <= most + 1
        ranks = [wire(board) for _ in range(WORLD)]
        replies = [json.loads(rank.exchange(post(number))) for number, rank in enumerate(ranks)]
        assert [[found["rank"] for found in reply["posts"]] for reply in replies] == [[0], [0, 1]]
        for _ in range(CROWD):  # and those that are in stay in
            crowd.enter_context(call(board))
        assert len(json.loads(ranks[0].exchange(post(0)))["posts"]) == WORLD
    for rank in ranks:
        rank.close()
    until(lambda: open_files() <= before, "all is closed")


def test_a_stranger_is_gone_in_time_whatever_it_says(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "OPENING_SECONDS", 0.3)
    silent, slow, ending = call(board), call(board), threading.Event()

    def drip() -> None:  # a byte at a time is no way to stay
        with contextlib.suppress(OSError):
            while not ending.wait(0.05):
                slow.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert is_hung_up(silent)
        assert is_hung_up(slow)
    finally:
        ending.set()
        dripping.join()
        silent.close()
        slow.close()


@pytest.mark.parametrize(
    "said",
    [b"[" * 60_000 + b"\n", b"[]\n", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000, post(0, job="theirs"), post(0, job="our")],
)
def test_what_a_stranger_says_is_not_parsed(board: Board, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(heartbeat.json, "loads", parsed.append)
    with call(board) as stranger, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stranger.sendall(said)
        assert is_hung_up(stranger)
    assert parsed == []


@pytest.mark.parametrize("rank", [-1, WORLD, 10**9, "x", None, []])
def test_a_rank_that_the_job_does_not_have_is_turned_away(board: Board, rank: Any) -> None:
    with pytest.raises(ConnectionResetError, match="the board closed the connection"):
        wire(board).exchange(post(rank))
    assert json.loads(board.exchange(post(0))[0])["posts"][0]["rank"] == 0


def test_a_rank_that_comes_back_takes_the_place_of_its_old_connection(board: Board) -> None:
    old, new = call(board), wire(board)
    old.sendall(post(1))
    assert read_line(old, 1 << 16, PATIENCE)
    new.exchange(post(1))
    assert is_hung_up(old), "an old one of a host that vanished would stay for ever"
    assert json.loads(new.exchange(post(1)))["closed"] == []
    old.close()
    new.close()


def test_where_no_file_can_be_opened_accepting_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's own refusal."""
    pauses: list[float] = []
    monkeypatch.setattr(admission.time, "sleep", pauses.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 50, hard))
            with contextlib.suppress(OSError):
                while True:
                    filling.append(os.open(os.devnull, os.O_RDONLY))
            with pytest.raises(OSError, match="Too many open files"):
                accepted(listening)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in filling:
                os.close(number)
        accepted(listening)[0].close()
    assert pauses == [admission.PAUSE_SECONDS]


def test_the_board_is_at_the_address_of_the_meeting_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[Any] = []
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def places(**address: str) -> tuple[str, str]:
        shared.clear()
        settings = {"timeout_seconds": 0.2, "hang_timeout_seconds": 99, **address}
        watchdog = Watchdog.meet(0, 2, tmp_path, lambda value: shared.append(value), **settings)
        assert watchdog._board is not None
        place = str(watchdog._board.server_address[0])
        watchdog.leave("the test is over")
        return place, shared[0][0]

    assert places() == ("127.0.0.1", "127.0.0.1")
    for address in ("127.0.0.2", *own_addresses()[:1]):
        assert places(address=address) == (address, address)
    with pytest.raises(
        InputError, match=r"cannot listen at 203\.0\.113\.7:\d+ .*MASTER_ADDR must be an address of rank 0's host"
    ):
        places(address="203.0.113.7")


def test_a_reply_without_end_is_given_up(board: Board) -> None:
    """Another program where the board was."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:

        def flood() -> None:
            connection, _ = theirs.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"x" * 65_536)

        flooding = threading.Thread(target=flood)
        flooding.start()
        with pytest.raises(ConnectionError, match="a line of more than 196,608 bytes"):
            Wire("127.0.0.1", theirs.getsockname()[1], PATIENCE, WORLD).exchange(post(1))
        flooding.join()

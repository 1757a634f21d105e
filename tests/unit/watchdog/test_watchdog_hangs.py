"""Whoever hangs is named while the others wait for it, and who may take its time is not."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from watchdog_jobs import Job, go_on, meet_by_gloo, until

import ernie_m.training.watchdog
from ernie_m.base.console import EXIT_PEER_LOST
from ernie_m.training.watchdog import Watchdog


def test_a_hung_rank_is_named_while_the_others_wait_in_a_barrier(job: Job) -> None:
    """Rank 0 hangs; the files that it alone wrote before do not make it look ahead of the others."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        meet_by_gloo(rank, folder)
        for number in range(10):
            if rank == 0:
                watchdog.progress(f"file {number}", shared=False)
        for step in range(3):
            watchdog.progress(f"step {step}")
            if step == 2 and rank == 0:
                time.sleep(1000)
            watchdog.progress(f"step {step}, barrier")
            try:
                dist.barrier()
            except RuntimeError:  # the hung one may end a moment before this one does
                assert watchdog.explain(10)
                sys.exit(EXIT_PEER_LOST)

    job.start(body, timeout_seconds=3, hang_timeout_seconds=1.5)
    codes, printed = job.ended(0, 1, 2)
    assert codes == [EXIT_PEER_LOST] * 3
    message = job.incident("hung", [0], 1)
    assert message.startswith("rank 0 on host node-a hung while the others wait: no progress for ")
    assert "(last: step 2)" in message
    assert printed.count("error: ") == 1


def test_when_all_stand_still_all_are_named(job: Job) -> None:
    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        with watchdog.allow_silence(1000, "loading"):
            pass
        watchdog.progress("gathering the ledger")
        time.sleep(1000)

    job.start(body, timeout_seconds=3, hang_timeout_seconds=1)
    assert job.ended(0, 1, 2)[0] == [EXIT_PEER_LOST] * 3
    message = job.incident("hung", [0, 1, 2], 0)
    assert "all stand still: no progress for " in message
    assert "(last: gathering the ledger)" in message


def test_an_interpreter_stuck_in_C_ends_with_a_traceback(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can neither beat nor judge. The others name it; a timer that needs no interpreter ends it."""
    monkeypatch.setattr(ernie_m.training.watchdog, "LAST_WORDS_SECONDS", 1.5)  # the margin of that timer

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        if rank == 2:
            ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the lock
        go_on(watchdog)

    job.start(body, timeout_seconds=1.2, hang_timeout_seconds=1.5)
    assert job.ended(0, 1)[0] == [EXIT_PEER_LOST] * 2
    job.incident("dead", [2], 0)
    codes, printed = job.ended(2)
    assert codes == [1]
    assert "Timeout (0:00:03)!" in printed
    assert "in body" in printed


def test_an_allowed_silence_prevents_a_false_alarm(job: Job) -> None:
    """One rank loads for longer than the hang timeout, and the others, allowed no longer silence, wait for it."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        with watchdog.allow_silence(20, "loading"):
            if rank == 1:
                time.sleep(2.5)
                (folder / "loaded").touch()
        watchdog.progress("barrier")
        until(folder / "loaded")
        watchdog.stop()

    job.start(body, timeout_seconds=3, hang_timeout_seconds=1)
    assert job.ended(0, 1, 2) == ([0, 0, 0], "")
    assert job.incidents() == []


def test_an_allowed_silence_ends(job: Job) -> None:
    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        with watchdog.allow_silence(2.5, "loading"):
            time.sleep(1000 if rank == 2 else 0)
        watchdog.progress("barrier")
        time.sleep(1000)

    job.start(body, timeout_seconds=5, hang_timeout_seconds=2)  # a busy machine may keep a rank from running for a second
    assert job.ended(0, 1, 2)[0] == [EXIT_PEER_LOST] * 3
    assert "(last: loading)" in job.incident("hung", [2], 0)


def test_one_rank_alone_has_nobody_to_watch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the timer runs: set again and again, and taken away at the end."""
    monkeypatch.setattr(ernie_m.training.watchdog, "LAST_WORDS_SECONDS", 0.3)

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        time.sleep(1.2)
        assert watchdog.explain(1000) is None
        watchdog.stop()
        time.sleep(1.2)

    job.start(body, 1, timeout_seconds=0.5, hang_timeout_seconds=0.5)
    assert job.ended(0) == ([0], "")
    assert job.incidents() == []

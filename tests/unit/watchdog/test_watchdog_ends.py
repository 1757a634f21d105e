"""Whoever dies, is stopped or leaves is named once, and nobody waits for it for long; orderly ends are silent."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist
from watchdog_jobs import Job, all_but, go_on, meet_by_gloo, seconds_in, until

from ernie_m.base.console import EXIT_PEER_LOST
from ernie_m.training.watchdog import Watchdog


def test_a_killed_rank_is_named_once_and_all_others_end(jobs: dict[int, Job]) -> None:
    """Without rank 0 the others cannot agree on who speaks: the first does."""
    for victim, job in jobs.items():
        job.start(lambda rank, watchdog, folder: go_on(watchdog), timeout_seconds=3)
        job.ranks[victim].kill()
    for victim, job in jobs.items():
        others = all_but(victim)
        codes, printed = job.ended(*others)
        assert codes == [EXIT_PEER_LOST] * 2
        message = job.incident("dead", [victim], *others[: 1 if victim else 2])
        assert message.startswith(f"rank {victim} on host node-{'abc'[victim]} gave no sign of life for ")
        assert seconds_in(message) <= 3, "a connection that closes is worth more than silence"
        assert message.endswith("); this rank ends; restart with the same command, it goes on from the newest checkpoint")
        assert printed == f"error: {message}\n"


def test_a_stopped_rank_is_named_once_and_all_others_end(jobs: dict[int, Job]) -> None:
    """SIGSTOP closes no connection: like a host that is cut off. Rank 0 takes the board along."""
    for job in jobs.values():
        job.start(lambda rank, watchdog, folder: go_on(watchdog), timeout_seconds=1.2)
    time.sleep(0.3)
    for victim, job in jobs.items():
        os.kill(job.ranks[victim].pid, signal.SIGSTOP)
    for victim, job in jobs.items():
        others = all_but(victim)
        codes, printed = job.ended(*others)
        assert codes == [EXIT_PEER_LOST] * 2
        message = job.incident("dead", [victim], *others[: 1 if victim else 2])
        assert "(last: step 7)" in message
        assert printed == f"error: {message}\n"
        os.kill(job.ranks[victim].pid, signal.SIGCONT)  # it was declared dead: no second incident, no second line
        assert job.ended(victim) == ([EXIT_PEER_LOST], "")
        assert len(job.incidents()) == 1


def test_a_job_that_was_stopped_as_a_whole_goes_on(job: Job) -> None:
    """A frozen container: nobody was silent while the others listened."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        go_on(watchdog, 3.5)
        watchdog.stop()

    job.start(body, timeout_seconds=1.5, hang_timeout_seconds=1.5)
    time.sleep(0.5)
    for process in job.ranks:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2)
    for process in job.ranks:
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.2)  # the first to wake finds the others still silent
    assert job.ended(0, 1, 2) == ([0, 0, 0], "")
    assert job.incidents() == []


def test_ranks_that_die_together_are_one_incident(job: Job) -> None:
    job.start(lambda rank, watchdog, folder: go_on(watchdog), timeout_seconds=3)
    job.ranks[1].kill()
    time.sleep(0.2)
    job.ranks[2].kill()
    assert job.ended(0)[0] == [EXIT_PEER_LOST]
    assert job.incident("dead", [1, 2], 0).startswith("rank 1 on host node-b and rank 2 on host node-c gave no ")


def test_orderly_ends_in_any_order_are_silent(jobs: dict[int, Job]) -> None:
    """Rank 0, which keeps the board, ends before or after the others; nothing is found where nobody died."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        assert watchdog.explain(0.3) is None
        go_on(watchdog, 1.8 if folder.name == str(rank) else 0.1 * rank)
        watchdog.stop()
        watchdog.leave("too late to complain")

    for job in jobs.values():
        job.start(body, timeout_seconds=3, hang_timeout_seconds=1.2)
    for job in jobs.values():
        assert job.ended(0, 1, 2) == ([0, 0, 0], "")
        assert job.incidents() == []


def test_ranks_outlive_a_board_that_said_farewell(job: Job) -> None:
    """Rank 0 waits for the others' farewells no longer than the timeout; they go on without a board."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        go_on(watchdog, 2.5 if rank else 0.2)
        watchdog.stop()
        (folder / f"end{rank}").touch()

    job.start(body, timeout_seconds=1, hang_timeout_seconds=8)
    until(job.folder / "end0")
    assert not (job.folder / "end1").exists()
    assert job.ended(0, 1, 2) == ([0, 0, 0], "")
    assert job.incidents() == []


def test_a_rank_that_leaves_is_named_with_its_reason(jobs: dict[int, Job]) -> None:
    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        if folder.name == str(rank):
            watchdog.leave("RuntimeError: CUDA\nerror")
            sys.exit(9)
        go_on(watchdog)

    for job in jobs.values():
        job.start(body, timeout_seconds=2)
    for leaver, job in jobs.items():
        assert job.ended(leaver) == ([9], "")
        others = all_but(leaver)
        codes, printed = job.ended(*others)
        assert codes == [EXIT_PEER_LOST] * 2
        message = job.incident("dead", [leaver], *others[: 1 if leaver else 2])
        place = f"rank {leaver} on host node-{'abc'[leaver]}"
        assert message == f"{place} stopped: RuntimeError: CUDA error; this rank ends too"
        assert printed == f"error: {message}\n"


def test_when_all_leave_for_one_reason_nobody_is_to_blame(job: Job) -> None:
    """A refusal that all ranks meet: each says so by itself, with its own exit code."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        go_on(watchdog, 0.3 * rank)
        watchdog.leave("diverged")
        sys.exit(2)

    job.start(body, timeout_seconds=4)
    assert job.ended(0, 1, 2) == ([2, 2, 2], "")
    assert job.incidents() == []


def test_explain_names_who_died_when_a_collective_raises(job: Job) -> None:
    """Long before the timeout; the line and the exit are the caller's."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        meet_by_gloo(rank, folder)
        dist.barrier()
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            dist.barrier()
        except RuntimeError:
            (folder / f"line{rank}").write_text(str(watchdog.explain(15)))
            watchdog.stop()
            sys.exit(7)

    job.start(body, timeout_seconds=3)
    assert job.ended(0, 1) == ([7, 7], "")
    message = job.incident("dead", [2], 0)
    assert [(job.folder / f"line{rank}").read_text() for rank in (0, 1)] == [message] * 2

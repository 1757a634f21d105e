"""The watchdog, with real processes: whoever dies, hangs or leaves is named once, and nobody waits for it for long."""

from __future__ import annotations

import ctypes
import datetime
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import ernie_m.watchdog
from ernie_m.console import EXIT_PEER_LOST, InputError
from ernie_m.heartbeat import Judge
from ernie_m.hostfile import free_port
from ernie_m.watchdog import Watchdog

WORLD = 3
LIMIT = 25  # seconds until a test gives up waiting
Body = Callable[[int, Watchdog, Path], object]


def until(*files: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"waited for {files}"
        time.sleep(0.01)


def go_on(watchdog: Watchdog, seconds: float = 1000) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watchdog.progress("step 7")
        time.sleep(0.01)


def meet_by_gloo(rank: int, folder: Path) -> None:
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=WORLD, timeout=limit)


class Job:
    """Ranks of one job, each a process on a host of its own name; `ended` waits for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.ranks: list[Any] = []

    def start(self, body: Body, world: int = WORLD, **settings: Any) -> None:
        """Returns when all ranks watch each other and enter `body`."""
        for rank in range(world):
            process = multiprocessing.get_context("fork").Process(target=self._be, args=(rank, body, world, settings))
            process.start()
            self.ranks.append(process)
        until(*(self.folder / f"up{rank}" for rank in range(world)))

    def _be(self, rank: int, body: Body, world: int, settings: dict[str, Any]) -> None:
        os.environ["ERNIE_M_HOST"] = f"node-{'abc'[rank]}"
        printed = os.open(self.folder / f"printed{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout = sys.stderr = os.fdopen(printed, "w")
        code: Any = 0
        try:
            watchdog = Watchdog(rank, world, "127.0.0.1", self.port, self.folder, job="test", **settings)
            (self.folder / f"up{rank}").touch()
            until(*(self.folder / f"up{rank}" for rank in range(world)))
            body(rank, watchdog, self.folder)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)

    def ended(self, *ranks: int) -> tuple[list[int], str]:
        """Exit codes of these ranks and what they printed, together."""
        for rank in ranks:
            self.ranks[rank].join(LIMIT)
        printed = "".join((self.folder / f"printed{rank}").read_text() for rank in ranks)
        return [self.ranks[rank].exitcode for rank in ranks], printed

    def incidents(self) -> list[dict]:
        file = self.folder / "incidents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def incident(self, kind: str, ranks: list[int], *seen_by: int) -> str:
        """The message of the only incident, which is this one."""
        incidents = self.incidents()
        assert [(found["kind"], found["ranks"]) for found in incidents] == [(kind, ranks)]
        assert incidents[0]["seen_by"] in seen_by
        assert incidents[0]["hosts"] == [f"node-{'abc'[rank]}" for rank in ranks]
        assert abs(incidents[0]["time"] - time.time()) < 60
        return str(incidents[0]["message"])


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[dict[int, Job]]:
    """Jobs that run at the same time, one for each rank that something happens to; what still lives at the end is killed."""
    jobs = {}
    for rank in (0, 2):
        (tmp_path / str(rank)).mkdir()
        jobs[rank] = Job(tmp_path / str(rank))
    yield jobs
    for job in jobs.values():
        for process in job.ranks:
            process.kill()
            process.join()


@pytest.fixture
def job(jobs: dict[int, Job]) -> Job:
    return jobs[0]


def seconds_in(message: str) -> int:
    return int(message.partition(" s (last: ")[0].rpartition(" ")[2])


def all_but(rank: int) -> list[int]:
    return [other for other in range(WORLD) if other != rank]


def test_a_killed_rank_is_named_once_and_all_others_end(jobs: dict[int, Job]) -> None:
    """Without rank 0 the others cannot agree on who speaks: the first does."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        def hook() -> None:
            (folder / f"hook{rank}").touch()
            raise ValueError("a hook that fails") if rank == 1 else SystemExit

        watchdog.before_exit = hook
        go_on(watchdog)

    for victim, job in jobs.items():
        job.start(body, timeout_seconds=3)
        job.ranks[victim].kill()
    for victim, job in jobs.items():
        others = all_but(victim)
        codes, printed = job.ended(*others)
        assert codes == [EXIT_PEER_LOST] * 2
        message = job.incident("dead", [victim], *others[: 1 if victim else 2])
        assert message.startswith(f"rank {victim} on host node-{'abc'[victim]} gave no sign of life for ")
        assert seconds_in(message) <= 3, "a connection that closes is worth more than silence"
        assert message.endswith("); this rank ends; restart with the same command, it goes on from the newest checkpoint")
        assert [line for line in printed.splitlines() if line.startswith("error: ")] == [f"error: {message}"]
        assert all((job.folder / f"hook{rank}").exists() for rank in others)


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
        with watchdog.patience(1000, "loading"):
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
    monkeypatch.setattr(ernie_m.watchdog, "LAST_WORDS_SECONDS", 1.5)  # the margin of that timer

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


def test_patience_prevents_a_false_alarm(job: Job) -> None:
    """One rank loads for longer than the hang timeout, and the others, out of patience, wait for it."""

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        with watchdog.patience(20, "loading"):
            if rank == 1:
                time.sleep(2.5)
                (folder / "loaded").touch()
        watchdog.progress("barrier")
        until(folder / "loaded")
        watchdog.stop()

    job.start(body, timeout_seconds=3, hang_timeout_seconds=1)
    assert job.ended(0, 1, 2) == ([0, 0, 0], "")
    assert job.incidents() == []


def test_patience_ends(job: Job) -> None:
    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        with watchdog.patience(1.2, "loading"):
            time.sleep(1000 if rank == 2 else 0)
        watchdog.progress("barrier")
        time.sleep(1000)

    job.start(body, timeout_seconds=3, hang_timeout_seconds=0.5)
    assert job.ended(0, 1, 2)[0] == [EXIT_PEER_LOST] * 3
    assert "(last: loading)" in job.incident("hung", [2], 0)


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


def post(rank: int, points: int, still: float, allowed: float = 100.0) -> dict[str, Any]:
    said = {"rank": rank, "host": "a", "beat": 1, "gone": None, "what": f"point {points}"}
    return said | {"points": points, "still": still, "allowed": allowed}


@pytest.mark.parametrize(
    ("waiter", "ranks"),
    [
        (post(1, 8, 60.0), [0]),  # it came to a stand later than the hung one
        (post(1, 8, 40.0), None),  # it still worked a while ago: perhaps nobody waits for rank 0
        (post(1, 8, 90.0, allowed=600.0), None),  # it may be what rank 0 waits for
        (post(1, 8, 601.0, allowed=600.0), [0]),
        (post(1, 7, 99.0), None),  # as far behind, and it may go on yet
        (post(1, 7, 100.0), [0, 1]),
    ],
)
def test_who_hangs_is_behind_and_all_wait_for_it(waiter: dict[str, Any], ranks: list[int] | None) -> None:
    table = {"posts": [post(0, 7, 100.0), waiter], "closed": [], "incident": None}
    incident = Judge(0, 2, beat=2.0, timeout=60.0, hang=100.0).hear(table, 2.0, in_a_hurry=False)
    assert (incident and incident["ranks"]) == ranks


def test_ranks_of_one_host_that_fall_silent_one_by_one_are_named_together() -> None:
    judge = Judge(0, 3, beat=2.0, timeout=60.0, hang=100.0)
    posts = [post(rank, 7, 0.0) for rank in range(3)]
    for second in range(0, 66, 2):
        posts[0]["beat"] += 1
        posts[2]["beat"] += second < 3
        incident = judge.hear({"posts": [dict(p) for p in posts], "closed": [], "incident": None}, 2.0, in_a_hurry=False)
        assert incident is None or (second >= 62 and incident["ranks"] == [1, 2])
    assert incident is not None


@pytest.mark.parametrize(("is_refused", "in_a_hurry", "seconds"), [(False, False, 70), (True, False, 16), (False, True, 16)])
def test_a_board_out_of_reach_is_the_fault_of_rank_0(is_refused: bool, in_a_hurry: bool, seconds: int) -> None:
    """After the timeout, and a while in which the others may say that it is this host that is cut off."""
    judge = Judge(1, 2, beat=2.0, timeout=60.0, hang=100.0)
    for second in range(2, seconds, 2):
        assert judge.miss(2.0, is_refused, in_a_hurry) is None, second
    incident = judge.miss(2.0, is_refused, in_a_hurry)
    assert incident is not None
    assert incident["ranks"] == [0]


def test_one_rank_alone_has_nobody_to_watch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the timer runs: set again and again, and taken away at the end."""
    monkeypatch.setattr(ernie_m.watchdog, "LAST_WORDS_SECONDS", 0.3)

    def body(rank: int, watchdog: Watchdog, folder: Path) -> None:
        time.sleep(1.2)
        assert watchdog.explain(1000) is None
        watchdog.stop()
        time.sleep(1.2)

    job.start(body, 1, timeout_seconds=0.5, hang_timeout_seconds=0.5)
    assert job.ended(0) == ([0], "")
    assert job.incidents() == []


@pytest.mark.parametrize("end", [lambda w: w.stop(), lambda w: w.leave("why not")])
def test_an_end_takes_the_watchdog_away_and_may_be_repeated(tmp_path: Path, end: Callable[[Watchdog], None]) -> None:
    watchdog = Watchdog(0, 1, "127.0.0.1", 0, tmp_path)
    end(watchdog)
    end(watchdog)
    assert not watchdog._thread.is_alive()


def test_meet_shares_the_place_that_rank_0_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    shared: list[Any] = []

    def share(value: Any) -> Any:
        shared.extend([value] if value is not None else [])
        return shared[0]

    first = Watchdog.meet(0, 2, tmp_path, share)
    second = Watchdog.meet(1, 2, tmp_path, share, timeout_seconds=50)
    assert second.port == first.port > 0
    second.stop()
    first.stop()


def test_a_board_out_of_reach_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot reach rank 0's watchdog at 127.0.0.1:\d+ .*; open the ports"):
        Watchdog(1, 2, "127.0.0.1", free_port(), tmp_path, timeout_seconds=0.5)


def test_a_stray_rank_of_another_job_is_turned_away(tmp_path: Path) -> None:
    first = Watchdog(0, 2, "127.0.0.1", 0, tmp_path, job="now", timeout_seconds=0.5, hang_timeout_seconds=99)
    with pytest.raises(InputError, match="the board closed the connection"):
        Watchdog(1, 2, "127.0.0.1", first.port, tmp_path, job="before", timeout_seconds=0.2)
    first.leave("the test is over")

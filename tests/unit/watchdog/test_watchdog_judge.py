"""Who is to blame follows from what the ranks last said; how a watchdog finds its board, and how it goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.hostfile import free_port
from ernie_m.training.heartbeat import Judge
from ernie_m.training.watchdog import Watchdog


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


@pytest.mark.parametrize("end", [lambda w: w.stop(), lambda w: w.leave("why not")])
def test_an_end_takes_the_watchdog_away_and_may_be_repeated(tmp_path: Path, end: Callable[[Watchdog], None]) -> None:
    watchdog = Watchdog(0, 1, "127.0.0.1", 0, tmp_path)
    end(watchdog)
    end(watchdog)
    assert not watchdog._thread.is_alive()

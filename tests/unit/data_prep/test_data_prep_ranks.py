"""Work is dealt out once, to everybody, and a failure ends it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep.launched_ranks import start_ranks
from data_prep.team import MOST_READ_AHEAD, PLACES_AHEAD, Team, shares, team_sizes
from data_prep.workers import Ranks
from ernie_m.base.console import InputError


def dealt(num_workers: int, work: Callable[[int], int], count: int = 50, in_memory: bool = False) -> list[tuple[int, int]]:
    """Deal numbers out to threads."""
    found: list[tuple[int, int]] = []
    with ThreadPoolExecutor(max(1, num_workers)) as executor:
        team: Team[int, int] = Team(0, 1, num_workers, executor if num_workers else None)
        team.deal_out(range(count), work, lambda item, result: found.append((item, result)), lambda item: in_memory)
    return found


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1, 2, 7])
def test_every_item_is_worked_on_once_and_reported(num_workers: int, in_memory: bool) -> None:
    found = dealt(num_workers, lambda item: item * item, in_memory=in_memory)
    assert sorted(found) == [(i, i * i) for i in range(50)]


def test_the_root_of_a_small_team_works_too() -> None:
    workers: set[int] = set()

    def work(item: int) -> int:
        workers.add(threading.get_ident())
        time.sleep(0.002)
        return item

    dealt(1, work, in_memory=True)
    assert len(workers) == 2
    assert threading.get_ident() in workers


def test_few_chunks_are_read_ahead_of_the_workers() -> None:
    read, done, most = 0, 0, 0

    def items() -> object:
        nonlocal read, most
        for item in range(60):
            read += 1
            most = max(most, read - done)
            yield item

    def finished(item: int, result: int) -> None:
        nonlocal done
        done += 1

    with ThreadPoolExecutor(20) as executor:
        team: Team[int, int] = Team(0, 1, 20, executor)
        team.deal_out(items(), lambda item: time.sleep(0.002) or item, finished, lambda item: True)  # type: ignore[arg-type]
    assert most <= MOST_READ_AHEAD + 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failure_is_raised_and_nothing_new_is_started(num_workers: int) -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        if item == 5:
            raise InputError("item 5")
        time.sleep(0.002)
        return item

    with pytest.raises(InputError, match="item 5"):
        dealt(num_workers, work, count=1000)
    assert len(started) < 30


def dying(team: Team[int, int]) -> None:
    team.deal_out(range(10), killed, lambda *_: None)


def killed(item: int) -> int:
    if multiprocessing.parent_process() is not None:  # the root lives on
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_worker_that_is_killed_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="a worker process has died"):
        Ranks(2).run_teams(dying)


def dying_late(team: Team[Path, Path], folder: Path) -> list[str]:
    """A worker dies when the root has taken back what it had not begun; what then befell threads."""
    fates: list[str] = []
    threading.excepthook = lambda raised: fates.append(f"{raised.exc_type.__name__} in {raised.thread}")
    try:
        team.deal_out([folder / str(number) for number in range(7)], killed_at_the_end, lambda *_: None)
    except InputError as error:
        fates.append(str(error))
    finally:
        threading.excepthook = threading.__excepthook__
    return fates


def killed_at_the_end(path: Path) -> Path:
    last = path.with_name("last")
    if multiprocessing.parent_process() is None:  # the root
        if path.name == str(PLACES_AHEAD - 1):  # which it had given away
            last.touch()
            time.sleep(0.5)
        return path
    while not last.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def test_a_worker_that_is_killed_when_others_work_was_taken_back_breaks_nothing_else(tmp_path: Path) -> None:
    ((message, *others),) = Ranks(2).run_teams(dying_late, tmp_path)
    assert "a worker process has died" in message
    assert others == []


def numbered(team: Team[int, int], offset: int) -> tuple[int, int, int]:
    return team.number + offset, team.num_teams, team.num_workers


def test_teams_are_as_equal_as_can_be_and_their_roots_answer_in_order() -> None:
    assert [team_sizes(n) for n in (1, 8, 9, 20, 64)] == [[1], [8], [5, 4], [7, 7, 6], [8] * 8]
    assert all(sum(team_sizes(n)) == n for n in range(1, 200))
    assert Ranks(9).run_teams(numbered, 100) == [(100, 2, 4), (101, 2, 3)]


def test_streams_are_shared_out_by_size() -> None:
    assert shares([5, 50, 20, 20, 10], 2) == [[1, 0], [2, 3, 4]]
    assert sorted(itertools.chain(*shares(list(range(40)), 7))) == list(range(40))


def test_workers_are_not_asked_for_inside_an_mpi_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_ranks(None).num_ranks == 1
    assert start_ranks(3).num_ranks == 3
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="--workers 3: Open MPI has already started 4 ranks"):
        start_ranks(3)

"""The processes that do the work: one, or N on this machine (--workers). For the ranks of an MPI job see mpi_ranks.py.

Ranks form teams of at most TEAM_SIZE. The first rank of a team, its root, reads streams and deals out tasks; the others take
them (team.py). One reader can feed about TEAM_SIZE ranks, and each team reads its own file without waiting for others.

Nothing that is written depends on any of this.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from data_prep.team import MemoryFile, Team, team_sizes
from ernie_m.base.console import InputError
from ernie_m.base.process_end import end_with_parent

TeamWork = Callable[..., Any]
"""(team, *arguments) -> a picklable result; runs on the root of each team."""


class Ranks:
    """All processes of this job; this class: one machine, `num_ranks` processes."""

    rank = 0

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._pool: ProcessPoolExecutor | None = None

    @contextmanager
    def prepared(self, prepare: Callable[[], Any]) -> Iterator[None]:
        """Within the block ranks other than the first are there, and have called `prepare` while the first did other things.

        Only the first rank reports what is wrong with the input.
        """
        sizes = team_sizes(self.num_ranks)
        if sizes[0] == 1:
            yield
            return
        with _pool_of(0, sizes, _cores_of(0, sizes), prepare) as pool:
            pool.submit(os.getpid)  # starts all of them
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None
                pool.shutdown(wait=False, cancel_futures=True)

    def run_teams(self, work: TeamWork, *arguments: Any) -> list[Any]:
        """Run `work` on the root of every team; the results, on rank 0 (elsewhere nothing)."""
        sizes = team_sizes(self.num_ranks)
        context = multiprocessing.get_context("spawn")  # no inherited locks, threads or handles
        others = []
        for number in range(1, len(sizes)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_team_process, args=(theirs, number, sizes, work, arguments))
            process.start()
            theirs.close()
            others.append((process, ours))
        try:
            results = [_run_team(0, sizes, work, arguments, self._pool)]
            for process, ours in others:
                results.append(ours.recv())
                process.join()
        except EOFError:
            raise InputError("a worker process has died; what is finished is kept: run the same command again") from None
        finally:
            for process, _ in others:
                process.kill()  # nothing, where it has ended
        return results

    def on_first(self, work: Callable[[], Any]) -> Any:
        """Run a function on rank 0 only; every rank gets its result. A failure ends all ranks, and rank 0 reports it."""
        error: InputError | OSError | None = None
        result = None
        if self.rank == 0:
            try:
                result = work()
            except (InputError, OSError) as caught:
                error = caught
        result, error = self._shared((result, error))
        if error is not None:
            if self.rank == 0:
                raise error
            raise SystemExit(2)
        return result

    def _shared(self, content: Any) -> Any:
        """Rank 0's value, on every rank."""
        return content


def _run_team(
    number: int, sizes: list[int], work: TeamWork, arguments: tuple[Any, ...], prepared: ProcessPoolExecutor | None = None
) -> Any:
    num_workers = sizes[number] - 1
    everywhere, cores = os.sched_getaffinity(0), _cores_of(number, sizes)
    try:
        _keep_to(cores, 0)
        if num_workers == 0:
            return work(Team(number, len(sizes), 0, None), *arguments)
        with nullcontext(prepared) if prepared else _pool_of(number, sizes, cores) as pool:
            return work(Team(number, len(sizes), num_workers, pool, shares_memory=MemoryFile.is_supported()), *arguments)
    finally:
        os.sched_setaffinity(0, everywhere)


def _cores_of(number: int, sizes: list[int]) -> list[int]:
    """The cores of a team if there are as many ranks as cores; else none, and the system decides."""
    everywhere = os.sched_getaffinity(0)
    return sorted(everywhere)[sum(sizes[:number]) :] if sum(sizes) == len(everywhere) > 1 else []


def _pool_of(
    number: int, sizes: list[int], cores: list[int], prepare: Callable[[], Any] | None = None
) -> ProcessPoolExecutor:
    num_workers = sizes[number] - 1
    context = multiprocessing.get_context("spawn")  # a fork would inherit whatever locks and threads there are
    begin = partial(_begin_worker, os.getpid(), cores, num_workers, prepare)
    return ProcessPoolExecutor(num_workers, mp_context=context, initializer=begin)


def _keep_to(cores: list[int], rank: int) -> None:
    """Bind this rank to its core if there are as many ranks as cores: ranks that are moved lose a tenth of their speed."""
    if cores:
        os.sched_setaffinity(0, {cores[rank]})


def _begin_worker(parent: int, cores: list[int], num_workers: int, prepare: Callable[[], Any] | None) -> None:
    _die_with_parent(parent)
    name = multiprocessing.current_process().name  # SpawnProcess-3, of a team's process SpawnProcess-1:3
    number = int(re.split("[-:]", name)[-1])  # consecutive among the workers of a pool
    _keep_to(cores, 1 + number % num_workers)
    if prepare is not None:
        prepare_quietly(prepare)


def prepare_quietly(prepare: Callable[[], Any]) -> None:
    """Call `prepare` on a rank that is not the first. Errors are ignored here: the first rank reports them."""
    with suppress(InputError, OSError):  # the first rank meets it too, and tells
        prepare()


def _team_process(pipe: Any, number: int, sizes: list[int], work: TeamWork, arguments: tuple[Any, ...]) -> None:
    _die_with_parent(os.getppid())
    pipe.send(_run_team(number, sizes, work, arguments))


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL; and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent, signal.SIGKILL)

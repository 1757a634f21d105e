"""How a team shares work: its root reads and hands out tasks, the others do them; a small team's root does tasks too.

1. A task is a chunk that the root has read, or a place in a file that the other process reads itself. Only a few tasks of
   the first kind exist at a time, because they are held in memory.
2. While its team is busy, the root of a small team does tasks itself; in a large team reading keeps it busy.
3. Tasks go through `concurrent.futures.Executor`: to processes of this machine (workers.py) or ranks of MPI (mpi_pool.py).

Nothing that is written depends on any of this.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, InvalidStateError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ernie_m.base.console import InputError

TEAM_SIZE = 8
MOST_READ_AHEAD = 8  # chunks in memory, for the team's workers to take
PLACES_AHEAD = 4  # a worker; some are done in a fifth of the time, with the root still at a long one of its own
LARGE_TEAM = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def team_sizes(num_ranks: int) -> list[int]:
    """As few teams as TEAM_SIZE allows, as equal in size as possible."""
    num_teams = -(-num_ranks // TEAM_SIZE)
    return [num_ranks // num_teams + (i < num_ranks % num_teams) for i in range(num_teams)]


def shares(sizes: list[int], num_teams: int) -> list[list[int]]:
    """Indices for each team: the largest first, each to the team that has the least so far."""
    loads: list[int] = [0] * num_teams
    owned: list[list[int]] = [[] for _ in range(num_teams)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        team = loads.index(min(loads))
        loads[team] += sizes[index]
        owned[team].append(index)
    return owned


@dataclass
class Team(Generic[Item, Result]):
    """The root's view of its team."""

    number: int
    num_teams: int
    num_workers: int
    """Beside the root."""
    executor: Executor | None
    shares_memory: bool = False
    """Whether all of it is on this machine, so that a chunk can be laid out for its worker and need not be sent."""

    def deal_out(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Result],
        finished: Callable[[Item, Result], None],
        is_in_memory: Callable[[Item], bool] = lambda item: False,
    ) -> None:
        """Have every item worked on by somebody; `finished` is called here, in the order of completion.

        The first exception of a worker is raised here, after which nothing new is started.
        """
        running: dict[Future[Result], Item] = {}
        memory_files: dict[Future[Result], MemoryFile] = {}

        def collect(futures: Iterable[Future[Result]]) -> None:
            for future in list(futures):
                if future in memory_files:
                    memory_files.pop(future).close()
                finished(running.pop(future), future.result())

        def submit(executor: Executor, item: Item, in_memory: bool) -> None:
            if in_memory and self.shares_memory:
                memory_file = MemoryFile(item)
                future = executor.submit(_unpacked, work, memory_file.path)
                memory_files[future] = memory_file
            else:
                future = executor.submit(work, item)
            future.set_exception = partial(_set_exception, future)  # type: ignore[method-assign]
            running[future] = item

        try:
            for item in items:
                collect(future for future in running if future.done())
                in_memory = is_in_memory(item)
                limit = self._most_running(in_memory)
                if len(running) >= limit > 0 and in_memory and self.num_workers >= LARGE_TEAM - 1:
                    collect(wait(running, return_when=FIRST_COMPLETED).done)
                if len(running) < limit and self.executor is not None:
                    submit(self.executor, item, in_memory)
                else:
                    finished(item, work(item))
                del item  # a chunk is large: not to be held while the next one is read
            while running:
                collect(future for future in running if future.done())
                waiting = next((future for future in reversed(running) if future.cancel()), None)
                if waiting is not None:  # nobody has taken it yet: do it here
                    item = running.pop(waiting)
                    finished(item, work(item))
                elif running:
                    collect(wait(running, return_when=FIRST_COMPLETED).done)
        except BrokenProcessPool:
            raise InputError(
                "a worker process has died (killed, or out of memory?); what is finished is kept: run the same command "
                "again, with fewer --workers if memory was short"
            ) from None
        finally:
            for future in running:
                future.cancel()
            for memory_file in memory_files.values():
                memory_file.close()

    def _most_running(self, in_memory: bool) -> int:
        """How many items may be with the workers at a time, waiting ones included."""
        if not self.num_workers:
            return 0
        return min(2 * self.num_workers + 1, MOST_READ_AHEAD) if in_memory else PLACES_AHEAD * self.num_workers


def _set_exception(future: Future[Any], error: BaseException | None) -> None:
    """`Future.set_exception` that ignores a cancelled future.

    When a pool breaks, Python 3.11 sets an exception on all its futures. At a cancelled one its thread would die: the other
    futures would never end, and the other processes would keep running.
    """
    with suppress(InvalidStateError):
        Future.set_exception(future, error)


class MemoryFile:
    """A large object for another process of this machine, in memory with a path; freed when the last process closes it.

    Through the executor's pipe it would go in parts of 64 KiB; each waits for the busy root while the worker is idle.
    """

    def __init__(self, content: object) -> None:
        self._memory = os.memfd_create("chunk")
        with open(self._memory, "wb", closefd=False) as file:
            pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)
        self.path = f"/proc/{os.getpid()}/fd/{self._memory}"

    @staticmethod
    def is_supported() -> bool:
        """Whether this system has such memory."""
        return hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._memory)


def _unpacked(work: Callable[[Any], Result], path: str) -> Result:
    with open(path, "rb") as file:
        content = pickle.load(file)  # of our own root
    return work(content)

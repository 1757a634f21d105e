"""Who does the work: one process, N on this machine (--workers), or the ranks of an MPI job. The engines are
`concurrent.futures` and its counterpart `mpi4py.futures`; here is only how work is dealt out to them.

1. Ranks form teams of at most TEAM_SIZE. The first rank of a team, its root, reads streams and deals out tasks; the others
   take them. One reader feeds about so many, and with a team a file the readers do not wait for each other.
2. A task is a chunk that the root has read, or a place in a file that the taker reads itself. Of the former only a few are
   under way at once, since they are held in memory.
3. While its team is busy, the root of a small team works too; of a large one it has enough to do with reading.

Nothing that is written depends on any of this.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ernie_m.console import InputError

TEAM_SIZE = 8
MOST_READ_AHEAD = 8  # chunks in memory, for the team's workers to take
LARGE_TEAM = 4
MPI_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        parcels: dict[Future[Result], Parcel] = {}

        def collect(futures: Iterable[Future[Result]]) -> None:
            for future in list(futures):
                if future in parcels:
                    parcels.pop(future).close()
                finished(running.pop(future), future.result())

        def submit(executor: Executor, item: Item, in_memory: bool) -> None:
            if in_memory and self.shares_memory:
                parcel = Parcel(item)
                future = executor.submit(_unpacked, work, parcel.path)
                parcels[future] = parcel
            else:
                future = executor.submit(work, item)
            running[future] = item

        try:
            for item in items:
                collect(future for future in running if future.done())
                in_memory = is_in_memory(item)
                limit = 2 * self.num_workers + 1 if self.num_workers else 0  # they go on while the root is at work itself
                limit = min(limit, MOST_READ_AHEAD) if in_memory else limit
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
            for parcel in parcels.values():
                parcel.close()


class Parcel:
    """A large object for another process of this machine, in memory that has a path; gone when the last process closes it.

    Through the executor's pipe it would go in 64 KiB pieces, each of which waits for the busy root, with the worker idle.
    """

    def __init__(self, content: object) -> None:
        self._memory = os.memfd_create("chunk")
        with open(self._memory, "wb", closefd=False) as file:
            pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)
        self.path = f"/proc/{os.getpid()}/fd/{self._memory}"

    def close(self) -> None:
        """Let go of it."""
        os.close(self._memory)


def _unpacked(work: Callable[[Any], Result], path: str) -> Result:
    with open(path, "rb") as file:
        content = pickle.load(file)  # of our own root
    return work(content)


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

        What is wrong with the input is for the first one to tell.
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
        """Do something on rank 0 alone; every rank gets the result. A failure ends all ranks, and rank 0 tells it."""
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
        """What rank 0 holds, on every rank."""
        return content


class MpiRanks(Ranks):
    """The ranks of an MPI job."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except ImportError:
            raise InputError("started by mpirun, but mpi4py is missing: pip install mpi4py (or use --workers N)") from None
        self.communicator = MPI.COMM_WORLD
        self.rank = self.communicator.Get_rank()
        super().__init__(self.communicator.Get_size())

    @contextmanager
    def prepared(self, prepare: Callable[[], Any]) -> Iterator[None]:
        if self.rank != 0:
            _prepare(prepare)
        yield

    def run_teams(self, work: TeamWork, *arguments: Any) -> list[Any]:
        from mpi4py.futures import MPICommExecutor

        sizes = team_sizes(self.num_ranks)
        number = next(i for i in range(len(sizes)) if self.rank < sum(sizes[: i + 1]))
        communicator: Any = self.communicator.Split(number, self.rank)
        result = None
        is_root = communicator.Get_rank() == 0
        engine: Any = MPICommExecutor(communicator, root=0) if sizes[number] > 1 else nullcontext()
        with engine as executor:
            if is_root:
                result = work(Team(number, len(sizes), sizes[number] - 1, executor), *arguments)
        communicator.Free()
        gathered = self.communicator.gather((is_root, result), root=0) or []
        return [found for was_root, found in gathered if was_root]

    def _shared(self, content: Any) -> Any:
        return self.communicator.bcast(content, root=0)


def start_ranks(num_workers: int | None) -> Ranks:
    """The ranks of the MPI job that this process is part of, else `num_workers` (default 1) processes of this machine."""
    mpi_size = max(int(os.environ.get(name, "1")) for name in MPI_SIZE_VARIABLES)
    if mpi_size > 1:
        if num_workers is not None:
            raise InputError(f"--workers {num_workers}: mpirun has already started {mpi_size} ranks; leave --workers out")
        return MpiRanks()
    return Ranks(num_workers or 1)


def team_sizes(num_ranks: int) -> list[int]:
    """As few teams as TEAM_SIZE allows, as equal as can be."""
    num_teams = -(-num_ranks // TEAM_SIZE)
    return [num_ranks // num_teams + (i < num_ranks % num_teams) for i in range(num_teams)]


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
            shares_memory = hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd")
            return work(Team(number, len(sizes), num_workers, pool, shares_memory), *arguments)
    finally:
        os.sched_setaffinity(0, everywhere)


def _cores_of(number: int, sizes: list[int]) -> list[int]:
    """The cores of a team, where there are as many ranks as cores; else none, and the system decides."""
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
    """Where there are as many ranks as cores each keeps to its own: moved about they lose a tenth of their speed."""
    if cores:
        os.sched_setaffinity(0, {cores[rank]})


def _begin_worker(parent: int, cores: list[int], num_workers: int, prepare: Callable[[], Any] | None) -> None:
    _die_with_parent(parent)
    name = multiprocessing.current_process().name  # SpawnProcess-3, of a team's process SpawnProcess-1:3
    number = int(re.split("[-:]", name)[-1])  # consecutive among the workers of a pool
    _keep_to(cores, 1 + number % num_workers)
    if prepare is not None:
        _prepare(prepare)


def _prepare(prepare: Callable[[], Any]) -> None:
    with suppress(InputError, OSError):  # the first rank meets it too, and tells
        prepare()


def _team_process(pipe: Any, number: int, sizes: list[int], work: TeamWork, arguments: tuple[Any, ...]) -> None:
    _die_with_parent(os.getppid())
    pipe.send(_run_team(number, sizes, work, arguments))


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL; and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

"""The ranks of an MPI job, on one host or on many."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from data_prep.mpi_pool import MpiPool, serve
from data_prep.team import MemoryFile, Team, team_sizes
from data_prep.workers import Ranks, TeamWork, prepare_quietly
from ernie_m.base.console import InputError


class MpiRanks(Ranks):
    """The ranks of the MPI job that this process is part of."""

    def __init__(self) -> None:
        # Open MPI's remote memory access over libfabric is not used here, and looking for its networks takes a second.
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")
        try:
            from mpi4py import MPI
        except ImportError:
            raise InputError("started by mpirun, but mpi4py is missing: pip install mpi4py (or use --workers N)") from None
        self.communicator = MPI.COMM_WORLD
        self.rank = self.communicator.Get_rank()
        super().__init__(self.communicator.Get_size())
        sys.excepthook = self._abort  # a rank that leaves by itself waits for the others, which wait for it

    @contextmanager
    def prepared(self, prepare: Callable[[], Any]) -> Iterator[None]:
        if self.rank != 0:
            prepare_quietly(prepare)
        yield

    def run_teams(self, work: TeamWork, *arguments: Any) -> list[Any]:
        sizes = team_sizes(self.num_ranks)
        number = next(i for i in range(len(sizes)) if self.rank < sum(sizes[: i + 1]))
        communicator: Any = self.communicator.Split(number, self.rank)
        is_root = communicator.Get_rank() == 0
        result, error = None, None
        try:
            if sizes[number] == 1:
                result = work(Team(number, len(sizes), 0, None), *arguments)
            else:
                shares_memory = share_memory(communicator)
                if is_root:
                    with MpiPool(communicator) as pool:
                        result = work(Team(number, len(sizes), sizes[number] - 1, pool, shares_memory), *arguments)
                else:
                    serve(communicator)
        except (InputError, OSError) as caught:
            error = caught
        communicator.Free()
        gathered = self.communicator.gather((is_root, result, error), root=0) or []

        def raise_first() -> None:
            for _, _, error in gathered:
                if error is not None:
                    raise error

        self.on_first(raise_first)
        return [found for was_root, found, _ in gathered if was_root]

    def _shared(self, content: Any) -> Any:
        return self.communicator.bcast(content, root=0)

    def _abort(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        self.communicator.Abort(1)


def share_memory(communicator: Any) -> bool:
    """Whether all ranks can open a memory file of the first one: they are on one host and see the same /proc."""
    from mpi4py import MPI

    host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    is_one_host = host.Get_size() == communicator.Get_size()
    host.Free()
    if not communicator.allreduce(is_one_host and MemoryFile.is_supported(), MPI.LAND):
        return False
    token = communicator.bcast(os.urandom(16), root=0)
    memory_file = MemoryFile(token) if communicator.Get_rank() == 0 else None
    path = communicator.bcast(memory_file.path if memory_file else None, root=0)
    can_open = False
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # elsewhere it may be anybody's pipe
        with suppress(OSError):
            can_open = os.pread(file, 1000, 0) == pickle.dumps(token, pickle.HIGHEST_PROTOCOL)
        os.close(file)
    can_open = communicator.allreduce(can_open, MPI.LAND)
    if memory_file:
        memory_file.close()
    return can_open

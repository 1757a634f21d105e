"""The ranks of a data_prep command: those of the MPI job that it belongs to, or processes that it starts."""

from __future__ import annotations

import os

from data_prep.mpi_ranks import MpiRanks
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.base.launchers import launcher_of


def start_ranks(num_workers: int | None) -> Ranks:
    """The ranks of the MPI job that this process is part of, else `num_workers` (default 1) processes of this machine.

    Raises InputError when a launcher started several processes without MPI: each would do all the work.
    """
    started, by = _started()
    if started == 1:
        return Ranks(num_workers or 1)
    if num_workers is not None:
        raise InputError(f"--workers {num_workers}: {by} has already started {started} ranks; leave --workers out")
    ranks = MpiRanks()
    if ranks.num_ranks != started:
        raise InputError(
            f"{by} has started {started} processes, of which MPI sees {ranks.num_ranks}; start them with mpirun -n {started}"
            " or with srun --mpi=pmix where Slurm's MPI and mpi4py's agree; on one machine --workers N needs neither"
        )
    return ranks


def _started() -> tuple[int, str]:
    """How many processes were started together, and by what; 1 for a process alone."""
    launcher = launcher_of(os.environ)
    said = next((os.environ[name] for name in launcher.world_size if name in os.environ), "1") if launcher else "1"
    return (int(said) if said.isdecimal() else 1), (launcher.name if launcher else "")

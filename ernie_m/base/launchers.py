"""The environment variables by which launchers tell a process its rank: the only list of them.

The order matters: an inner launcher stands before the outer one that may have started it. So deepspeed and torchrun stand
before MPI, and srun is last: its variables do not know of ranks that another launcher started inside its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """The variables of a launcher. Where a number has several names, the first one that is set counts.

    `sign` is a variable that only this launcher sets, where others use the same names for the rest. `brings` says how its
    processes find each other: "address" by MASTER_ADDR and MASTER_PORT, "mpi" by asking MPI, "nothing" not at all.
    """

    name: str
    rank: str
    world_size: tuple[str, ...]
    local_rank: tuple[str, ...]
    local_world_size: tuple[str, ...]
    brings: str
    sign: str = ""


LAUNCHERS = (
    Launcher("torchrun", "RANK", ("WORLD_SIZE",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",), "address", "TORCHELASTIC_RUN_ID"),
    Launcher("deepspeed", "RANK", ("WORLD_SIZE",), ("LOCAL_RANK",), ("LOCAL_SIZE",), "address", "LOCAL_SIZE"),
    Launcher("RANK and WORLD_SIZE", "RANK", ("WORLD_SIZE",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",), "address"),
    Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        "mpi",
    ),
    Launcher(
        "MVAPICH",
        "MV2_COMM_WORLD_RANK",
        ("MV2_COMM_WORLD_SIZE",),
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
        "mpi",
    ),
    Launcher(  # MPICH and Intel MPI; of Cray (PALS) with names of its own for what is local
        "Hydra",
        "PMI_RANK",
        ("PMI_SIZE",),
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE"),
        "mpi",
    ),
    Launcher(
        "srun",
        "SLURM_PROCID",
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
        ("SLURM_LOCALID",),
        ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
        "nothing",
    ),
)
SRUN = LAUNCHERS[-1]


def launcher_of(environment: Mapping[str, str]) -> Launcher | None:
    """The first launcher of the list whose rank variable is set; None for a process that was started alone."""
    there = (launcher for launcher in LAUNCHERS if launcher.rank in environment)
    return next((launcher for launcher in there if not launcher.sign or launcher.sign in environment), None)


def rank_of(environment: Mapping[str, str]) -> int:
    """The rank alone, for messages: 0 where it is not known. Never raises."""
    launcher = launcher_of(environment)
    return _known(environment, (launcher.rank,) if launcher else ())


def local_rank_of(environment: Mapping[str, str]) -> int:
    """The same among the ranks of this host."""
    launcher = launcher_of(environment)
    return _known(environment, launcher.local_rank if launcher else ())


def _known(environment: Mapping[str, str], names: tuple[str, ...]) -> int:
    said = next((environment[name] for name in names if name in environment), "")
    return int(said) if said.isdecimal() else 0

"""Which rank this process is, and of how many, on this host and altogether: from the variables that its launcher set.

ernie_m.base.launchers lists the variables; the first launcher of that list whose rank is set counts.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ernie_m.base.console import InputError
from ernie_m.base.launchers import SRUN, Launcher, launcher_of

MOST_PORT = 65_535
_EACH_HOST = re.compile(r"(\d+)(?:\(x\d+\))?")  # Slurm's tasks of each host, where all have as many: 8 or 8(x4)


@dataclass(frozen=True)
class RankFacts:
    """One process among those of its job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the ranks of its host: which of its devices it takes."""
    local_world_size: int | None = 1
    """Ranks on its host; None where the launcher does not say (ernie_m.runs.ranks then counts them)."""
    launcher: Launcher | None = None
    """None: a process alone."""

    def environment(self) -> dict[str, str]:
        """The same under torch's variable names, which DeepSpeed reads."""
        numbers = {"RANK": self.rank, "WORLD_SIZE": self.world_size, "LOCAL_RANK": self.local_rank}
        return {name: str(number) for name, number in numbers.items()}


def rank_facts(environment: Mapping[str, str]) -> RankFacts:
    """What the launcher said; raises InputError where some of its variables are missing."""
    launcher = launcher_of(environment)
    if launcher is None:
        return RankFacts()
    rank = _number(environment, launcher.rank)
    world_size = _required(environment, launcher, launcher.world_size)
    if not 0 <= rank < world_size:
        expected = f"expected 0 .. {world_size - 1}" if world_size else "expected 1 at least"
        raise InputError(f"{launcher.rank}={rank} of {world_size} ranks: {expected}", only_here=True)
    if world_size == 1:
        return RankFacts(launcher=launcher)
    local_rank = _required(environment, launcher, launcher.local_rank)
    return RankFacts(rank, world_size, local_rank, _tasks_here(environment, launcher), launcher)


def check_meeting(facts: RankFacts, environment: Mapping[str, str]) -> None:
    """Raise InputError, with a command that helps, when several processes were started but have no address to meet at."""
    if facts.launcher is None or facts.world_size == 1:
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    port = environment.get("MASTER_PORT") or "1"
    if not (port.isdecimal() and 1 <= int(port[:9]) <= MOST_PORT):
        raise InputError(f"MASTER_PORT={port[:80]!r}: expected a port from 1 to {MOST_PORT}, the same for all ranks")
    if not missing or facts.launcher.brings == "mpi":
        return
    what = f"{facts.launcher.name} says that this is one of {facts.world_size} ranks, but not where they meet"
    if facts.launcher is not SRUN:
        raise InputError(f"{what} ({missing[0]} is not set); start with deepspeed or torchrun, which say it")
    raise InputError(f"{what}; {command_that_works(facts, environment)}")


def command_that_works(facts: RankFacts, environment: Mapping[str, str]) -> str:
    """In words: how to start this program again so that its ranks meet, under the launcher that started it."""
    num_tasks = next((_number(environment, name, 0) for name in SRUN.world_size if name in environment), 0)
    if (_number(environment, SRUN.rank, -1), num_tasks) != (facts.rank, facts.world_size):
        return "start with torchrun"
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)"'
    address = "127.0.0.1" if _number(environment, "SLURM_NNODES", 0) == 1 else first
    port = 20_000 + _number(environment, "SLURM_JOB_ID", 0) % 10_000
    again = f"srun -n {facts.world_size} python {shlex.join(sys.argv)}"
    return f"this works: MASTER_ADDR={address} MASTER_PORT={port} {again} (docs/operations.md: torchrun)"


def _required(environment: Mapping[str, str], launcher: Launcher, names: tuple[str, ...]) -> int:
    name = next((name for name in names if name in environment), None)
    if name is None:
        way_out = f"start with deepspeed or torchrun, or unset {launcher.rank} to run as one process"
        raise InputError(f"{launcher.rank} is set, but not {' or '.join(names)}: half of what a launcher says; {way_out}")
    return _number(environment, name)


def _tasks_here(environment: Mapping[str, str], launcher: Launcher) -> int | None:
    for name in launcher.local_world_size:
        if found := _EACH_HOST.fullmatch(environment.get(name, "")):
            return int(found[1])
    return None


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    said = environment.get(name, "")
    if said.isdecimal():
        return int(said)
    if otherwise is not None:
        return otherwise
    raise InputError(f"{name}={said!r}: expected a whole number, as a launcher sets it")

"""`mpirun -n N python mpi_pool_worker.py SCENARIO FOLDER`: ranks that use a pool, or fail; the root prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from data_prep import mpi_ranks, team
from data_prep.mpi_pool import MpiPool, serve
from data_prep.mpi_ranks import MpiRanks
from data_prep.team import Team
from ernie_m.base.console import InputError, run_cleanly

PATIENCE = 20.0  # seconds; only a failing test waits so long
RANKS = MpiRanks()
COMMUNICATOR = RANKS.communicator.Split(0, RANKS.rank)


def squared(number: int) -> tuple[int, int]:
    return number * number, RANKS.rank


def is_next_one_here(number: int) -> bool:
    """Whether a task comes while this one is worked on."""
    return happens(lambda: bool(COMMUNICATOR.iprobe(0)), PATIENCE if number < 2 else 0)


def held_up(folder: str, number: int) -> int:
    assert happens((Path(folder) / "go").exists, PATIENCE)
    return number


def refused(number: int) -> int:
    if number == 1:
        raise InputError("item 1 is no good")
    return number


def happens(what: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def pooled(folder: str) -> dict[str, Any]:
    """What the root finds out about its pool."""
    found: dict[str, Any] = {}
    with MpiPool(COMMUNICATOR) as pool:
        found["squares"] = [future.result() for future in [pool.submit(squared, n) for n in range(50)]]
        found["dealt, True"] = dealt(Team(0, 1, 2, pool, shares_memory=True))
        with patch.object(team, "MemoryFile", None):  # not to be used
            found["dealt, False"] = dealt(Team(0, 1, 2, pool, shares_memory=False))
        futures = [pool.submit(is_next_one_here, n) for n in range(4)]
        busy_until = time.monotonic() + 0.2
        while time.monotonic() < busy_until:  # a root that converts
            pass
        found["next one here"] = [future.result() for future in futures[:2]]
        futures = [pool.submit(held_up, folder, n) for n in range(10)]
        assert happens(lambda: sum(future.running() for future in futures) == 4, PATIENCE)
        found["cancelled"] = [future.cancel() for future in futures]
        (Path(folder) / "go").touch()
        futures = [pool.submit(refused, n) for n in range(4)]
    found["refused"] = [[str(error), *error.__notes__] if (error := f.exception()) else f.result() for f in futures]
    try:
        pool.submit(squared, 1)
    except RuntimeError as error:
        found["closed"] = str(error)
    return found


def dealt(hands: Team[bytes, int]) -> list[int]:
    """Chunks of a megabyte, in memory."""
    lengths: list[int] = []
    hands.deal_out((bytes(1_000_000 + n) for n in range(20)), len, lambda _, found: lengths.append(found), lambda _: True)
    return sorted(length - 1_000_000 for length in lengths)


def broken(hands: Team[Any, Any], kind: str) -> None:
    """Work on the root of a team that fails."""
    if hands.number == hands.num_teams - 1:
        raise InputError("the corpus is no good") if kind == "input" else ZeroDivisionError("ours")


def main() -> None:
    scenario, folder = sys.argv[1:]
    if scenario == "pool":
        if RANKS.rank == 0:
            print(json.dumps(pooled(folder)))
        else:
            serve(COMMUNICATOR)
    elif scenario == "memory":
        together = mpi_ranks.share_memory(COMMUNICATOR)
        if RANKS.rank == 1:
            with patch.object(os, "open", side_effect=OSError("another world")):
                apart = mpi_ranks.share_memory(COMMUNICATOR)
        else:
            apart = mpi_ranks.share_memory(COMMUNICATOR)
        everywhere = COMMUNICATOR.gather([together, apart], root=0)
        if RANKS.rank == 0:
            print(json.dumps(everywhere))
    else:
        run_cleanly(lambda: RANKS.run_teams(broken, scenario))


if __name__ == "__main__":
    main()

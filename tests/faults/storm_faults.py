"""The table of the storm: name of a fault -> (what is done, how it is done and what is promised).

The faults are in storm_of_processes, storm_of_data, storm_of_runs and storm_of_run_files; the machinery is in storm.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.storm import AT, NUM_STEPS, Outcome, Storm

Act = Callable[[Storm], Outcome]
FAULTS: dict[str, tuple[str, Act]] = {}
SLOW = {"do": "sleep", "in": "micro-batch", "step": AT, "until": NUM_STEPS, "argument": 0.3}
"""Leaves the time to strike while it trains."""
NEWEST = f"checkpoints/step_{AT:08d}"


def fault(name: str, what: str) -> Callable[[Act], Act]:
    """Put a fault into the table."""

    def add(act: Act) -> Act:
        FAULTS[name] = (what, act)
        return act

    return add


def at_work(storm: Storm, where: Path | None = None, **how: object) -> Job:
    """A job that has made a step and makes more."""
    job = storm.start(where or storm.cut(), faults=[SLOW], **how)  # type: ignore[arg-type]
    job.goes_on()
    return job


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0x41
    path.write_bytes(content)


def first_shard(data: Path) -> Path:
    return min((data / "shards").rglob("train-*.arrow"))

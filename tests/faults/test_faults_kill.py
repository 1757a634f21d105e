"""kill -9 at random moments: the run resumes from a verified checkpoint and ends with the bit-identical loss log."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.runs.checkpoint import committed_folders, verify
from tests.faults.conftest import NUM_STEPS
from tests.faults.jobs import Job, Starter, verified_steps
from tests.integration.test_training import losses

pytestmark = pytest.mark.faults

VICTIMS = ("rank 0", "rank 1", "all")
MOMENTS = ("starting", "training", "saving")


def kills(draw: random.Random) -> list[tuple[str, str]]:
    """Every moment with every victim twice, and each victim once more while it saves: 21, in random order."""
    every = [(moment, victim) for moment in MOMENTS for victim in VICTIMS]
    planned = every * 2 + [("saving", victim) for victim in VICTIMS]
    draw.shuffle(planned)
    return planned


def is_saving(job: Job) -> bool:
    return any((job.run / "checkpoints").glob("step_*.tmp"))


def wait_for_the_moment(job: Job, moment: str, draw: random.Random) -> float | None:
    """Returns at a random point of `moment`; the seconds to the first step if one was made."""
    if moment == "starting":
        job.until(lambda: len(job.ranks()) == 2, "its ranks")
        time.sleep(draw.uniform(0, 3.5))
        return None
    seconds = job.goes_on()
    if moment == "saving":
        job.until(lambda: is_saving(job), "a checkpoint")
        time.sleep(draw.uniform(0, 0.005))
        return seconds
    target = job.last_step + draw.randint(0, 1)
    job.until(lambda: job.last_step >= target, f"step {target}")
    time.sleep(draw.uniform(0, 0.05))
    return seconds


def test_after_21_kills_at_random_moments_the_loss_log_is_bit_identical(
    starter: Starter, undisturbed_pair: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    draw, run, left_aside = random.Random(0), tmp_path / "run", 0
    pending: list[tuple[str, int]] = []  # kills that no start has recovered from yet: what was hit, the steps it had made

    def recovered(job: Job, seconds: float | None) -> None:
        for number, (fault, steps) in enumerate(pending, 1):
            is_last = number == len(pending)
            record(f"kill -9 of {fault}", max(0, steps - (job.first_step or 0)), seconds if is_last else None)
        pending.clear()

    for moment, victim in kills(draw):
        job = starter.start(run, num_ranks=2)
        seconds = wait_for_the_moment(job, moment, draw)
        job.kill(victim)
        left_aside += is_saving(job)
        job.end()
        assert not (run / "COMPLETE").exists(), "make the run longer: it must outlive all kills"
        assert "Traceback" not in job.text, job.text
        newest = [verify(folder).step for folder in committed_folders(run / "checkpoints")[:1]]
        assert newest <= [job.last_step]
        if job.first_step is not None:
            recovered(job, seconds)
        made = job.last_step if job.first_step is not None else max(newest, default=0)
        pending.append((f"{victim} while {moment}", made))
    assert left_aside >= 3, "too few kills in the middle of saving"
    job = starter.start(run, num_ranks=2)
    recovered(job, job.goes_on())
    assert job.end() == 0, job.text
    assert (run / "COMPLETE").is_file()
    assert losses(run) == losses(undisturbed_pair)
    assert len(losses(run)) == NUM_STEPS
    assert verified_steps(run) == [NUM_STEPS, NUM_STEPS - 2, NUM_STEPS - 4]
    assert not is_saving(job)

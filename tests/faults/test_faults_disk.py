"""A full disk: the older checkpoint stays, the training goes on with an alarm, the next save with room succeeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.runs.metrics import read_metrics
from tests.faults.conftest import NUM_STEPS
from tests.faults.faulty_pretrain import fill
from tests.faults.jobs import Fault, Starter, cut_short, verified_steps
from tests.integration.test_training import losses

pytestmark = pytest.mark.faults

BEGIN, FULL, FREED = 30, 34, 38
"""Steps made before; the disk is full from the first micro-batch of step FULL to that of step FREED."""


def failed_saves(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run) if "save_failed" in line]


def alarms(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("alarm: ")]


def full(disk: Path, freed: int) -> list[Fault]:
    """The disk is full from step FULL to step `freed`, whatever is deleted on it meanwhile."""
    place = {"in": "micro-batch", "rank": 0, "argument": str(disk)}
    return [{"do": "fill", "step": FULL, "until": freed, **place}, {"do": "free", "step": freed, **place}]


def test_the_disk_of_one_rank_and_then_of_all_fills_up_and_the_training_goes_on(
    starter: Starter, undisturbed_pair: Path, small_disk: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = cut_short(undisturbed_pair, tmp_path / "run", BEGIN, small_disk / "checkpoints", kept=2)
    rank_1 = {"do": "limit", "in": "micro-batch", "rank": 1}  # its files may not grow as large as its part is
    one = [{**rank_1, "step": BEGIN + 1, "argument": 200_000}, {**rank_1, "step": FULL - 1, "argument": -1}]
    code, job = starter.finish(run, num_ranks=2, faults=[*one, *full(small_disk, FREED)])
    assert code == 0, job.text
    assert job.first_step == BEGIN
    failed = failed_saves(run)
    assert BEGIN + 2 in failed, "rank 1 alone"
    assert set(failed) & {FULL + 2, FREED}, "all ranks"
    assert set(failed) <= set(range(BEGIN + 2, FREED + 1))
    assert "File too large" in job.text
    assert "No space left on device" in job.text
    assert len(alarms(job.text)) == len(failed)
    assert all("the older ones stay" in line for line in alarms(job.text))
    assert verified_steps(run)[0] == NUM_STEPS
    assert not list((run / "checkpoints").glob("step_*.tmp"))
    assert losses(run) == losses(undisturbed_pair)
    record("disk full on one rank, then on all", 0)


def test_a_disk_that_is_full_at_the_last_save_is_one_clear_line_and_the_run_can_be_resumed(
    starter: Starter, undisturbed: Path, small_disk: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = cut_short(undisturbed, tmp_path / "run", BEGIN, small_disk / "checkpoints", kept=2)
    code, job = starter.finish(run, faults=full(small_disk, freed=NUM_STEPS))
    assert code != 0
    (line,) = job.errors
    assert "No space left on device" in line
    assert "Traceback" not in job.text
    assert not (run / "COMPLETE").exists()
    newest = verified_steps(run)[0]
    assert FULL - 2 <= newest <= FULL + 1
    (small_disk / "ballast").unlink()
    job = starter.start(run)
    record("disk full to the end", NUM_STEPS - newest, job.goes_on())
    assert job.end() == 0, job.text
    assert job.first_step == newest
    assert losses(run) == losses(undisturbed)


def test_a_run_folder_that_is_full_as_a_whole_keeps_no_training_from_going_on(
    starter: Starter, undisturbed: Path, small_disk: Path
) -> None:
    run = cut_short(undisturbed, small_disk / "run", BEGIN, kept=2)
    code, job = starter.finish(run, faults=full(small_disk, FREED))
    assert code == 0, job.text
    assert "No space left on device" in "".join(alarms(job.text))
    assert verified_steps(run)[0] == NUM_STEPS
    assert losses(run) == losses(undisturbed)


def test_a_start_on_a_full_disk_is_refused_by_one_line_of_all_ranks(
    starter: Starter, undisturbed_pair: Path, small_disk: Path
) -> None:
    run = cut_short(undisturbed_pair, small_disk / "run", BEGIN, kept=1)
    fill(str(small_disk))
    code, job = starter.finish(run, num_ranks=2)
    assert code != 0
    (line,) = job.errors
    assert "config.yaml: No space left on device" in line
    assert "Traceback" not in job.text
    assert verified_steps(run) == [BEGIN]

"""Damaged and foreign files: a run goes on from the newest whole checkpoint of its own and says so, or refuses loudly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import NUM_STEPS
from tests.faults.jobs import Job, Starter, cut_short, verified_steps
from tests.integration.test_training import losses

pytestmark = pytest.mark.faults

AT = 36


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def rank_file(run: Path, step: int) -> Path:
    (path,) = checkpoint(run, step).glob("rank_*.safetensors")
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def alter_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def goes_on_from(job: Job, step: int, undisturbed: Path) -> float:
    """The job goes on from `step` and ends as the undisturbed one; returns the seconds to its first step."""
    seconds = job.goes_on()
    assert job.end() == 0, job.text
    assert job.first_step == step, job.text
    assert losses(job.run) == losses(undisturbed)
    assert verified_steps(job.run)[0] == NUM_STEPS
    return seconds


def refused(starter: Starter, run: Path) -> str:
    """Starts a job that is refused by one line, which is returned; nothing of the run is touched."""
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    code, job = starter.finish(run)
    assert code == 2, job.text
    assert "Traceback" not in job.text
    (line,) = job.errors
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before
    return line


def test_truncated_and_altered_checkpoints_are_named_and_passed_over_and_latest_does_not_matter(
    starter: Starter, undisturbed: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = cut_short(undisturbed, tmp_path / "run", AT)
    truncate(rank_file(run, AT))
    flip_a_bit(rank_file(run, AT - 2))
    alter_manifest(checkpoint(run, AT - 4), step=AT)
    alter_manifest(checkpoint(run, AT - 6), format="the checkpoint of another project")
    assert not (run / "checkpoints" / "latest").exists(), "deleted, or never copied"
    job = starter.start(run)
    record("4 damaged checkpoints, latest deleted", 8, goes_on_from(job, AT - 8, undisturbed))
    lines = [line for line in job.text.splitlines() if "trying the one before" in line]
    complaints = ("bytes instead of", "hash", "altered since it was written", "not a manifest of ernie-m checkpoint")
    for line, complaint, step in zip(lines, complaints, range(AT, AT - 8, -2), strict=True):
        assert complaint in line
        assert f"step_{step:08d}" in line


def test_the_checkpoint_of_another_run_is_passed_over(
    starter: Starter, undisturbed: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """Another seed, everything else alike: it would load without a murmur."""
    other = tmp_path / "other"
    stop = {"do": "SIGTERM", "in": "micro-batch", "step": 1}
    assert starter.finish(other, "seed=6", faults=[stop])[0] == 75
    (foreign,) = (other / "checkpoints").glob("step_*")
    run = cut_short(undisturbed, tmp_path / "run", AT)
    shutil.copytree(foreign, checkpoint(run, AT + 1))
    job = starter.start(run)
    record("another run's checkpoint", 0, goes_on_from(job, AT, undisturbed))
    assert f"step_{AT + 1:08d}" in job.text
    assert "belongs to another run" in job.text
    only_foreign = cut_short(undisturbed, tmp_path / "only", 0)
    shutil.copytree(foreign, checkpoint(only_foreign, AT))
    assert "none of them whole" in refused(starter, only_foreign)


def test_a_run_without_one_whole_checkpoint_refuses_to_start_over_silently(
    starter: Starter, undisturbed: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = cut_short(undisturbed, tmp_path / "run", 4, kept=2)
    truncate(rank_file(run, 4))
    rank_file(run, 2).unlink()
    line = refused(starter, run)
    assert "holds 2 checkpoints, none of them whole" in line
    assert "--from_scratch" in line
    record("all checkpoints damaged: refused", None)


def test_a_truncated_shard_stops_a_resumed_run_by_its_name(
    starter: Starter, undisturbed: Path, data: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shard = next(copy.rglob("train-00000.arrow"))
    truncate(shard)
    run = cut_short(undisturbed, tmp_path / "run", AT)
    line = refused(Starter(starter.recipe, copy, starter.logs), run)
    assert f"{shard.parent.name}/{shard.name}" in line
    record("a truncated shard: refused", None)

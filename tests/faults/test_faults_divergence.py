"""Losses that are not finite or jump, and steps that are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ernie_m.runs.checkpoint import committed_folders
from ernie_m.runs.metrics import read_lines, read_metrics
from tests.faults.conftest import NUM_STEPS
from tests.faults.jobs import Starter, cut_short, verified_steps
from tests.integration.test_training import losses

pytestmark = pytest.mark.faults

BAD_STEP = 5


def assert_finite_weights(run: Path) -> None:
    """The newest checkpoint holds nothing else."""
    for path in committed_folders(run / "checkpoints")[0].glob("rank_*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_gradient_of_one_rank_that_is_not_finite_stops_all_before_the_update(
    zero_stage: int, starter: Starter, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    fault = {"do": "scale loss", "in": "micro-batch", "step": BAD_STEP, "rank": 1, "argument": "nan"}
    code, job = starter.finish(run, f"engine.zero_stage={zero_stage}", num_ranks=2, faults=[fault])
    assert code != 0
    (line,) = job.errors
    assert f"step {BAD_STEP}: the gradient is not finite; this update was not made" in line
    assert f"--skip_steps {BAD_STEP}:{BAD_STEP + 1}" in line
    told = json.loads((run / "last_stop.json").read_text())
    assert told["kind"] == "refused"
    assert told["message"] in line
    assert not (run / "incidents.jsonl").exists(), job.text
    assert max(line["step"] for line in read_metrics(run)) == BAD_STEP
    assert verified_steps(run)[0] in (BAD_STEP - 3, BAD_STEP - 1)
    assert_finite_weights(run)
    record(f"a gradient not finite on one rank, ZeRO {zero_stage}: stopped", None)


def test_fp16_gradients_that_overflow_many_times_in_a_row_stop_with_advice(starter: Starter, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fault = {"do": "scale loss", "in": "micro-batch", "step": BAD_STEP, "until": NUM_STEPS, "argument": "inf"}
    fp16 = ("engine.precision=fp16", "engine.zero_stage=1", "guards.max_skipped_updates=6")
    code, job = starter.finish(run, *fp16, faults=[fault], FP16_ON_CPU="1")
    assert code == 2, job.text
    (line,) = job.errors
    assert "the fp16 gradients overflowed 6 times in a row" in line
    assert "engine.precision=bf16" in line
    assert max(line["step"] for line in read_metrics(run)) in (BAD_STEP + 4, BAD_STEP + 5)
    assert_finite_weights(run)


def test_a_loss_spike_is_told_with_the_rows_of_its_step(starter: Starter, undisturbed: Path, tmp_path: Path) -> None:
    step, run = 34, cut_short(undisturbed, tmp_path / "run", 30)
    fault = {"do": "scale nll", "in": "micro-batch", "step": step, "argument": 3}
    code, job = starter.finish(run, "output.log_samples=true", faults=[fault])
    assert code == 0, job.text
    spikes = read_lines(run / "spikes.jsonl")
    assert {line["step"] for line in spikes} == {step + 1}
    assert {line["objective"] for line in spikes} == {"MMLM", "CAMLM", "BTMLM"}
    (made_of,) = [line["rows"] for line in read_lines(run / "samples.jsonl") if line["step"] == step + 1]
    assert sorted(row for line in spikes for row in line["rows"]) == sorted(made_of)
    assert all(line["rows"] for line in spikes)
    assert len([line for line in job.text.splitlines() if re.match(rf"alarm: loss spike in step {step}: ", line)]) == 3


def test_skipped_steps_are_undone_and_stay_left_out_after_a_restart(
    starter: Starter, undisturbed: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    first, end = 9, 12
    left_out = f"{first}:{end}"
    run = cut_short(undisturbed, tmp_path / "run", 16)
    stop = {"do": "SIGTERM", "in": "micro-batch", "step": 8}
    code, job = starter.finish(run, "--skip_steps", left_out, faults=[stop])
    assert code == 75, job.text
    assert job.first_step == 8, "the newest checkpoint before the first of them"
    assert f"left out: steps {left_out}" in job.text
    again = starter.start(run)  # without the option
    record(f"--skip_steps {left_out} at step 16", 8, again.goes_on())
    whole = starter.start(tmp_path / "from the start", "--skip_steps", left_out)
    assert again.end() == 0, again.text
    assert whole.end() == 0, whole.text
    assert again.first_step in (8, 9), "later checkpoints know the steps that are left out"
    assert f"left out: steps {left_out}" in again.text
    found = {step: values for step, values in losses(run).items() if values}
    assert set(found) == set(range(1, NUM_STEPS + 1)) - set(range(first + 1, end + 1))
    assert found == {step: values for step, values in losses(tmp_path / "from the start").items() if values}
    assert all(found[step] == losses(undisturbed)[step] for step in range(1, first + 1))
    assert not list((run / "checkpoints").glob("abandoned_*"))
    assert verified_steps(run)[0] == NUM_STEPS

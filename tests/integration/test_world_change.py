"""A run goes on with any number of ranks, in any ZeRO stage, as if nothing had happened.

Jobs are killed (kill -9, all ranks) as soon as a checkpoint is committed; the next one, of another shape, goes on from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from ernie_m.runs.checkpoint import MANIFEST_FILE, committed_folders, folder_name, read_manifest, step_of
from ernie_m.runs.fragments import MOMENTS, WEIGHT
from ernie_m.runs.metrics import read_metrics
from tests.integration.conftest import tiny_recipe
from tests.integration.forked_ranks import ForkedRanks, Job

BETWEEN_CHANGES = 20
TOLERANCE = 1e-5  # nats; another number of ranks adds up gradients in another order
RECIPE = tiny_recipe(
    45,
    35,
    model={"dropout": 0.0, "attention_dropout": 0.0},
    optimizer={"warmup_steps": 30},
    engine={"zero_stage": 1},
    output={"log_every": 20, "save_every": BETWEEN_CHANGES, "keep_last": 100, "evaluate_every": 0},
)
NUM_STEPS = 80
SHORT = {  # with dropout, for jobs that must repeat each other bit for bit
    "stages": [{"steps": 12, "rows": {"MMLM": 1, "TLM": 1, "BTMLM": 1}}],
    "model": {**RECIPE["model"], "dropout": 0.1},
    "output": {**RECIPE["output"], "save_every": 6, "log_every": 1},
}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


@pytest.fixture(scope="module")
def forked() -> ForkedRanks:
    return ForkedRanks()


def job_of(recipe: Path, data: Path, run: Path, num_ranks: int, zero_stage: int, rows: int = 2, **more: Any) -> Job:
    precision = f"engine.precision={more.pop('precision', 'fp32')}"
    overrides = (f"engine.zero_stage={zero_stage}", f"batch.micro_batch_rows={rows}", precision)
    return Job(recipe, data, run, num_ranks, overrides, **more)


def killed_behind(forked: ForkedRanks, job: Job, step: int) -> None:
    """Run a job until the checkpoint of `step` steps is committed; a later one, if it came to that, is taken away."""
    checkpoints = job.run / "checkpoints"
    forked.kill(job, (checkpoints / folder_name(step) / MANIFEST_FILE).is_file)
    assert step in map(step_of, committed_folders(checkpoints)), job.text()
    (job.run / "COMPLETE").unlink(missing_ok=True)
    for folder in committed_folders(checkpoints):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def finished(forked: ForkedRanks, job: Job) -> None:
    forked.finish(job)
    assert (job.run / "COMPLETE").is_file(), job.text()


def losses(run: Path) -> dict[int, dict[str, float]]:
    return {
        line["step"]: {key: value for key, value in line.items() if key.startswith("loss/")}
        for line in read_metrics(run)
        if any(key.startswith("loss/") for key in line)
    }


def worst_difference(run: Path, other: Path) -> float:
    """The largest difference of any loss of any step, streams included, in nats."""
    ours, theirs = losses(run), losses(other)
    assert sorted(ours) == sorted(theirs) == list(range(1, NUM_STEPS + 1))
    assert all(ours[step].keys() == theirs[step].keys() for step in ours)
    return max(abs(ours[step][key] - theirs[step][key]) for step in ours for key in ours[step])


def assert_whole(folder: Path, num_ranks: int) -> None:
    """Weight and moments of every element of every parameter lie in the files of all ranks, each exactly once."""
    spans: dict[str, dict[str, list[tuple[int, int]]]] = {}
    files = sorted(folder.glob("rank_*.safetensors"))
    assert len(files) == read_manifest(folder).world_size == num_ranks
    for path in files:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, _, rest = key.rpartition("@")
                start, _, kind = rest.partition(":")
                (size,) = file.get_slice(key).get_shape()
                spans.setdefault(name, {}).setdefault(kind, []).append((int(start), int(start) + size))
    assert len(spans) > 30
    for kinds in spans.values():
        assert set(kinds) == {WEIGHT, *MOMENTS}
        assert sorted(kinds[WEIGHT]) == sorted(kinds[MOMENTS[0]]) == sorted(kinds[MOMENTS[1]])
        starts, stops = zip(*sorted(kinds[WEIGHT]), strict=True)
        assert starts == (0, *stops[:-1]), "a gap or an overlap"


def tensors_of(folder: Path) -> dict[str, bytes]:
    """Every fragment's bytes."""
    found = {}
    for path in sorted(folder.glob("rank_*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found.update({key: file.get_tensor(key).tobytes() for key in file.keys()})  # noqa: SIM118
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("recipe") / "tiny.yaml")


@pytest.fixture(scope="module")
def undisturbed(forked: ForkedRanks, recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, from the first to the last step; losses depend neither on ranks nor on the stage, so it serves all."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(forked, job_of(recipe, data, run, num_ranks=1, zero_stage=1))
    return run


def run_chain(forked: ForkedRanks, jobs: Sequence[Job]) -> None:
    """Job after job, each going on from the last checkpoint of the one before."""
    for number, job in enumerate(jobs):
        step = (number + 1) * BETWEEN_CHANGES
        finished(forked, job) if number == len(jobs) - 1 else killed_behind(forked, job, step)
        start = f"starting at step {number * BETWEEN_CHANGES}" if number else "starting from scratch"
        assert start in job.text(), job.text()
        assert_whole(job.run / "checkpoints" / folder_name(step), job.num_ranks)


@pytest.mark.faults
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_losses_go_on_from_2_ranks_to_1_to_2_to_4(
    zero_stage: int, undisturbed: Path, forked: ForkedRanks, recipe: Path, data: Path, tmp_path: Path
) -> None:
    run_chain(forked, [job_of(recipe, data, tmp_path / "run", num_ranks, zero_stage) for num_ranks in (2, 1, 2, 4)])
    worst = worst_difference(tmp_path / "run", undisturbed)
    print(f"ZeRO {zero_stage}, 2 -> 1 -> 2 -> 4 ranks: worst difference {worst:.1e} nats")
    assert worst <= TOLERANCE


@pytest.mark.faults
def test_losses_go_on_through_all_stages_and_other_micro_batches(
    undisturbed: Path, forked: ForkedRanks, recipe: Path, data: Path, tmp_path: Path
) -> None:
    shapes = ((2, 2, 2), (1, 3, 4), (2, 0, 1), (2, 0, 4))  # ranks, stage, rows at a time; stage 0 read and written by two
    run_chain(forked, [job_of(recipe, data, tmp_path / "run", *shape) for shape in shapes])
    worst = worst_difference(tmp_path / "run", undisturbed)
    print(f"ZeRO 2 -> 3 -> 0 -> 0 with other micro-batches: worst difference {worst:.1e} nats")
    assert worst <= TOLERANCE


SHAPES = [(0, "bf16"), (1, "bf16"), (3, "bf16"), (1, "fp16"), (3, "fp16")]


@pytest.mark.parametrize(("zero_stage", "precision"), SHAPES)
def test_the_same_ranks_go_on_bit_for_bit(
    zero_stage: int, precision: str, forked: ForkedRanks, data: Path, tmp_path: Path
) -> None:
    """Also in half precision, where the model holds rounded weights: masters, moments and loss scale come back exactly."""
    recipe = written(tmp_path / "tiny.yaml", **SHORT)
    more = {"precision": precision, "pretend_fp16": precision == "fp16"}
    whole = job_of(recipe, data, tmp_path / "whole", 2, zero_stage, **more)
    finished(forked, whole)
    shutil.copytree(whole.run, tmp_path / "run")
    resumed = job_of(recipe, data, tmp_path / "run", 2, zero_stage, **more)
    (resumed.run / "COMPLETE").unlink()
    shutil.rmtree(resumed.run / "checkpoints" / folder_name(12))
    finished(forked, resumed)
    assert "starting at step 6" in resumed.text()
    assert losses(resumed.run) == losses(whole.run)
    ends = [run / "checkpoints" / folder_name(12) for run in (whole.run, resumed.run)]
    assert tensors_of(ends[0]) == tensors_of(ends[1])
    counters = [read_manifest(folder).state["counters"] for folder in ends]
    assert counters[0] == counters[1]
    scales = [[line["loss_scale"] for line in read_metrics(run) if "loss_scale" in line] for run in (whole.run, resumed.run)]
    assert scales[0] == scales[1]
    if precision == "fp16":
        middle = read_manifest(whole.run / "checkpoints" / folder_name(6)).state["counters"]
        assert middle["loss_scaler"]["cur_iter"] > 0
        assert middle["loss_scaler"]["cur_scale"] == scales[0][5] > 1
        assert 0 < middle["updates"] < counters[0]["updates"]


def test_ranks_that_do_not_divide_the_batch_are_refused_and_nothing_is_touched(
    undisturbed: Path, forked: ForkedRanks, recipe: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "COMPLETE").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    job = job_of(recipe, data, run, num_ranks=3, zero_stage=1)
    forked.finish(job)
    assert "8 is not a multiple of micro_batch_rows 2 x 3 ranks = 6; the nearest that is: 6" in job.text()
    assert "with this batch: 2 ranks or 4 ranks" in job.text()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert json.loads((undisturbed / "COMPLETE").read_text())["steps"] == NUM_STEPS


def test_each_start_makes_a_step_however_short_its_time_and_fewer_ranks_are_told(
    forked: ForkedRanks, data: Path, tmp_path: Path
) -> None:
    """--exit_after that is over before the first step would else stop every start at the step where the last one did."""
    recipe, run = written(tmp_path / "tiny.yaml", **SHORT), tmp_path / "run"
    for num_ranks, done in ((2, 1), (1, 2)):
        job = job_of(recipe, data, run, num_ranks, 1, exit_after=0.01)
        forked.finish(job)
        assert step_of(committed_folders(run / "checkpoints")[0]) == done, job.text()
        assert f"stopped at step {done} (--exit_after" in job.text()
    assert "alarm: 1 ranks, the job before had 2" in job.text()


@pytest.mark.faults
def test_back_translation_goes_on_from_2_ranks_to_1_to_2(forked: ForkedRanks, data: Path, tmp_path: Path) -> None:
    """What the model writes follows from its weights and the step; ranks that have no text to translate write along."""
    small = RECIPE["model"] | {"decoder": "separate", "language_embedding": "all"}
    stages, every = [{"steps": 6, "rows": {"MT": 1, "AE": 1, "BT": 1}}], RECIPE["output"] | {"save_every": 2, "log_every": 1}
    recipe = written(tmp_path / "bt.yaml", stages=stages, model=small, output=every)
    whole = job_of(recipe, data, tmp_path / "whole", 1, 1)
    finished(forked, whole)
    killed_behind(forked, job_of(recipe, data, tmp_path / "run", 2, 3), 2)
    killed_behind(forked, job_of(recipe, data, tmp_path / "run", 1, 1), 4)
    finished(forked, job_of(recipe, data, tmp_path / "run", 2, 1))
    ours, theirs = losses(tmp_path / "run"), losses(whole.run)
    assert sorted(ours) == sorted(theirs) == list(range(1, 7))
    worst = max(abs(ours[step][key] - value) for step, found in theirs.items() for key, value in found.items())
    print(f"2 -> 1 -> 2 ranks with back-translation: worst difference {worst:.1e} nats")
    assert worst <= TOLERANCE

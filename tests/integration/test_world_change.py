"""A run goes on with any number of ranks, in any ZeRO stage, as if nothing had happened; real jobs throughout.

Every job runs to its end; then its later checkpoints are taken away, as a crash would have, and the next job, of another
shape, goes on from there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from ernie_m.checkpoint import committed_folders, read_manifest, step_of
from ernie_m.metrics import read_metrics
from tests.integration.conftest import ROOT, environment

BETWEEN_CHANGES = 20
TOLERANCE = 1e-5  # nats; ranks add up gradients in another order
RECIPE = {
    "stages": [
        {"steps": 45, "rows": {"MMLM": 1, "TLM": 1, "CAMLM": 1}},
        {"steps": 35, "rows": {"MMLM": 1, "CAMLM": 1, "BTMLM": 1}},
    ],
    "seed": 5,
    "model": {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "ffn_size": 128, "dropout": 0.0, "attention_dropout": 0.0},
    "data": {"sequence_length": 128},
    "batch": {"rows_per_step": 8, "micro_batch_rows": 2},
    "optimizer": {"peak_learning_rate": 1e-3, "warmup_steps": 30},
    "engine": {"zero_stage": 1, "precision": "fp32"},
    "output": {"log_every": 20, "save_every": BETWEEN_CHANGES, "keep_last": 100, "evaluate_every": 0},
}
NUM_STEPS = 80

StartRanks = Callable[..., "subprocess.Popen[str]"]


@dataclass(frozen=True)
class Job:
    """The shape of one job."""

    num_ranks: int
    zero_stage: int
    micro_batch_rows: int = 2

    @property
    def options(self) -> tuple[str, str]:
        return f"engine.zero_stage={self.zero_stage}", f"batch.micro_batch_rows={self.micro_batch_rows}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def run_job(start_ranks: StartRanks, job: Job, recipe: Path, data: Path, run: Path) -> str:
    arguments = ("launcher/pretrain.py", "--recipe", recipe, "--data", data, "--run", run)
    text, _ = start_ranks(job.num_ranks, *arguments, *job.options).communicate(timeout=240)
    assert (run / "COMPLETE").is_file(), text
    return text


def go_back(run: Path, step: int) -> None:
    """As if the job had died just behind its checkpoint of `step` steps."""
    (run / "COMPLETE").unlink()
    for folder in committed_folders(run / "checkpoints"):
        if step_of(folder) > step:
            shutil.rmtree(folder)


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
    """Every element of every parameter lies in exactly one file, once for each kind."""
    counts: Counter[tuple[str, str]] = Counter()
    ends: Counter[tuple[str, str]] = Counter()
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    files = sorted(folder.glob("rank_*.safetensors"))
    assert len(files) == read_manifest(folder).world_size == num_ranks
    for path in files:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name, _, rest = key.rpartition("@")
                start, _, kind = rest.partition(":")
                (size,) = file.get_slice(key).get_shape()
                spans.setdefault((name, kind), []).append((int(start), int(start) + size))
                counts[name, kind] += size
                ends[name, kind] = max(ends[name, kind], int(start) + size)
    names = {name for name, _ in spans}
    assert set(spans) == {(name, kind) for name in names for kind in ("weight", "exp_avg", "exp_avg_sq")}
    for found in spans.values():
        assert [start for start, _ in sorted(found)] == [0, *(stop for _, stop in sorted(found)[:-1])]
    assert counts == ends
    assert len({tuple(counts[name, kind] for name in sorted(names)) for kind in ("weight", "exp_avg", "exp_avg_sq")}) == 1


def run_chain(start_ranks: StartRanks, jobs: Sequence[Job], recipe: Path, data: Path, run: Path) -> None:
    """Job after job, each going on where the one before had saved; each but the last runs BETWEEN_CHANGES steps of use."""
    for number, job in enumerate(jobs):
        if number:
            go_back(run, number * BETWEEN_CHANGES)
        text = run_job(start_ranks, job, recipe, data, run)
        start = f"starting at step {number * BETWEEN_CHANGES}" if number else "starting from scratch"
        assert start in text
        assert_whole(run / "checkpoints" / f"step_{(number + 1) * BETWEEN_CHANGES:08d}", job.num_ranks)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, from the first to the last step; losses depend neither on ranks nor on the stage, so it serves all."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    command = ["launcher/pretrain.py", "--recipe", recipe, "--data", data, "--run", run]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_losses_go_on_from_2_ranks_to_1_to_2_to_4(
    zero_stage: int, undisturbed: Path, start_ranks: StartRanks, recipe: Path, data: Path, tmp_path: Path
) -> None:
    jobs = [Job(num_ranks, zero_stage) for num_ranks in (2, 1, 2, 4)]
    run_chain(start_ranks, jobs, recipe, data, tmp_path / "run")
    worst = worst_difference(tmp_path / "run", undisturbed)
    print(f"ZeRO {zero_stage}, 2 -> 1 -> 2 -> 4 ranks: worst difference {worst:.1e} nats")
    assert worst <= TOLERANCE


def test_losses_go_on_through_all_stages_and_other_micro_batches(
    undisturbed: Path, start_ranks: StartRanks, recipe: Path, data: Path, tmp_path: Path
) -> None:
    jobs = [Job(2, 2, 2), Job(1, 3, 4), Job(2, 0, 1), Job(2, 0, 4)]
    run_chain(start_ranks, jobs, recipe, data, tmp_path / "run")
    worst = worst_difference(tmp_path / "run", undisturbed)
    print(f"ZeRO 2 -> 3 -> 0 -> 0, 2, 4, 1, 4 rows at a time: worst difference {worst:.1e} nats")
    assert worst <= TOLERANCE

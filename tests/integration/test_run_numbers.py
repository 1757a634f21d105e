"""What a real run of two ranks says about its speed, beside what its data and its model's shape say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ernie_m.base.config import build, merge_overrides, read_recipe
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.attention_rule import attention_rule, dense_mask
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.schedule import Schedule
from ernie_m.runs.checkpoint import folder_name
from ernie_m.runs.metrics import read_metrics
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.utilization import ACTIVITIES
from tests.integration.conftest import TINY_RECIPE, tiny_recipe
from tests.integration.forked_ranks import ForkedRanks, Job

PEAK = 0.002  # TFLOP/s of a rank, asked for: MFU then follows from the other numbers
LOG_EVERY, SAVE_EVERY, NUM_STEPS = 3, 4, 12
LINES = [3, 4, 6, 8, 9, 12]  # log_every, and before each save
OUTPUT = TINY_RECIPE["output"] | {"log_every": LOG_EVERY, "save_every": SAVE_EVERY, "evaluate_every": 5, "peak_tflops": PEAK}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(6, 6, output=OUTPUT)))
    return path


@pytest.fixture(scope="module")
def job(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(recipe, data, tmp_path_factory.mktemp("numbers") / "run", num_ranks=2)
    ForkedRanks().finish(job)
    assert (job.run / "COMPLETE").is_file(), job.text()
    return job


def step_lines(run: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in read_metrics(run) if "tokens" in line}


def counted(recipe: Path, data: Path) -> dict[int, tuple[int, int, int]]:
    """(real tokens, predicted tokens, pairs of the dense mask) of each global step, from the data alone."""
    config = build(TrainingConfig, merge_overrides(read_recipe(recipe), []), str(recipe))
    rows = config.batch.rows_per_step
    source = PretrainingData(CorpusFolder(data), config.data, Schedule(config.stages, rows), config.seed)
    counts = {}
    for step in range(NUM_STEPS):
        (batch,) = source.step(step, 0, 1, rows)
        is_real = batch.document_BS >= 0
        rule = attention_rule(batch.document_BS, batch.group_BS, batch.reads_BS, batch.horizon_BS)
        pairs = dense_mask(rule, np.arange(rows), np.arange(is_real.shape[1]))[:, 0] & is_real[:, :, None]
        counts[step + 1] = int(is_real.sum()), len(batch.predicted_N), int(pairs.sum())
    return counts


def windows() -> list[range]:
    """The steps that each line with numbers is about, from 1."""
    return [range(first + 1, last + 1) for first, last in zip([0, *LINES], LINES, strict=False)]


def test_the_numbers_of_two_ranks_are_those_of_data_and_model(job: Job) -> None:
    lines, counts = step_lines(job.run), counted(job.recipe, job.data)
    assert {step: line["tokens"] for step, line in lines.items()} == {step: tokens for step, (tokens, *_) in counts.items()}
    assert [step for step, line in lines.items() if "mfu" in line] == LINES
    assert 0 < sum(tokens for tokens, *_ in counts.values()) < NUM_STEPS * 8 * 128, "there is padding to be counted"
    shape = TINY_RECIPE["model"]
    L, D, F = shape["num_layers"], shape["hidden_size"], shape["ffn_size"]
    V, S = CorpusFolder(job.data).manifest.vocab_size, TINY_RECIPE["data"]["sequence_length"]
    for steps in windows():
        line = lines[steps[-1]]
        tokens, predicted, pairs = (sum(counts[step][i] for step in steps) for i in (0, 1, 2))
        assert line["padding_share"] == pytest.approx(1 - tokens / (len(steps) * 8 * S), rel=1e-12)
        flops = tokens * 6 * L * (4 * D * D + 2 * D * F) + pairs * 12 * L * D + predicted * 6 * (V * D + D * D)
        seconds = tokens / line["tokens_per_second"]
        assert line["mfu"] == pytest.approx(flops / seconds / (2 * PEAK * 1e12), rel=1e-9)
        assert {lines[step]["tokens_per_second"] for step in steps} == {line["tokens_per_second"]}


def test_time_goes_where_it_should(job: Job) -> None:
    lines = step_lines(job.run)
    for step in LINES:
        shares = {name: lines[step][f"time_share/{name}"] for name in ACTIVITIES}
        assert 0 <= sum(shares.values()) <= 1
        assert all(share >= 0 for share in shares.values())
        assert 0 < shares["loading"] <= lines[step]["slowest_loading"] <= 1
        assert (shares["generation"] > 0) == (step > 6), "BTMLM is in the second stage alone"
    # What is done behind a line is the next one's: saves after 4 and 8, gains after 5 (before line 6) and 10.
    assert [step for step in LINES if lines[step]["time_share/saving"] > 0] == [6, 9]
    assert [step for step in LINES if lines[step]["time_share/evaluation"] > 0] == [6, 12]
    saves = {line["step"]: line["save_stalled_seconds"] for line in read_metrics(job.run) if "save_seconds" in line}
    for step, steps in ((4, (5, 6)), (8, (9,))):
        line = lines[steps[-1]]
        in_steps = sum(lines[s]["tokens"] for s in steps) / line["tokens_per_second"]
        outside = line["time_share/saving"] + line["time_share/evaluation"]
        wall = in_steps / (1 - outside)  # shares are means of both ranks, rates are rank 0's: about
        assert line["time_share/saving"] * wall >= 0.4 * saves[step], "what training waited for the save is in it"


def test_the_console_shows_them(job: Job) -> None:
    text, lines = job.text(), step_lines(job.run)
    assert f"matmul peak of a rank, for MFU: {PEAK} TFLOP/s (asked for)" in text
    shown = [line for line in text.splitlines() if line.startswith("step ") and "MFU" in line]
    assert [int(line.split()[1].split("/")[0]) for line in shown] == LINES
    for line, step in zip(shown, LINES, strict=True):
        numbers = lines[step]
        assert f"  MFU {100 * numbers['mfu']:.1f} %  padding {100 * numbers['padding_share']:.1f} %  " in line
        assert (f"generation {100 * numbers['time_share/generation']:.1f} %" in line) == (step > 6)


def test_a_resumed_run_goes_on_with_the_same_counts(job: Job, tmp_path: Path) -> None:
    """Losses, tokens and padding repeat exactly; times are new."""
    shutil.copytree(job.run, tmp_path / "run")
    (tmp_path / "run" / "COMPLETE").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / folder_name(NUM_STEPS))
    resumed = Job(job.recipe, job.data, tmp_path / "run", num_ranks=2)
    ForkedRanks().finish(resumed)
    assert "starting at step 8" in resumed.text()
    whole, again = step_lines(job.run), step_lines(resumed.run)

    def exact(lines: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        kept = ("loss/", "tokens", "padding_share", "learning_rate", "gradient_norm")
        return {
            step: {key: value for key, value in line.items() if key.startswith(kept) and key != "tokens_per_second"}
            for step, line in lines.items()
        }

    assert exact(again) == exact(whole)
    assert again[9]["tokens_per_second"] != whole[9]["tokens_per_second"]
    assert again[9]["time_share/saving"] == 0, "the save behind step 8 was another job's"
    assert again[12]["mfu"] / again[12]["tokens_per_second"] == pytest.approx(
        whole[12]["mfu"] / whole[12]["tokens_per_second"], rel=1e-9
    )

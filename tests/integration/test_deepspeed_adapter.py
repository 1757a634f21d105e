"""What the training state hangs on in DeepSpeed is looked at when an engine is made, and missed in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deepspeed
import pytest

from ernie_m.runs.ranks import START_PATIENCE
from tests.integration.adapter_worker import COMBINATIONS
from tests.integration.conftest import environment
from tests.integration.scripts import run_script


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the worker found."""
    output = tmp_path_factory.mktemp("adapter") / "found.json"
    variables = environment() | {"CUDA_VISIBLE_DEVICES": ""}
    result = run_script("tests/integration/adapter_worker.py", data, output, given=variables)
    assert output.is_file(), result.stdout + result.stderr
    return dict(json.loads(output.read_text(encoding="utf-8")))


def each(found: dict[str, Any], zero_stage: int, precision: str) -> dict[str, Any]:
    return dict(found[f"{zero_stage} {precision}"])


@pytest.mark.parametrize(("zero_stage", "precision"), COMBINATIONS)
def test_what_a_step_a_save_and_a_restore_take_was_looked_at_at_the_start(
    found: dict[str, Any], zero_stage: int, precision: str
) -> None:
    of = each(found, zero_stage, precision)
    assert set(of["taken later"]) <= set(of["taken at the start"])
    counts = {name.partition(".")[2] for name in of["taken later"]}
    if precision == "fp16":
        assert counts >= {"cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis"}
    assert ("overflow" in counts) == ((zero_stage, precision) != (0, "fp32"))


@pytest.mark.parametrize(("zero_stage", "precision"), COMBINATIONS)
def test_a_deepspeed_that_calls_it_otherwise_is_refused_with_the_name_and_the_version(
    found: dict[str, Any], zero_stage: int, precision: str
) -> None:
    refusals = each(found, zero_stage, precision)["refusals"]
    assert refusals
    for name, line in refusals.items():
        owner, _, attribute = name.partition(".")
        assert f"deepspeed {deepspeed.__version__}: its {owner} has no '{attribute}'" in line, name
        assert "pip install 'deepspeed>=0.19.8,<0.20'" in line


def test_no_process_group_of_training_gives_up_before_a_start_may_end(found: dict[str, Any]) -> None:
    """ZeRO's own group is DeepSpeed's copy of the default one: it would give up after ten minutes with NCCL."""
    assert len(found["patience"]) > 1
    assert min(found["patience"].values()) > START_PATIENCE, found["patience"]

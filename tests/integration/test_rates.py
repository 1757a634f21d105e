"""Rates by part and layer are those of torch's AdamW; parts that do not train stay bit for bit, under every ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import start_local_ranks
from tests.integration.rates_worker import RATE


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank of one, and of two, found in its own share."""
    folder = tmp_path_factory.mktemp("rates")
    process = start_local_ranks(request.param, "tests/integration/rates_worker.py", data, folder / "out")
    text, _ = process.communicate(timeout=300)
    files = [folder / f"rank_{rank}.json" for rank in range(request.param)]
    assert all(file.is_file() for file in files), text
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("zero_stage", range(4))
def test_factors_by_part_and_decay_by_layer_are_torchs_adamw_with_a_group_a_parameter(
    found: list[dict[str, Any]], zero_stage: int
) -> None:
    for of_rank in found:
        rates = of_rank[str(zero_stage)]["rates"]
        assert rates["apart"] < 1e-6, rates
        assert rates["groups"] == 2 * (3 + 2), "a group a layer, embeddings and heads, with weight decay and without"
        assert rates["moved"] > RATE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", range(4))
def test_parts_that_do_not_train_stay_bit_for_bit_and_have_no_moments_before_they_did(
    found: list[dict[str, Any]], zero_stage: int, precision: str
) -> None:
    assert [of_rank[str(zero_stage)][precision] for of_rank in found] == [[] for _ in found]

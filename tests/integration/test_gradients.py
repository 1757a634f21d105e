"""The gradient of a DeepSpeed step is the gradient of the loss as it is written down; its update is AdamW's, clipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("model", ["encoder", "translation"])
def test_gradients_of_a_step_equal_plain_pytorch_for_zero_0_to_3(
    model: str, data: Path, start_ranks, tmp_path: Path
) -> None:
    output = tmp_path / "gradients.json"
    process = start_ranks(2, "tests/integration/gradient_worker.py", data, output, model)
    text, _ = process.communicate(timeout=300)
    assert output.is_file(), text
    content = json.loads(output.read_text())
    results = content["results"]
    accumulations = (1, 2) if model == "encoder" else (2,)
    found = {(r["zero_stage"], r["accumulation_steps"]) for r in results}
    assert found == {(zero, steps) for zero in range(4) for steps in accumulations}
    assert results[0]["predicted_on_rank_0"] != content["predicted_elsewhere"], "token counts must be uneven to mean much"
    for result in results:
        assert result["num_parameters"] > 30
        assert result["worst"] < 1e-5, result  # fp32; XLCO divides cosines by 0.05, and their rounding with them
        assert abs(result["norm"] - 1) < 1e-5, result
        assert result["update"] < 1e-3, result

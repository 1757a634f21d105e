"""The gradient of a DeepSpeed step is the gradient of the loss as it is written down; its update is AdamW's, clipped."""

from __future__ import annotations

import json
from pathlib import Path


def test_gradients_of_a_step_equal_plain_pytorch_for_zero_0_to_3(data: Path, start_ranks, tmp_path: Path) -> None:
    output = tmp_path / "gradients.json"
    process = start_ranks(2, "tests/integration/gradient_worker.py", data, output)
    text, _ = process.communicate(timeout=300)
    assert output.is_file(), text
    content = json.loads(output.read_text())
    results = content["results"]
    assert {(r["zero_stage"], r["accumulation_steps"]) for r in results} == {(z, a) for z in range(4) for a in (1, 2)}
    assert results[0]["predicted_on_rank_0"] != content["predicted_elsewhere"], "token counts must be uneven to mean much"
    for result in results:
        assert result["num_parameters"] > 30
        assert result["worst"] < 1e-5, result  # fp32; XLCO divides cosines by 0.05, and their rounding with them
        assert abs(result["norm"] - 1) < 1e-5, result
        assert result["update"] < 1e-3, result

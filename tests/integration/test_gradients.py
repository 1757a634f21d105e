"""The gradient of a DeepSpeed step is the gradient of the loss as it is written down; its update is AdamW's, clipped.

Of our own encoder, and of encoders of transformers: with positions from 0 and a pooler, behind padding's with a head of
masked words, with windows, with grouped queries, without a position table.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import TrainedEncoders
from tests.integration.scripts import run_ranks


def test_gradients_of_a_step_equal_plain_pytorch_for_zero_0_to_3(
    linked_data: Path, encoders: TrainedEncoders, tmp_path: Path
) -> None:
    output, pairs = tmp_path / "gradients.json", [(linked_data, "encoder"), (linked_data, "translation"), *encoders.values()]
    arguments = [argument for pair in pairs for argument in pair]
    done = run_ranks(2, "tests/integration/gradient_worker.py", *arguments, output)
    assert output.is_file(), done.stdout + done.stderr
    for (_, encoder), content in zip(pairs, json.loads(output.read_text()), strict=True):
        results = content["results"]
        accumulations = (1, 2) if encoder == "encoder" else (2,)
        found = {(r["zero_stage"], r["accumulation_steps"]) for r in results}
        assert found == {(zero, steps) for zero in range(4) for steps in accumulations}
        assert results[0]["predicted_on_rank_0"] != content["predicted_elsewhere"], "counts must be uneven to mean much"
        for result in results:
            what = (encoder, result)
            assert result["num_parameters"] > 15, what
            # fp32: mostly 3e-6; XLCO divides cosines by 0.05, and their rounding with them: 1.1e-5 was seen. One token in a
            # hundred counted wrongly would be 1e-2.
            assert result["worst"] < 1e-4, what
            assert abs(result["norm"] - 1) < 1e-5, what
            assert result["update"] < 1e-3, what

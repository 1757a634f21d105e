"""The planner's memory against a GPU's own count of what the real engine allocates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ernie_m.models.attention import choose_attention
from ernie_m.models.shape import ModelConfig
from ernie_m.planning.memory import MicroBatch, Sharding, peak, total

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
ROOT = Path(__file__).resolve().parents[2]
BUCKET = 120_000_000
SHAPE = {"vocab_size": 100_002, "num_languages": 4, "dropout": 0.0}  # base otherwise: 163 M parameters
TOLERANCE = 0.10


@pytest.mark.parametrize("zero_stage", [1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
def test_predicted_peak_is_what_the_engine_allocates_on_a_gpu(
    zero_stage: int, attention: str, checkpointing: bool, tmp_path: Path
) -> None:
    if attention == "flex" and (choice := choose_attention("auto", torch.device("cuda", 0))).value != "flex":
        pytest.skip(str(choice))
    content = json.loads((ROOT / f"ds_configs/zero{zero_stage}_fp16.json").read_text(encoding="utf-8"))
    content["zero_optimization"]["reduce_bucket_size"] = BUCKET
    (tmp_path / f"zero{zero_stage}_fp16.json").write_text(json.dumps(content), encoding="utf-8")
    shape = SHAPE | {"attention": attention, "activation_checkpointing": checkpointing}
    batch = {"rows": 32, "sequence_length": 512, "accumulation": 2}
    case = {"model": shape, **batch, "zero_stage": zero_stage, "precision": "fp16", "ds_configs": str(tmp_path)}
    files = [tmp_path / "case.json", tmp_path / "out.json"]
    files[0].write_text(json.dumps(case), encoding="utf-8")
    command = [sys.executable, "tests/integration/planning_worker.py", *map(str, files)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert files[1].is_file(), result.stdout + result.stderr
    found = json.loads(files[1].read_text(encoding="utf-8"))
    sharding = Sharding(1, zero_stage, 2, BUCKET)
    rows = MicroBatch(32, 512, found["predicted"])
    moment, parts = peak(ModelConfig(**shape), sharding, rows, sdpa=attention == "sdpa")  # type: ignore[arg-type]
    error = total(parts) / found["peak"] - 1
    print(f"measured {found['peak'] / 2**20:,.0f} MiB, predicted {100 * error:+.1f} % ({moment})")
    assert abs(error) <= TOLERANCE, (moment, parts, found)

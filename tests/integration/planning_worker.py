"""Run by one or two ranks: steps of the real Engine; writes the most that rank 0 had allocated at a time.

On a GPU by its allocator's own count, on CPU by torch's profiler, which notes every allocation (not the resident set: that
depends on malloc, threads and caches).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ernie_m.base.special_tokens import FIRST_PIECE_ID, Specials, mask_id
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import Example, LossRequest, PackedBatch
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import LOSS_INDEX, MMLM, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.runs.ranks import Ranks
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
from ernie_m.training.optimizer import OptimizerConfig


def micro_batch(case: dict[str, Any], vocab_size: int, rng: np.random.Generator, device: torch.device) -> PackedBatch:
    """Full rows, a document each."""
    rows = []
    for _ in range(case["rows"]):
        ids = rng.integers(FIRST_PIECE_ID, mask_id(vocab_size), case["sequence_length"] - 2, dtype=np.int32)
        document = Layout(MMLM, CorruptionConfig(mask_rate=0.3), Specials.xlm_r(vocab_size)).lay_out(
            Example((ids,), (1,)), key=len(rows)
        )
        rows.append(PackedRow([document], OBJECTIVE_INDEX["MMLM"], 0))
    return to_device(pack(rows, case["sequence_length"]), device)


def allocated(profile: torch.profiler.profile) -> list[int]:
    """Bytes allocated since the profile began, after each allocation and release of its time."""
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    totals = [int(event["args"]["Total Allocated"]) for event in memory]
    before = totals[0] - int(memory[0]["args"]["Bytes"])
    return [total - before for total in totals]


def steps(case: dict[str, Any], model: ModelConfig, ranks: Ranks, batches: list[PackedBatch]) -> Engine:
    """Two steps, the second without its update: Adam's moments exist from the first one on."""
    request = LossRequest(torch.full((len(LOSS_INDEX),), 1e-2, device=ranks.device), 1)
    engine = Engine(
        Encoder(model, ranks.device).initialise(0),
        ranks,
        Path(case["ds_configs"]),
        EngineConfig(zero_stage=case["zero_stage"], precision=case["precision"]),
        OptimizerConfig(),
        BatchConfig(rows_per_step=case["rows"] * len(batches) * ranks.world_size, micro_batch_rows=case["rows"]),
    )
    for step in range(2):
        for number, batch in enumerate(batches):
            engine.forward_backward(batch, request)
            if step == 0 or number < len(batches) - 1:
                engine.update(1e-4)
    return engine


def main(case: dict[str, Any], output: Path) -> None:
    model, ranks, rng = ModelConfig(**case["model"]), start_ranks(), np.random.default_rng(0)
    batches = [micro_batch(case, model.vocab, rng, ranks.device) for _ in range(case["accumulation"])]
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine = steps(case, model, ranks, batches)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            engine = steps(case, model, ranks, batches)
        peak = max(allocated(profile))
    if ranks.is_first:
        num_parameters = sum(parameter.numel() for parameter in engine.module.parameters())
        found = {"peak": peak, "predicted": max(len(b.predicted_N) for b in batches), "parameters": num_parameters}
        output.write_text(json.dumps(found), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[-2]).read_text(encoding="utf-8")), Path(sys.argv[-1]))

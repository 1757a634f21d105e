"""Run by two ranks: what is lost where half-precision gradients of many micro-batches are summed, and what overlap changes.

The oracle of a sum: the same model in the same precision without DeepSpeed gives each micro-batch's gradient; all of them,
of both ranks, are added up in fp64.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from ernie_m.models.model import Encoder
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX
from ernie_m.runs.ranks import Ranks
from ernie_m.training import gradient_exchange
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, Precision, start_ranks
from ernie_m.training.optimizer import OptimizerConfig
from tests.conftest import _batch, _documents, _encoder

DS_CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
ROWS = ((((12, 9), (7, 5)), ((14, 11),)), (((9, 4), (5, 5), (3, 2)), ((8, 8),)))  # of each rank
DISTINCT = 4
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CASES: list[tuple[Precision, int]] = [("bf16", 32), ("fp16", 128)]
LOSS_SCALE = {"bf16": 1.0, "fp16": 2.0**16}  # of a step's first update
REQUEST = LossRequest(torch.full((len(LOSS_INDEX),), 2.0**-8), 1)  # so that fp16's does not overflow


def micro_batches(rank: int) -> list[PackedBatch]:
    """A rank's distinct ones; a step goes through them again and again."""
    return [_batch(CAMLM, _documents(CAMLM, ROWS[rank], seed=seed), 64) for seed in range(DISTINCT)]


def model_in(dtype: torch.dtype) -> Encoder:
    """Weights that the precision has, so that masters and copies are the same."""
    model = _encoder(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model


def oracle(precision: Precision, num_micro_batches: int, ranks: Ranks) -> dict[str, Tensor]:
    """Mean gradient over the micro-batches of both ranks, fp64; each is made from the loss that the engine would scale."""
    dtype, scale = DTYPES[precision], LOSS_SCALE[precision] / num_micro_batches
    model = model_in(dtype).to(dtype)
    summed = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    for batch in micro_batches(ranks.rank):
        model.zero_grad()
        (model(batch, REQUEST)[0] * scale).backward()
        for name, parameter in model.named_parameters():
            summed[name] += parameter.grad.double() / scale  # type: ignore[union-attr]
    return {name: ranks.sum(total) / (DISTINCT * ranks.world_size) for name, total in summed.items()}


def lost(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the error over the gradient's norm, all parameters together."""
    error = sum(float((found[name].double() - expected[name]).square().sum()) for name in expected)
    return float((error / sum(float(g.square().sum()) for g in expected.values())) ** 0.5)


def ds_configs(folder: Path, name: str, **changes: Any) -> Path:
    """A folder with the configuration of this name (zero3_bf16) and other values in its section about ZeRO."""
    folder.mkdir(exist_ok=True)
    content = json.loads((DS_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    content["zero_optimization"] |= changes
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def lost_in_a_step(precision: Precision, zero_stage: int, num_micro_batches: int, folder: Path, ranks: Ranks) -> Any:
    """Of the gradient of one step: what it lost, and how it was summed."""
    rows = len(ROWS[0])
    changes = {"memory_efficient_linear": False} if zero_stage == 3 else {}  # it rounds before a bias is added, unlike torch
    engine = Engine(
        model_in(DTYPES[precision]),
        ranks,
        ds_configs(folder, f"zero{zero_stage}_{precision}", **changes),
        EngineConfig(zero_stage=zero_stage, precision=precision),
        OptimizerConfig(),
        BatchConfig(rows_per_step=rows * num_micro_batches * ranks.world_size, micro_batch_rows=rows),
    )
    batches, gradients = micro_batches(ranks.rank), {}
    for number in range(num_micro_batches):
        engine.forward_backward(batches[number % DISTINCT], REQUEST)
        if number == num_micro_batches - 1:
            gradients = {name: g / LOSS_SCALE[precision] for name, g in engine.full_gradients().items()}
        engine.update(1e-4)
    case = {"precision": precision, "zero_stage": zero_stage, "summed_in": engine.exchange.sums.value}
    return case | {"lost": lost(gradients, oracle(precision, num_micro_batches, ranks))}


def sums(folder: Path, ranks: Ranks) -> list[dict[str, Any]]:
    """Every stage and precision as it is chosen, then ZeRO 1 with sums in half precision."""
    stages = {"bf16": (0, 1, 2, 3), "fp16": (1, 2, 3)}
    found = [lost_in_a_step(p, stage, count, folder, ranks) for p, count in CASES for stage in stages[p]]
    gradient_exchange.SUMMED_IN_HALF = {"bf16": 10**9, "fp16": 10**9}
    return found + [lost_in_a_step(p, 1, count, folder, ranks) for p, count in CASES]


def overlaps(folder: Path, ranks: Ranks) -> list[dict[str, Any]]:
    """Three steps with gradients sent beside the backward, in many buckets, and without: the same to the last bit?"""
    found = []
    for zero_stage in (1, 2):
        results = {}
        for name, change in (("beside", {}), ("behind", {"overlap_comm": False})):
            path = ds_configs(folder / name, f"zero{zero_stage}_fp32", reduce_bucket_size=3000, **change)
            engine = Engine(
                _encoder(),
                ranks,
                path,
                EngineConfig(zero_stage=zero_stage, precision="fp32"),
                OptimizerConfig(),
                BatchConfig(rows_per_step=len(ROWS[0]) * ranks.world_size, micro_batch_rows=len(ROWS[0])),
            )
            tensors = []
            for batch in micro_batches(ranks.rank)[:3]:
                engine.forward_backward(batch, REQUEST)
                tensors += engine.full_gradients().values()
                engine.update(1e-3)
            tensors += [parameter.detach().clone() for parameter in engine.module.parameters()]
            results[name] = (engine.exchange.overlap.value, engine._engine.zero_overlap_comm(), tensors)
        beside, behind = results["beside"], results["behind"]
        same = [torch.equal(a, b) for a, b in zip(beside[2], behind[2], strict=True)]
        case = {"zero_stage": zero_stage, "chosen": [beside[0], behind[0]], "deepspeed": [beside[1], behind[1]]}
        found.append(case | {"same": all(same), "tensors": len(same)})
    return found


def main(folder: Path) -> None:
    type(get_accelerator()).is_fp16_supported = lambda self: True  # DeepSpeed refuses it on CPU unless told that it is
    ranks = start_ranks()
    mine = folder / str(ranks.rank)
    mine.mkdir()
    found = {"overlaps": overlaps(mine, ranks), "sums": sums(mine, ranks)}
    if ranks.is_first:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main(Path(sys.argv[-1]))

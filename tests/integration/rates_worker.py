"""Run by ranks: steps at rates by part and layer, and of parts alone, for ZeRO 0-3, against torch's AdamW and bit for bit.

Each rank looks at the fragments that it owns. Writes {"0": {"rates": ..., "frozen": ...}, ...}, a list of each rank's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import PARTS, Schedule, StageConfig
from ernie_m.runs.checkpoint import rank_file
from ernie_m.runs.fragments import FragmentReader, write_tensors
from ernie_m.runs.ranks import Ranks
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
from ernie_m.training.optimizer import OptimizerConfig

ROWS, STEPS, RATE, DECAY, LAYERS = 4, 5, 1e-3, 0.8, 3
FACTORS = {"embeddings": 20.0, "heads": 0.5}
SCALE = 1e-3
OPTIMIZER = OptimizerConfig(gradient_clipping=1.0, rate_factors=FACTORS, layer_decay=DECAY)


def expected_factor(name: str) -> float:
    """As the documentation has it, said once more."""
    if name.startswith("heads."):
        return FACTORS["heads"]
    if name.startswith("embeddings."):
        return FACTORS["embeddings"] * DECAY ** (LAYERS + 1)
    found = re.match(r"layers\.(\d)\.", name)
    assert found
    return DECAY ** (LAYERS - int(found[1]))


def reference(model: Encoder, batches: list[PackedBatch[Tensor]], request: LossRequest) -> dict[str, Tensor]:
    """Weights behind the steps by torch's AdamW, a group for each parameter."""
    named = dict(model.named_parameters())
    groups = [
        {"params": [p], "lr": RATE * expected_factor(name), "weight_decay": 0.01 * (p.dim() >= 2)}
        for name, p in named.items()
    ]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    for batch in batches:
        adam.zero_grad()
        loss, _ = model(batch, request)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    return {name: p.detach() for name, p in named.items()}


class Job:
    """A model, an engine and a few steps, the same for all ZeRO stages."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        corpus = CorpusFolder(folder)
        stage = StageConfig(steps=STEPS, rows={"MMLM": 1, "CAMLM": 1})
        self.data = PretrainingData(corpus, DataConfig(sequence_length=64), Schedule((stage,), ROWS), seed=3)
        shape = ModelConfig(num_layers=LAYERS, hidden_size=32, num_heads=4, ffn_size=64, dropout=0.0, initializer_range=0.1)
        self.shape = shape.resolved(corpus.manifest.vocab_size, len(corpus.manifest.languages))
        self.ranks = ranks

    def model(self) -> Encoder:
        return Encoder(self.shape).initialise(0)

    def batches(self, rank: int, world_size: int, rows: int) -> list[PackedBatch[Tensor]]:
        found = [self.data.step(step, rank, world_size, rows) for step in range(STEPS)]
        return [to_device(batch, torch.device("cpu")) for (batch,) in found]

    def request(self, trained: tuple[str, ...] = PARTS, scale: float = SCALE) -> LossRequest:
        return LossRequest(torch.full((len(LOSS_INDEX),), scale), len(self.data.metrics), trained != ("heads",))

    def engine(self, zero_stage: int, optimizer: OptimizerConfig, by_part: bool, precision: Any = "fp32") -> Engine:
        rows = ROWS // self.ranks.world_size
        return Engine(
            self.model(),
            self.ranks,
            Path(__file__).resolve().parents[2] / "ds_configs",
            EngineConfig(zero_stage=zero_stage, precision=precision),
            optimizer,
            BatchConfig(rows_per_step=ROWS, micro_batch_rows=rows),
            by_part,
        )

    def step(self, engine: Engine, number: int, trained: tuple[str, ...] = PARTS) -> None:
        world = self.ranks.world_size
        batch = self.batches(self.ranks.rank, world, ROWS // world)[number]
        engine.forward_backward(batch, self.request(trained, SCALE * world))
        assert engine.update(RATE, trained)


def state_of(engine: Engine) -> dict[str, dict[str, Tensor]]:
    """Of each own fragment: copies of weights and moments."""
    return {
        f"{f.name}@{f.start}": {"weight": f.weight.clone()} | {kind: m.clone() for kind, m in f.moments.items()}
        for f in engine.fragments()
    }


def rates(job: Job, zero_stage: int) -> dict[str, float]:
    """Root mean square of a fragment's difference to the reference, and how far weights went, in units of its rate.

    A single weight whose gradient is mere rounding may go anywhere: Adam divides by its size.
    """
    engine = job.engine(zero_stage, OPTIMIZER, by_part=False)
    for number in range(STEPS):
        job.step(engine, number)
    expected, started = reference(job.model(), job.batches(0, 1, ROWS), job.request()), dict(job.model().named_parameters())
    apart, moved = 0.0, 0.0
    for key, state in state_of(engine).items():
        name, _, start = key.partition("@")
        own = slice(int(start), int(start) + len(state["weight"]))
        rate = RATE * expected_factor(name)
        apart = max(apart, float((state["weight"] - expected[name].view(-1)[own]).square().mean().sqrt()) / rate)
        moved = max(moved, float((state["weight"] - started[name].detach().view(-1)[own]).abs().max()) / rate)
    return {"apart": apart, "moved": moved, "groups": len(engine._rates)}


def frozen(job: Job, zero_stage: int, precision: str, folder: Path) -> list[str]:
    """What was not as it should be, over steps of heads alone, of all, and of others alone."""
    engine, problems = job.engine(zero_stage, OptimizerConfig(), True, precision), []
    turns: list[tuple[str, ...]] = [("heads",), ("heads",), PARTS, ("heads",), ("embeddings", "heads")]
    ever: set[str] = set()
    before = state_of(engine)
    for number, trained in enumerate(turns):
        job.step(engine, number, trained)
        ever |= set(trained)
        now = state_of(engine)
        for part in PARTS:
            begins = {"embeddings": "embeddings.", "encoder": "layers.", "heads": "heads."}[part]
            own = [key for key in now if key.startswith(begins)]
            same = all(torch.equal(now[key]["weight"], before[key]["weight"]) for key in own)
            if own and same != (part not in trained):
                problems.append(f"step {number}, {trained}: {part} {'stayed' if same else 'moved'}")
            moments = [now[key][kind] for key in own for kind in ("exp_avg", "exp_avg_sq")]
            if part not in trained:  # a gradient of zero: not one of an earlier step
                faded = [(now[key]["exp_avg"], before[key]["exp_avg"]) for key in own if before[key].keys() > {"exp_avg"}]
                if not all(torch.allclose(new, 0.9 * old, rtol=1e-5, atol=0) for new, old in faded):
                    problems.append(f"step {number}, {trained}: {part} had a gradient")
            if part not in ever and any(bool(moment.any()) for moment in moments):
                problems.append(f"step {number}, {trained}: {part} has moments")
        before = now
    folder.mkdir(exist_ok=True)
    write_tensors(folder / rank_file(job.ranks.rank), {f"{k}:{kind}": t for k, s in now.items() for kind, t in s.items()})
    job.ranks.barrier()
    other = job.engine(zero_stage, OptimizerConfig(), True, precision)
    other.restore(FragmentReader(folder), engine.counters())
    restored = state_of(other)
    if any(not torch.equal(restored[key][kind], tensor) for key, state in now.items() for kind, tensor in state.items()):
        problems.append("what is restored is not what was saved")
    return problems


def main(folder: Path, output: Path) -> None:
    ranks = start_ranks()
    job, found = Job(folder, ranks), {}
    for zero_stage in range(4):
        found[str(zero_stage)] = {
            "rates": rates(job, zero_stage),
            "fp32": frozen(job, zero_stage, "fp32", output.with_name(f"{zero_stage}_fp32")),
            "bf16": frozen(job, zero_stage, "bf16", output.with_name(f"{zero_stage}_bf16")),
        }
        print(ranks.rank, zero_stage, found[str(zero_stage)], flush=True)
    output.with_name(f"rank_{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main(Path(sys.argv[-2]), Path(sys.argv[-1]))

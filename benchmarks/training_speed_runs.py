"""What benchmarks/training_speed.py measures, each in a process of its own: our training step, the peer's, the loader.

A run returns lists with an item for each measured step: "tokens" (useful ones: no padding), "positions" (with it),
"predicted", "seconds", "waiting" (for the loader, inside of seconds), and "peak_memory" of the process, in bytes.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from ernie_m import row_source
from ernie_m.batch import LossRequest, PackedBatch
from ernie_m.corpus import CorpusFolder
from ernie_m.dataloader import DataConfig, Prefetcher, PretrainingData, Schedule, StageConfig, to_device
from ernie_m.model import ModelConfig
from ernie_m.objectives import OBJECTIVES
from ernie_m.special_tokens import BOS_ID, EOS_ID, FIRST_POSITION_ID, PAD_ID

DS_CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"
LEARNING_RATE, IGNORED = 1e-5, -100
FULL = 0.97  # share of real tokens from which rows count as full
WARM_UP_STEPS = 2  # Adam's moments are made in the first; the loader has not run ahead yet
Result = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Size of the measurement; both sides take the same."""

    data: str
    layers: int
    hidden: int
    length: int
    rows: int
    steps: int
    dropout: float
    zero_stage: int
    peer_pairs: int
    loader_rows: int

    def model(self, folder: CorpusFolder) -> ModelConfig:
        return ModelConfig(
            num_layers=self.layers,
            hidden_size=self.hidden,
            num_heads=self.hidden // 64,
            ffn_size=4 * self.hidden,
            vocab_size=folder.manifest.vocab_size,
            num_languages=len(folder.language_ids),
            max_positions=self.length + FIRST_POSITION_ID,
            dropout=self.dropout,
        )

    def pretraining_data(self, objective: str, ranks: int = 1) -> PretrainingData:
        stage = StageConfig(steps=1_000_000, rows={objective: 1})
        schedule = Schedule((stage,), self.rows * ranks)
        return PretrainingData(CorpusFolder(self.data), DataConfig(sequence_length=self.length), schedule, seed=0)


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes (ru_maxrss would inherit the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def useful(batch: PackedBatch) -> int:
    return int((np.asarray(batch.document_BS) >= 0).sum())


def full_steps(setup: Setup, data: PretrainingData) -> list[int]:
    """The first steps, for running text those whose rows are full (the last row of a small stream's window seldom is): the
    same for both sides. Of pairs every step counts: how well they fill is what is compared."""
    is_text = all(name == "MMLM" for name in data.schedule.objectives)
    steps = (step for step in itertools.count() if not is_text or _fill(setup, data, step) >= FULL)
    return list(itertools.islice(steps, WARM_UP_STEPS + setup.steps))


def _fill(setup: Setup, data: PretrainingData, step: int) -> float:
    rows = [data.row(address).num_tokens for address in data.schedule.rows_of_step(step)]
    return sum(rows) / (setup.rows * setup.length)


# -- ours ----------------------------------------------------------------------------------------------------------


class OurTraining:
    """The engine, the model and a step as ernie_m.training_loop makes it, one micro-batch a step."""

    def __init__(self, setup: Setup, data: PretrainingData, precision: str) -> None:
        from ernie_m.engine import BatchConfig, Engine, EngineConfig, OptimizerConfig, start_ranks
        from ernie_m.model import Encoder

        self.ranks, self.num_metrics = start_ranks(), len(data.metric_names)
        config = EngineConfig(zero_stage=setup.zero_stage, precision=precision)  # type: ignore[arg-type]
        batch = BatchConfig(rows_per_step=setup.rows, micro_batch_rows=setup.rows)
        model = Encoder(setup.model(data.folder)).initialise(0)
        self.engine = Engine(model, self.ranks, DS_CONFIGS, config, OptimizerConfig(), batch)
        self.engine.module.train()

    def step(self, batch: PackedBatch) -> None:
        from ernie_m.loss import objective_scales
        from ernie_m.pseudo_parallel import fill_placeholders

        predicted_O = torch.from_numpy(np.bincount(batch.objective_N, minlength=len(OBJECTIVES))).float()
        scales_O = objective_scales(torch.ones(len(OBJECTIVES)), predicted_O, 1, 1).to(self.ranks.device)
        filled = fill_placeholders(self.engine.module, to_device(batch, self.ranks.device))
        self.engine.forward_backward(filled, LossRequest(scales_O, self.num_metrics))
        self.engine.update(LEARNING_RATE)


def timed_steps(
    prepared: Iterator[Any], step: Callable[[Any], None], count: Callable[[Any], Result], setup: Setup
) -> Result:
    """Run all steps; what `count` and the clock say of those behind the warm-up."""
    result: dict[str, Any] = {"seconds": [], "waiting": []}
    for number in range(WARM_UP_STEPS + setup.steps):
        started = time.perf_counter()
        item = next(prepared)
        arrived = time.perf_counter()
        step(item)
        ended = time.perf_counter()
        if number >= WARM_UP_STEPS:
            for key, value in {**count(item), "seconds": ended - started, "waiting": arrived - started}.items():
                result.setdefault(key, []).append(value)
    return {**result, "peak_memory": peak_memory()}


def ours(setup: Setup, objective: str, precision: str) -> Result:
    """Rows from the data folder, prepared on a thread beside the training, as in a job."""
    data = setup.pretraining_data(objective)
    training = OurTraining(setup, data, precision)
    steps = full_steps(setup, data)
    batches = Prefetcher(lambda number: data.step(steps[number], 0, 1, setup.rows)[0], 0, len(steps))

    def count(batch: PackedBatch) -> Result:
        return {"tokens": useful(batch), "positions": batch.document_BS.size, "predicted": len(batch.predicted_N)}

    return timed_steps(iter(batches), training.step, count, setup)


def btmlm(setup: Setup) -> Result:
    """Seconds of steps with both stages, and of the second stage alone (an MMLM step on the same rows), in turn."""
    data = setup.pretraining_data("BTMLM")
    training = OurTraining(setup, data, "fp32")
    result: dict[str, Any] = {"BTMLM": [], "MMLM": []}
    for number in range(WARM_UP_STEPS + setup.steps):
        (batch,) = data.step(number, 0, 1, setup.rows)
        for name, part in (("BTMLM", batch), ("MMLM", replace(batch, generation=None))):
            started = time.perf_counter()
            training.step(part)
            if number >= WARM_UP_STEPS:
                result[name].append(time.perf_counter() - started)
    return result


def profile(setup: Setup, objective: str, precision: str) -> Result:
    """torch.profiler's table of a step of ours, printed."""
    data = setup.pretraining_data(objective)
    training = OurTraining(setup, data, precision)
    batches = [data.step(number, 0, 1, setup.rows)[0] for number in full_steps(setup, data)[: WARM_UP_STEPS + 1]]
    for batch in batches[:-1]:
        training.step(batch)
    with torch.profiler.profile(record_shapes=True) as recorded:
        training.step(batches[-1])
    tables = [recorded.key_averages(group_by_input_shape=shapes) for shapes in (False, True)]
    texts = [table.table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=40) for table in tables]
    return {"table": "\n".join(texts)}


# -- the peer ------------------------------------------------------------------------------------------------------


def peer(setup: Setup, objective: str) -> Result:
    """XLMRobertaForMaskedLM on the same text: MMLM's rows as they are, TLM's pairs by its own collator."""
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    data = setup.pretraining_data(objective)
    shape = setup.model(data.folder)
    torch.manual_seed(0)
    model = XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.ffn_size,
            max_position_embeddings=shape.max_positions,
            type_vocab_size=1,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=0.0,
            pad_token_id=PAD_ID,
            layer_norm_eps=shape.layer_norm_eps,
            attn_implementation="sdpa",
        )
    ).train()
    decayed, free = ([p for p in model.parameters() if (p.dim() >= 2) == flag] for flag in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)

    def step(batches: list[Result]) -> None:
        for batch in batches:
            (model(**batch).loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def count(batches: list[Result]) -> Result:
        tokens = sum(int((batch["input_ids"] != PAD_ID).sum()) for batch in batches)
        return {"tokens": tokens, "positions": sum(batch["input_ids"].numel() for batch in batches)}

    collate = whole_rows(setup, data) if objective == "MMLM" else padded_pairs(setup, data)
    return timed_steps(map(collate, full_steps(setup, data)), step, count, setup)


def whole_rows(setup: Setup, data: PretrainingData) -> Callable[[int], list[Result]]:
    """Our rows as the peer would have concatenated text: no attention mask, which is its fastest way."""

    def collate(step: int) -> list[Result]:
        (batch,) = data.step(step, 0, 1, setup.rows)
        labels = np.full(batch.input_ids_BS.size, IGNORED, np.int64)
        labels[batch.predicted_N] = batch.labels_N
        shaped = torch.from_numpy(labels).view(batch.input_ids_BS.shape)
        return [{"input_ids": torch.from_numpy(batch.input_ids_BS).long(), "labels": shaped}]

    return collate


def padded_pairs(setup: Setup, data: PretrainingData) -> Callable[[int], list[Result]]:
    """The pairs of our rows, `peer_pairs` at a time, padded and masked by transformers' collator."""
    from transformers import DataCollatorForLanguageModeling, XLMRobertaTokenizer

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sentencepiece.bpe.model").symlink_to(data.folder.tokenizer_path.resolve())
        tokenizer = XLMRobertaTokenizer.from_pretrained(folder)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    def feature(pair: tuple[np.ndarray, ...]) -> Result:
        source, target = (sentence.tolist() for sentence in pair)
        special = [1, *[0] * len(source), 1, 1, *[0] * len(target), 1]
        return {
            "input_ids": [BOS_ID, *source, EOS_ID, EOS_ID, *target, EOS_ID],
            "attention_mask": [1] * len(special),
            "special_tokens_mask": special,
        }

    def collate(step: int) -> list[Result]:
        rows = range(step * setup.rows, (step + 1) * setup.rows)
        features = [feature(pair) for row in rows for pair in data.sentences("TLM", row)]
        return [dict(collator(features[i : i + setup.peer_pairs])) for i in range(0, len(features), setup.peer_pairs)]

    return collate


# -- loader and machine --------------------------------------------------------------------------------------------


def loader(setup: Setup, objective: str) -> Result:
    """One process preparing micro-batches and doing nothing else; for TLM the peer's collator on the same pairs too.

    "rate" of the only rank; "rate_of_64" of one rank of 64; "rate_unplanned" where every row's window is planned anew, as
    in a corpus of terabytes, whose windows are too many to be kept.
    """
    steps = max(2, setup.loader_rows // setup.rows)
    result: Result = {}
    for name, ranks, few_windows in (("rate", 1, None), ("rate_of_64", 64, None), ("rate_unplanned", 1, -1)):
        with patch.object(row_source, "FEW_WINDOWS", row_source.FEW_WINDOWS if few_windows is None else few_windows):
            data = setup.pretraining_data(objective, ranks)
        data.step(0, ranks - 1, ranks, setup.rows)
        started = time.perf_counter()
        batches = [data.step(step, ranks - 1, ranks, setup.rows)[0] for step in range(1, steps)]
        seconds = time.perf_counter() - started
        tokens, positions = sum(map(useful, batches)), sum(batch.document_BS.size for batch in batches)
        result |= {name: tokens / seconds, "fill": tokens / positions}
    if objective == "TLM":
        data = setup.pretraining_data(objective)
        collate = padded_pairs(setup, data)
        collate(0)
        started = time.perf_counter()
        ids = [batch["input_ids"] for step in range(1, steps) for batch in collate(step)]
        tokens = sum(int((part != PAD_ID).sum()) for part in ids)
        result["peer_rate"] = tokens / (time.perf_counter() - started)
        result["peer_fill"] = tokens / sum(part.numel() for part in ids)
    return result


def matmul_peak(setup: Setup, precision: str) -> Result:
    """Best FLOP/s of a square product, over sizes and tries."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    best = 0.0
    for size in (2048, 4096):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(a, b.t())
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return {"flops": best}


RUNS: dict[str, Callable[..., Result]] = {run.__name__: run for run in (ours, peer, btmlm, profile, loader, matmul_peak)}

"""Our training step of an encoder of transformers beside transformers' Trainer with its MLM collator, on the same pairs.

    OMP_NUM_THREADS=1 python benchmarks/backbones.py --model FOLDER --pairs PAIRS.tsv [--number 512] [--row 512] [--turns 3]

FOLDER holds an encoder with its tokenizer; PAIRS.tsv two columns. Both sides train the same weights, with a head of masked
words, on the same pairs, two sentences side by side, 15 % masked; whole steps: batches made, forward, backward, clipping,
AdamW, fp32, no dropout.

peer   transformers.Trainer as it comes, on batches of 32 pairs: DataCollatorForLanguageModeling masks, and pads to the
       longest of the batch; logits of all positions. `--by_length`: it draws pairs of like length together
ours   TLM, rows of `--row` positions packed with whole pairs, about as many pairs a step; our engine (ZeRO 0)

Useful tokens are those that are not padding, special tokens included. Seconds are the processor's, of one thread, behind a
step that is not counted; the sides take turns, and each one's best turn counts. Use one thread: then a busy machine disturbs
the figures little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ernie_m.base.shipped import DS_CONFIGS
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.loss import loss_scales
from ernie_m.rows.batch import Example, LossRequest, PackedBatch
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import LOSS_INDEX, TLM
from ernie_m.rows.packing import PackedRow, pack, place
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
from ernie_m.training.optimizer import OptimizerConfig

PAIRS_A_STEP = 32
LONGEST = 256
RATE = 1e-5
OURS, PEER = "ours", "transformers' Trainer"

Turn = Callable[[], tuple[int, int, float]]
"""Trains all pairs once -> useful tokens, positions, seconds; without the first step."""


class Clock(TrainerCallback):
    """Processor seconds behind the Trainer's first step."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.process_time()
        if state.global_step == 1:
            self.started = now
        self.seconds = now - self.started


def peer(model: Any, tokenizer: Any, pairs: list[list[str]], by_length: bool) -> Turn:
    """The Trainer's turn."""
    encoded = [tokenizer(*pair, truncation=True, max_length=LONGEST) for pair in pairs]
    dataset = [{"input_ids": of["input_ids"]} for of in encoded]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    sampling: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if by_length else {}
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=PAIRS_A_STEP, num_train_epochs=1, learning_rate=RATE,
        use_cpu=True, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, **sampling,
    )  # fmt: skip

    def turn() -> tuple[int, int, float]:
        sizes: list[tuple[int, int]] = []

        def collate(features: Any) -> Any:
            batch = collator(features)
            sizes.append((int(batch["attention_mask"].sum()), batch["attention_mask"].numel()))
            return batch

        clock = Clock()
        Trainer(model, arguments, collate, dataset, callbacks=[clock]).train()
        tokens, positions = np.array(sizes[1:]).sum(axis=0)
        return int(tokens), int(positions), clock.seconds

    return turn


def ours(model: Any, vocabulary: Any, pairs: list[list[str]], row: int) -> Turn:
    """Our engine's turn."""
    specials: Specials = vocabulary.specials
    backbone = ForeignEncoder(model, specials=specials, dropout=None, attention_dropout=0.0)
    layout = Layout(TLM, CorruptionConfig(), specials)
    sides = [vocabulary.encode_batch(list(texts)) for texts in zip(*pairs, strict=True)]
    texts = [np.split(side.values, side.offsets[1:-1]) for side in sides]
    documents = [
        layout.lay_out(Example(tuple(text[: LONGEST // 2 - 2] for text in pair), (1, 2)), key)
        for key, pair in enumerate(zip(*texts, strict=True))
    ]
    lengths = np.array([len(document) for document in documents])
    rows_a_step = max(1, round(PAIRS_A_STEP * lengths.mean() / row))
    batch = BatchConfig(rows_per_step=rows_a_step, micro_batch_rows=rows_a_step)
    engine = Engine(backbone, start_ranks(), DS_CONFIGS, EngineConfig(zero_stage=0), OptimizerConfig(), batch)
    engine.module.train()
    print(*backbone.choices, f"{rows_a_step} rows of {row} a step", sep="\n", flush=True)

    def steps() -> Iterator[PackedBatch[torch.Tensor]]:
        rows = place(lengths, row, len(documents))
        packed = [PackedRow([documents[i] for i in np.flatnonzero(rows == number)], 0, 0) for number in np.unique(rows)]
        for start in range(0, len(packed), rows_a_step):
            yield to_device(pack(packed[start : start + rows_a_step], row), torch.device("cpu"))

    def turn() -> tuple[int, int, float]:
        tokens = positions = 0
        started = 0.0
        for number, batch in enumerate(steps()):
            predicted_O = torch.bincount(batch.loss_N.long(), minlength=len(LOSS_INDEX)).float()
            request = LossRequest(loss_scales(torch.ones(len(LOSS_INDEX)), predicted_O, 1, 1), 1)
            engine.forward_backward(batch, request)
            engine.update(RATE)
            if number == 0:
                started = time.process_time()
            else:
                tokens += int((batch.document_BS >= 0).sum())
                positions += batch.document_BS.numel()
        return tokens, positions, time.process_time() - started

    return turn


def opened(folder: str) -> Any:
    """The model in fp32 and without dropout; a head that it lacks is drawn by transformers, for both sides."""
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


SIDES = (OURS, PEER)


def turn_of(side: str, chosen: argparse.Namespace) -> tuple[int, int, float]:
    """One turn, in this process."""
    lines = chosen.pairs.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines[: chosen.number]]
    model = opened(chosen.model)
    if side == OURS:
        return ours(model, open_vocabulary(Path(chosen.model)), pairs, chosen.row)()
    return peer(model, AutoTokenizer.from_pretrained(chosen.model), pairs, chosen.by_length)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--number", type=int, default=512, help="pairs, the file's first")
    parser.add_argument("--row", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--by_length", action="store_true", help="the Trainer draws pairs of like length together")
    parser.add_argument("--side", choices=SIDES, help="one turn of this side alone, told as JSON")
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(turn_of(chosen.side, chosen)))
        return
    best = dict.fromkeys(SIDES, 0.0)
    for side in SIDES * chosen.turns:
        # a process each: where ranks are joined, as ours are, the Trainer wraps its model for several
        done = subprocess.run([sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True)
        tokens, positions, seconds = json.loads(done.stdout.splitlines()[-1])
        best[side] = max(best[side], tokens / seconds)
        print(f"{side}: {tokens:,} useful tokens of {positions:,} positions in {seconds:.1f} s", flush=True)
    print(", ".join(f"{side} {rate:,.0f} useful tokens/s" for side, rate in best.items()))
    print(f"ours / the Trainer: {best[OURS] / best[PEER]:.2f}")


if __name__ == "__main__":
    main()

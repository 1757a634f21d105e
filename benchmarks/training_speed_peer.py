"""The peer of the speed benchmarks: transformers' XLMRobertaForMaskedLM on the same text, with its own collator; and how
fast our loader and that collator prepare rows."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from training_speed_runs import DEVICE, LEARNING_RATE, Result, Setup, full_steps, real_tokens, timed_steps

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.rows import row_source
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.prefetcher import Prefetcher

IGNORED = -100


def peer(setup: Setup, objective: str, precision: str = "fp32") -> Result:
    """A step like ours on the same text: MMLM's rows as they are, TLM's pairs by its own collator.

    `precision`: fp32; autocast, bf16 products over fp32 weights as in transformers' Trainer; bf16, weights and moments too.
    On a GPU torch's AdamW is the fused one, and a batch that does not fit is halved until it does ("rows_at_a_time").
    """
    data = setup.pretraining_data(objective)
    model = _model(setup, data).to(torch.bfloat16 if precision == "bf16" else torch.float32).train()
    decayed, free = ([p for p in model.parameters() if (p.dim() >= 2) == flag] for flag in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    fused = True if DEVICE.type == "cuda" else None
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=fused)
    most = sys.maxsize

    def forward_backward(batches: list[Result]) -> bool:
        """False where it does not fit."""
        parts = [part for batch in batches for part in _split(batch, most)]
        try:
            for part in parts:
                moved = {name: tensor.to(DEVICE, non_blocking=True) for name, tensor in part.items()}
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "autocast"):
                    loss = model(**moved).loss / len(parts)
                loss.backward()
        except torch.OutOfMemoryError:
            if most == 1:
                raise
            return False
        return True

    def step(batches: list[Result]) -> None:
        nonlocal most
        while not forward_backward(batches):
            most = min(most, max(len(batch["input_ids"]) for batch in batches)) // 2
            optimizer.zero_grad()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def count(batches: list[Result]) -> Result:
        tokens = sum(int((batch["input_ids"] != PAD_ID).sum()) for batch in batches)
        return {"tokens": tokens, "positions": sum(batch["input_ids"].numel() for batch in batches)}

    collate = whole_rows(setup, data) if objective == "MMLM" else padded_pairs(setup, data)
    steps = full_steps(setup, data)
    ahead = Prefetcher(lambda number: collate(steps[number]), 0, len(steps)) if DEVICE.type == "cuda" else None
    result = timed_steps(iter(ahead) if ahead else map(collate, steps), step, count, setup)
    return {**result, "rows_at_a_time": min(most, setup.rows)}


def _model(setup: Setup, data: PretrainingData) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    shape = setup.model(data.folder)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return XLMRobertaForMaskedLM(
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
        )


def _split(batch: Result, most: int) -> list[Result]:
    """The batch in parts of at most so many rows."""
    columns = [tensor.split(most) for tensor in batch.values()]
    return [dict(zip(batch, part, strict=True)) for part in zip(*columns, strict=True)]


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
        tokens, positions = sum(map(real_tokens, batches)), sum(batch.document_BS.size for batch in batches)
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

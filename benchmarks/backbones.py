"""A model of transformers in packed rows under our rule, beside itself on the same sentences, padded: real tokens/s.

    OMP_NUM_THREADS=1 python benchmarks/backbones.py --model FOLDER --text FILE [--sentences 256] [--row 512] [--repeats 3]

FILE holds a sentence a line. Both sides see the same sentences with 15 % of their tokens masked, as MMLM lays them out. The
peer is the class's own forward with sdpa on batches of 32 sentences in the order of the file, padded to the longest, and its
own loss, whose logits are of all positions; ours is rows of `--row` tokens, with the head on predicted positions alone.
Real tokens are those that are not padding; there is no dropout on either side. Seconds are the processor's, of one thread.
The two take turns; of the repeats each one's best counts.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.head import Targets
from ernie_m.models.tied_gradient import tied_gradient
from ernie_m.rows.batch import Document, Example
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import MMLM, CorruptionConfig
from ernie_m.rows.packing import PackedRow, pack, place

PADDED_ROWS = 32
IGNORED = -100


def documents_of(text: Path, tokenizer: Any, number: int) -> list[Document]:
    lines = text.read_text(encoding="utf-8").splitlines()[:number]
    encoded = tokenizer(lines, add_special_tokens=False, truncation=True, max_length=254)["input_ids"]
    examples = [Example((np.array(ids, np.int32),), (1,)) for ids in encoded if ids]
    layout = Layout(MMLM, CorruptionConfig(), len(tokenizer))
    return [layout.lay_out(example, key) for key, example in enumerate(examples)]


def padded(documents: list[Document], padding: int) -> dict[str, torch.Tensor]:
    longest = max(map(len, documents))
    ids, labels = np.full((len(documents), longest), padding), np.full((len(documents), longest), IGNORED)
    mask = np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)], mask[row, : len(document)] = document.input_ids, 1
        labels[row, document.predicted] = document.labels
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def peer_of(model: Any, documents: list[Document]) -> tuple[Callable[[], None], Callable[[], None]]:
    """(forward without gradient, forward and backward) of all documents."""
    padding = model.config.pad_token_id or 0
    parts = [documents[start : start + PADDED_ROWS] for start in range(0, len(documents), PADDED_ROWS)]
    batches = [padded(part, padding) for part in parts]

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def train() -> None:
        model.zero_grad()
        for batch in batches:
            model(**batch).loss.backward()

    return forward, train


def ours_of(backbone: ForeignEncoder, documents: list[Document], row: int) -> tuple[Callable[[], None], Callable[[], None]]:
    lengths = np.array([len(document) for document in documents])
    rows = place(lengths, row, len(documents))
    packed = [PackedRow([documents[i] for i in np.flatnonzero(rows == number)], 0, 0) for number in np.unique(rows)]
    at_a_time = max(1, PADDED_ROWS * int(lengths.mean()) // row)
    starts = range(0, len(packed), at_a_time)
    batches = [to_device(pack(packed[start : start + at_a_time], row), torch.device("cpu")) for start in starts]

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                backbone.hidden_states(batch)

    def train() -> None:
        backbone.zero_grad()
        for batch in batches:
            tied = tied_gradient(batch.input_ids_BS)
            states = backbone.hidden_states(batch, wanted_N=batch.predicted_N, tied=tied)
            backbone.head(states, Targets(batch.predicted_N, batch.labels_N, row), tied).mean().backward()

    return forward, train


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--row", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    model = AutoModelForMaskedLM.from_pretrained(chosen.model, attn_implementation="sdpa").eval()
    documents = documents_of(chosen.text, AutoTokenizer.from_pretrained(chosen.model), chosen.sentences)
    num_real = sum(map(len, documents))
    backbone = ForeignEncoder(copy.deepcopy(model))
    print(backbone.attention_choice, backbone.head_choice, sep="\n")
    sides = {"transformers, padded": peer_of(model, documents), "packed rows": ours_of(backbone, documents, chosen.row)}
    for number, what in enumerate(("forward", "forward and backward")):
        best = dict.fromkeys(sides, np.inf)
        for _ in range(chosen.repeats):
            for side, work in sides.items():
                best[side] = min(best[side], seconds(work[number]))
        print(f"{what}: " + ", ".join(f"{side} {num_real / took:,.0f} real tokens/s" for side, took in best.items()))


if __name__ == "__main__":
    main()

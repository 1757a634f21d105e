"""Attention without the pairs that nobody reads: rows are cut between documents, and each piece attends to itself alone.

No document reads another (ernie_m.rows.attention_rule), so most of the dense S x S attention of a row of sentence pairs is
computed for the mask to throw away. Pieces of at least LEAST positions, each cut at the next border, need about LEAST / S of
it. Where to cut is read from the batch by the host: free on CPU; on a GPU it would wait (flex skips blocks there).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.rows.attention_rule import MaskRule, dense_mask
from ernie_m.rows.batch import PackedBatch

LEAST = 96
"""Positions of a piece that is worth a call (docs/log/speed.md)."""
MOST = 0.5
"""Share of the rows' pairs up to which pieces are taken."""


@dataclass(frozen=True)
class RowPieces:
    """Consecutive pieces of the B x S positions: how long each is, and who reads whom in it, bool [1, 1, L, L]."""

    lengths: list[int]
    masks: list[Tensor]


def row_pieces(rule: MaskRule, batch: PackedBatch[Tensor]) -> RowPieces | None:
    """The rows of a micro-batch in pieces; None where they would save too little to be worth their calls."""
    num_rows, sequence_length = batch.document_BS.shape
    spans = [(row, start, stop) for row in range(num_rows) for start, stop in _cut(batch.document_BS[row])]
    lengths = [stop - start for _, start, stop in spans]
    if sum(length**2 for length in lengths) > MOST * num_rows * sequence_length**2:
        return None
    return RowPieces(lengths, [dense_mask(rule, torch.tensor([row]), torch.arange(*span)) for row, *span in spans])


def _cut(document_S: Tensor) -> Iterator[tuple[int, int]]:
    """[start, stop) of a row's pieces."""
    start, sequence_length = 0, len(document_S)
    for border in [*(document_S.diff().nonzero()[:, 0] + 1).tolist(), sequence_length]:
        if border - start >= LEAST or border == sequence_length:
            yield start, border
            start = border


def attend_in_pieces(query_BHSE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, pieces: RowPieces, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v under the pieces' masks, [B, H, S, E]."""
    B, H, S, E = query_BHSE.shape
    of_positions = [tensor.transpose(1, 2).reshape(B * S, H, E) for tensor in (query_BHSE, key_BHSE, value_BHSE)]
    cut = [tensor.split(pieces.lengths) for tensor in of_positions]
    attended = []
    for *piece, mask in zip(*cut, pieces.masks, strict=True):
        query_HLE, key_HLE, value_HLE = (tensor.transpose(0, 1) for tensor in piece)
        out = F.scaled_dot_product_attention(query_HLE[None], key_HLE[None], value_HLE[None], mask, dropout)
        attended.append(out[0].transpose(0, 1))
    return torch.cat(attended).view(B, S, H, E).transpose(1, 2)

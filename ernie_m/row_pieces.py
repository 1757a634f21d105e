"""Attention without the pairs that nobody reads: rows are cut between documents, and each piece attends to itself alone.

No document reads another (ernie_m.attention_rule), so most of the dense S x S attention of a row of sentence pairs is
computed for the mask to throw away. Pieces of at least LEAST positions, each cut at the next border, need about LEAST / S of
it. Where to cut is read from the batch by the host: free on CPU; on a GPU it would wait (flex skips blocks there).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.attention_rule import MaskRule, dense_mask
from ernie_m.batch import PackedBatch

LEAST = 96
"""Positions of a piece that is worth a call (docs/log.md)."""


@dataclass(frozen=True)
class RowPieces:
    """Consecutive pieces of the B x S positions: how long each is, and who reads whom in it, bool [1, 1, L, L]."""

    lengths: list[int]
    masks: list[Tensor]


def row_pieces(rule: MaskRule, batch: PackedBatch) -> RowPieces | None:
    """The rows of a micro-batch in pieces; None where every row is a piece of its own, which is better taken at once."""
    num_rows, sequence_length = batch.document_BS.shape
    lengths, masks = [], []
    for row, document_S in enumerate(batch.document_BS):
        start, borders = 0, (document_S.diff().nonzero()[:, 0] + 1).tolist()
        for border in [*borders, sequence_length]:
            if border - start >= LEAST or border == sequence_length:
                masks.append(dense_mask(rule, torch.tensor([row]), torch.arange(start, border)))
                lengths.append(border - start)
                start = border
    return RowPieces(lengths, masks) if len(lengths) > num_rows else None


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

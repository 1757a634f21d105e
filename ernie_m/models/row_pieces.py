"""Attention with fewer unread pairs: rows are cut between documents, and each piece attends only to itself.

No document reads another (ernie_m.rows.attention_rule), so in a row of sentence pairs most of the dense S x S attention is
masked out. A piece has at least LEAST positions and ends at the next border of a document. Pieces compute about LEAST / S of
the pairs. The host reads from the batch where to cut: this costs nothing on CPU, but it would have to wait for a GPU (flex
skips blocks there).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.rows.attention_rule import MaskRule, dense_mask
from ernie_m.rows.batch import PAD_DOCUMENT

LEAST = 96
"""Least positions of a piece: a shorter one is not worth its own call (docs/log/speed.md)."""
MOST = 0.5
"""Pieces are used if they compute at most this share of the rows' pairs."""


@dataclass(frozen=True)
class RowPieces:
    """Consecutive pieces of the B x S positions: the length of each, and its mask, bool [1, 1, L, L]."""

    lengths: list[int]
    masks: list[Tensor]


def row_pieces(rule: MaskRule[Tensor], document_BS: Tensor) -> RowPieces | None:
    """The rows of a micro-batch in pieces; None if pieces would save too little."""
    num_rows, sequence_length = document_BS.shape
    if not _lie_together(document_BS):
        return None
    spans = [(row, start, stop) for row in range(num_rows) for start, stop in _cut(document_BS[row])]
    lengths = [stop - start for _, start, stop in spans]
    if sum(length**2 for length in lengths) > MOST * num_rows * sequence_length**2:
        return None
    inside = [(row, torch.arange(*span)) for row, *span in spans]
    return RowPieces(lengths, [dense_mask(rule, torch.tensor([row]), positions, positions) for row, positions in inside])


def _lie_together(document_BS: Tensor) -> bool:
    """Whether the positions of each document stand side by side, padding behind all of them."""
    order_BS = torch.where(document_BS == PAD_DOCUMENT, torch.iinfo(document_BS.dtype).max, document_BS)
    return bool((order_BS.diff(dim=1) >= 0).all())


def _cut(document_S: Tensor) -> Iterator[tuple[int, int]]:
    """[start, stop) of a row's pieces."""
    start, sequence_length = 0, len(document_S)
    for border in [*(document_S.diff().nonzero()[:, 0] + 1).tolist(), sequence_length]:
        if border - start >= LEAST or border == sequence_length:
            yield start, border
            start = border


def attend_in_pieces(query_BHSE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, pieces: RowPieces, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v under the masks of the pieces, [B, H, S, E]."""
    B, H, S, E = query_BHSE.shape
    of_positions = [tensor.transpose(1, 2).reshape(B * S, H, E) for tensor in (query_BHSE, key_BHSE, value_BHSE)]
    cut = [tensor.split(pieces.lengths) for tensor in of_positions]
    attended = []
    for *piece, mask in zip(*cut, pieces.masks, strict=True):
        query_HLE, key_HLE, value_HLE = (tensor.transpose(0, 1) for tensor in piece)
        out = F.scaled_dot_product_attention(query_HLE[None], key_HLE[None], value_HLE[None], mask, dropout)
        attended.append(out[0].transpose(0, 1))
    return torch.cat(attended).view(B, S, H, E).transpose(1, 2)

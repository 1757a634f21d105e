"""Attention with fewer unread pairs: documents are gathered in short pieces, and each piece attends only to itself.

No document reads another (ernie_m.rows.attention_rule), so in a row of sentence pairs most of the dense Q x K attention is
masked out.

1. `row_pieces`: the longest documents have a piece each, of the longest one's length, which shorter ones fill up; then the
   longest of those that are left, and so on. Documents of up to LEAST tokens share pieces of that length. A document is
   whole in one piece.
2. `attend_in_pieces`: queries, keys and values go to their pieces, all pieces of a length attend in one call, and what they
   read goes back to its place in the rows.

The host reads from the batch which documents there are: this costs nothing on CPU, but it would have to wait for a GPU (flex
skips blocks there).

Shapes: B rows, Q and K positions of queries and keys in a row, P pieces of W places, M places of all pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ernie_m.base.arrays import ranges
from ernie_m.rows.attention_rule import MaskRule
from ernie_m.rows.batch import PAD_DOCUMENT
from ernie_m.rows.packing import NO_ROW, place

LEAST = 32
"""Places of the shortest pieces: shorter ones save less than they cost (docs/log/speed.md)."""
SHORTER = 1.5
"""By how much pieces of the next length are shorter, or by more."""
ROUND = 8
"""Longer pieces have a multiple of so many places."""
MOST = 0.4
"""Pieces are used if they compute at most this share of the rows' pairs."""


@dataclass(frozen=True)
class Places:
    """Where the positions of rows are in pieces, and back; `empty` and `absent` have no counterpart, and stand for 0."""

    position_M: Tensor
    """Of each place the flat position in B x Q (or B x K) that it holds, int64."""
    empty: Tensor
    """Places that hold none."""
    place_N: Tensor
    """Of each flat position its place, int64."""
    absent: Tensor
    """Positions that are in no piece: padding."""

    def filled(self, states_ND: Tensor) -> Tensor:
        """States of all positions -> those of all places, [M, D]; 0 where a place is empty."""
        return _Moved.apply(  # type: ignore[no-untyped-call]
            states_ND, (self.position_M, self.empty), (self.place_N, self.absent)
        )

    def returned(self, states_MD: Tensor) -> Tensor:
        """States of all places -> those of all positions, [N, D]; 0 at padding."""
        return _Moved.apply(  # type: ignore[no-untyped-call]
            states_MD, (self.place_N, self.absent), (self.position_M, self.empty)
        )


@dataclass(frozen=True)
class RowPieces:
    """The pieces of a micro-batch: how they are filled, and of each length of pieces who reads whom, bool [P, 1, W, W]."""

    queries: Places
    keys: Places
    masks: list[Tensor]


def row_pieces(rule: MaskRule[Tensor], of_queries_BQ: Tensor, of_keys_BK: Tensor) -> RowPieces | None:
    """Documents of rows in pieces, from the document of each query and of each key; None if that would save too little."""
    sides = [documents.numpy() for documents in (of_queries_BQ, of_keys_BK)]
    num_rows, most = len(of_queries_BQ), 1 + max(int(documents.max(initial=PAD_DOCUMENT)) for documents in sides)
    numbers = [_numbered(documents, most) for documents in sides]
    counts = [np.bincount(number[number >= 0], minlength=num_rows * most) for number in numbers]
    lengths = np.maximum(*counts)
    chosen = np.flatnonzero(counts[0])
    starts, shapes = _placed(lengths[chosen])
    if (
        not len(chosen)
        or sum(num_pieces * width**2 for num_pieces, width in shapes) > MOST * of_queries_BQ.numel() * of_keys_BK.shape[1]
    ):
        return None
    total = sum(num_pieces * width for num_pieces, width in shapes)
    filled = [_places(*side, chosen, starts, total) for side in zip(numbers, counts, strict=True)]
    return RowPieces(filled[0], filled[1], _masks(rule, filled, [documents.shape[1] for documents in sides], shapes))


def _numbered(documents_BS: np.ndarray, most: int) -> np.ndarray:
    """The document of each flat position, numbered over all rows; negative: padding."""
    numbers_BS = documents_BS + np.arange(len(documents_BS))[:, None] * most
    return np.where(documents_BS == PAD_DOCUMENT, -1, numbers_BS).reshape(-1)


def _placed(lengths: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The first place of each document, and (number of pieces, their length) for each length of pieces, longest first.

    There are as many pieces of a length as documents of about that length. Shorter ones fill these up, as far as they fit.
    """
    starts, shapes, total, left = np.zeros(len(lengths), np.int64), [], 0, np.arange(len(lengths))
    while len(left):
        longest = int(lengths[left].max())
        width = max(LEAST, -(-longest // ROUND) * ROUND)
        num_pieces = len(left) if width == LEAST else int((lengths[left] > longest / SHORTER).sum())
        piece = place(lengths[left], width, num_pieces)
        by_piece = np.argsort(piece, kind="stable")[(piece == NO_ROW).sum() :]
        sizes, pieces = lengths[left[by_piece]], piece[by_piece]
        before = np.cumsum(sizes) - sizes
        starts[left[by_piece]] = total + pieces * width + before - before[np.searchsorted(pieces, pieces)]
        shapes.append((1 + int(pieces[-1]), width))
        total += shapes[-1][0] * width
        left = left[piece == NO_ROW]
    return starts, shapes


def _places(numbers: np.ndarray, counts: np.ndarray, chosen: np.ndarray, starts: np.ndarray, total: int) -> Places:
    """Where one side's positions go: those of each chosen document side by side from its start on."""
    by_document = np.argsort(numbers, kind="stable")[len(numbers) - counts.sum() :]
    first = np.cumsum(counts) - counts
    positions = by_document[ranges(first[chosen], counts[chosen])]
    places = ranges(starts, counts[chosen])
    position_M, place_N = np.full(total, -1), np.full(len(numbers), -1)
    position_M[places], place_N[positions] = positions, places
    held, found = map(torch.from_numpy, (position_M, place_N))
    return Places(held.clamp(min=0), (held < 0).nonzero()[:, 0], found.clamp(min=0), (found < 0).nonzero()[:, 0])


def _masks(rule: MaskRule[Tensor], filled: list[Places], lengths: list[int], shapes: list[tuple[int, int]]) -> list[Tensor]:
    """The rule inside the pieces. An empty place reads the first one, since a softmax over nothing is not a number."""
    sizes, masks = [num_pieces * width for num_pieces, width in shapes], []
    row_M, index_M, there_M = [], [], []
    for places, length in zip(filled, lengths, strict=True):
        is_there = torch.ones(len(places.position_M), dtype=torch.bool).index_fill_(0, places.empty, False)
        row_M.append((places.position_M // length).split(sizes))
        index_M.append((places.position_M % length).split(sizes))
        there_M.append(is_there.split(sizes))
    for number, shape in enumerate(shapes):
        row, index, there = ([side[number].view(shape) for side in sides] for sides in (row_M, index_M, there_M))
        query, key = (slice(None), None, slice(None), None), (slice(None), None, None, slice(None))
        mask = rule(row[0][query], None, index[0][query], index[1][key]) & (row[0][query] == row[1][key])
        mask &= there[0][query] & there[1][key]
        mask[..., 0] |= ~there[0][:, None]
        masks.append(mask)
    return masks


def attend_in_pieces(query_BHQE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, pieces: RowPieces, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v under the masks of the pieces, [B, H, Q, E]."""
    B, H, Q, E = query_BHQE.shape
    sides = ((query_BHQE, pieces.queries), (key_BHKE, pieces.keys), (value_BHKE, pieces.keys))
    sizes = [mask.shape[0] * mask.shape[2] for mask in pieces.masks]
    cut = [places.filled(tensor.transpose(1, 2).flatten(0, 1).flatten(1)).split(sizes) for tensor, places in sides]
    attended = []
    for *parts, mask in zip(*cut, pieces.masks, strict=True):
        query, key, value = (part.view(len(mask), -1, H, E).transpose(1, 2) for part in parts)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        attended.append(read.transpose(1, 2).reshape(-1, H * E))
    read_MD = torch.cat(attended) if len(attended) > 1 else attended[0]
    return pieces.queries.returned(read_MD).view(B, Q, H, E).transpose(1, 2)


class _Moved(torch.autograd.Function):
    """Rows in another order, and gradients back: each is a plain copy, since no row stands in two places."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor]) -> Tensor:
        ctx.back = back
        return _gathered(rows, *there)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _gathered(gradients[0], *ctx.back), None, None


def _gathered(rows: Tensor, chosen: Tensor, without: Tensor) -> Tensor:
    return rows.index_select(0, chosen).index_fill_(0, without, 0)

"""The gradient of a matrix that is input embedding and output layer in one: made by the head, finished by the embedding.

autograd adds the two up in a third tensor. At 250,002 words that is 0.7 GiB, the rows of a few thousand tokens in it, at the
moment when a step holds most. Here the head's backward leaves its gradient in a `TiedGradient`, and the embedding's, which
always runs last, adds its rows in place and hands the whole to autograd. The room for it is taken before the forward's
activations are: theirs would else be cut out of the hole that the last step's gradient left, and the next one need a new.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedGradient:
    """Where one forward and backward keeps the head's gradient [V, D] until the embedding's backward.

    `room`: memory for it, from the embedding's forward to the head's backward.
    """

    room: Tensor | None = None
    gradient: Tensor | None = None

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b, in the room."""
        room, self.room = self.room, None
        return a @ b if room is None else torch.mm(a, b, out=room)


def tied_gradient(ids: Tensor) -> TiedGradient | None:
    """One for a forward of `ids` with gradient; None on GPUs, where an addition of rows that repeat is not deterministic."""
    return None if ids.is_cuda or not torch.is_grad_enabled() else TiedGradient()


def embedding_rows(ids: Tensor, weight_VD: Tensor, padding_id: int, tied: TiedGradient | None) -> Tensor:
    """F.embedding, [*ids, D]; with `tied`, backward gives the weight the head's gradient and these rows' together."""
    if tied is None:
        return F.embedding(ids, weight_VD, padding_id)
    return _EmbeddingRows.apply(ids, weight_VD, padding_id, tied)  # type: ignore[no-untyped-call]


class _EmbeddingRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight_VD: Tensor, padding_id: int, tied: TiedGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_words, ctx.padding_id, ctx.tied = len(weight_VD), padding_id, tied
        tied.room = torch.empty_like(weight_VD)
        return F.embedding(ids, weight_VD, padding_id)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        rows = torch.ops.aten.embedding_backward(gradients[0], ids, ctx.num_words, ctx.padding_id, False, sparse=True)
        whole_VD, ctx.tied.gradient = ctx.tied.gradient, None
        assert whole_VD is not None, "the head's backward comes first"
        return None, whole_VD.add_(rows), None, None

"""The gradient of a matrix that is both input embedding and output matrix: the head computes it, the embedding completes it.

autograd would add the two gradients in a third tensor. With 250,002 words it takes 0.7 GiB, for the rows of a few thousand
tokens, when a step uses most memory. Here the backward of each head adds its gradient to a `TiedGradient`. The embedding's
backward, which always runs last, adds its rows in place and gives the sum to autograd. Memory for it is allocated before the
activations of the forward. Otherwise these would take the place of the last step's gradient, and the next one would need new
memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedGradient:
    """Holds the head's gradient [V, D] until the embedding's backward, for one forward and backward.

    `room`: memory for it, from the embedding's forward until the first head's backward. `is_collected`: an embedding takes
    part. If none does, as where the output matrix is another one, heads give their gradients to autograd.
    """

    is_collected = False
    room: Tensor | None = None
    gradient: Tensor | None = None

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b, written into `room`."""
        room, self.room = self.room, None
        return a @ b if room is None else torch.mm(a, b, out=room)

    def add(self, gradient_VD: Tensor) -> None:
        """One head's gradient of the matrix; several heads may share it."""
        self.gradient = gradient_VD if self.gradient is None else self.gradient.add_(gradient_VD)


def tied_gradient(ids: Tensor) -> TiedGradient | None:
    """One for a forward of `ids` with gradient; None on GPUs, where adding to repeated rows is not deterministic."""
    return None if ids.is_cuda or not torch.is_grad_enabled() else TiedGradient()


def embedding_rows(ids: Tensor, weight_VD: Tensor, padding_id: int, tied: TiedGradient | None) -> Tensor:
    """F.embedding, [*ids, D]. With `tied`, its backward returns the sum of the head's gradient and its own."""
    if tied is None:
        return F.embedding(ids, weight_VD, padding_id)
    return _EmbeddingRows.apply(ids, weight_VD, padding_id, tied)  # type: ignore[no-untyped-call]


class _EmbeddingRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight_VD: Tensor, padding_id: int, tied: TiedGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_words, ctx.padding_id, ctx.tied = len(weight_VD), padding_id, tied
        tied.is_collected, tied.room = True, torch.empty_like(weight_VD)
        return F.embedding(ids, weight_VD, padding_id)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        rows = torch.ops.aten.embedding_backward(gradients[0], ids, ctx.num_words, ctx.padding_id, False, sparse=True)
        whole_VD, ctx.tied.gradient = ctx.tied.gradient, None
        assert whole_VD is not None, "the head's backward comes first"
        return None, whole_VD.add_(rows), None, None

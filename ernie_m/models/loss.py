"""The loss: exact over the global step, computed only at predicted positions.

    loss = sum over predictions of  weight * (nll summed over the global step) / (its predicted tokens in the global step)

1. `predicted_nll`: -log p of each predicted token. The logits are stored once; they become their exponentials, then their
   gradient, in place.
2. `loss_scales`: the factor of each loss's nll. It undoes DeepSpeed's own averaging.
3. `weighted_loss`: the micro-batch's share of the loss.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ernie_m.models.tied_gradient import TiedGradient

MAX_LOGITS = 1 << 28
"""Logits kept from forward to backward (fp32: 1 GiB). If there are more, backward recomputes all, this many at a time."""

LIFT = 8.0
"""Exponentials are of logits less the greatest one, plus this: in fp16 a word 10^10 times less likely is not yet 0."""


def logits_at_a_time(device: torch.device) -> int:
    """Logits to process at a time: on CPU as many as fit in a cache, on a GPU enough to keep it busy."""
    return 1 << 20 if device.type == "cpu" else 1 << 26


def predicted_nll(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor, tied: TiedGradient | None = None
) -> Tensor:
    """-log softmax(hidden W^T + b)[label], fp32 [N]. Beyond MAX_LOGITS the logits are recomputed in the backward pass.

    With `tied`, the weight's gradient is stored there for the embedding's backward, instead of going to autograd.
    """
    return _PredictedNll.apply(hidden_ND, weight_VD, bias_V, labels_N.long(), tied)  # type: ignore[no-untyped-call]


def plain_nll(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor) -> Tensor:
    """The same, written as the formula, with all logits in fp32: the oracle of tests and benchmarks."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
    return F.cross_entropy(logits_NV, labels_N.long(), reduction="none")


class _PredictedNll(torch.autograd.Function):
    """Cross entropy of a linear layer, with one tensor of the logits' size; torch's own holds three, in fp32.

    That tensor is hidden W^T, in the weights' precision. Forward turns it in place into exponentials of the logits, backward
    these into the logits' gradient, slice by slice in fp32. So each exponential is computed once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor, tied: TiedGradient | None
    ) -> Tensor:
        ctx.tied = tied if tied is not None and tied.is_collected else None
        chunk = max(1, MAX_LOGITS // len(weight_VD))
        bias = bias_V.float()
        log_sums, sums, of_labels, product_NV = [], [], [], None
        for hidden, labels in zip(hidden_ND.split(chunk), labels_N.split(chunk), strict=True):
            product_NV = _product(hidden, weight_VD)
            of_labels.append(product_NV.gather(1, labels[:, None])[:, 0] + bias[labels])
            shift, total = _to_exponentials(product_NV, bias)
            log_sums.append(shift + total.log())
            sums.append(total)
        kept = product_NV if len(hidden_ND) <= chunk else None
        nll_N = torch.cat(log_sums) - torch.cat(of_labels)
        ctx.chunk = chunk
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, nll_N, torch.cat(sums), kept)
        return nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_N,) = gradients
        hidden_ND, weight_VD, bias_V, labels_N, nll_N, sum_N, kept_NV = ctx.saved_tensors
        parts = [tensor.split(ctx.chunk) for tensor in (hidden_ND, labels_N, nll_N, sum_N, gradient_N)]
        hidden_gradients, weight_gradient, bias_gradient = [], None, None
        for hidden, *of_predictions in zip(*parts, strict=True):
            product_NV = kept_NV
            if product_NV is None:
                product_NV = _product(hidden, weight_VD)
                _to_exponentials(product_NV, bias_V.float())
            of_bias = _to_gradient(product_NV, *of_predictions)
            hidden_gradients.append(product_NV @ weight_VD)
            of_weight = product_NV.t() @ hidden if ctx.tied is None else ctx.tied.product(product_NV.t(), hidden)
            if len(parts[0]) > 1:  # the sum is fp32 in any precision
                of_weight = of_weight.float()
            weight_gradient = of_weight if weight_gradient is None else weight_gradient.add_(of_weight)
            bias_gradient = of_bias if bias_gradient is None else bias_gradient.add_(of_bias)
        assert weight_gradient is not None
        assert bias_gradient is not None
        of_weight = weight_gradient.to(weight_VD.dtype)
        if ctx.tied is not None:
            ctx.tied.add(of_weight)
            of_weight = None
        return torch.cat(hidden_gradients), of_weight, bias_gradient.to(bias_V.dtype), None, None


def _product(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    return hidden_ND @ weight_VD.t()


def fp32_linear(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
    """hidden W^T + b as fp32 [N, V], from factors of any precision; without gradient."""
    if hidden_ND.is_cuda and hidden_ND.dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype"):  # from torch 2.8 on
        return torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32) + bias_V
    return F.linear(hidden_ND.float(), weight_VD.float(), bias_V.float())


def _to_exponentials(product_NV: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """Turn hidden W^T in place into exp(logit - shift). Returns the shifts and the sums over words, fp32 [N] each.

    A shift is LIFT below the greatest logit.
    """
    shifts, sums = [], []
    for part in _slices(product_NV):
        values = _wide(part).add_(bias_V)
        shifts.append(values.amax(1).sub_(LIFT))
        sums.append(values.sub_(shifts[-1][:, None]).exp_().sum(1))
        part.copy_(values)
    return torch.cat(shifts), torch.cat(sums)


def _to_gradient(exp_NV: Tensor, labels_N: Tensor, nll_N: Tensor, sum_N: Tensor, gradient_N: Tensor) -> Tensor:
    """Turn the exponentials in place into the gradient of the logits: (softmax - one-hot of the label) times `gradient_N`.

    Returns its sum over positions, fp32 [V]: the gradient of the bias. Where the model is sure, softmax - 1 is close to 0:
    it is computed from the nll, since exponentials in 16 bits do not tell 0.999 from 1.
    """
    start, summed_V = 0, torch.zeros(exp_NV.shape[1], dtype=sum_N.dtype, device=exp_NV.device)
    for part in _slices(exp_NV):
        rows = slice(start, start + len(part))
        values = _wide(part).mul_((gradient_N[rows] / sum_N[rows])[:, None])
        values[torch.arange(len(part), device=part.device), labels_N[rows]] = torch.expm1(-nll_N[rows]) * gradient_N[rows]
        summed_V += values.sum(0)
        part.copy_(values)
        start += len(part)
    return summed_V


def _wide(part_NV: Tensor) -> Tensor:
    """In fp32; what is that, or wider, is not copied."""
    return part_NV.to(torch.promote_types(part_NV.dtype, torch.float32))


def _slices(logits_NV: Tensor) -> tuple[Tensor, ...]:
    return logits_NV.split(max(1, logits_at_a_time(logits_NV.device) // logits_NV.shape[1]))


def loss_scales(weights_L: Tensor, predicted_L: Tensor, world_size: int, accumulation_steps: int) -> Tensor:
    """The factor of each loss's summed nll for DeepSpeed's backward: fp32 [L].

    `predicted_L`: number of predictions in the *global* step. DeepSpeed divides the loss of each micro-batch by the
    accumulation steps, and averages gradients over ranks. Both are undone here, and only here.
    """
    per_prediction_L = weights_L / predicted_L.clamp(min=1)
    return per_prediction_L * (world_size * accumulation_steps)


def weighted_loss(nll_N: Tensor, loss_N: Tensor, scales_L: Tensor) -> Tensor:
    """Sum of each prediction's nll times the scale of its loss: a scalar; if N is 0, it is 0 and has a graph."""
    return (nll_N * scales_L[loss_N.long()]).sum()


def metric_sums(nll_N: Tensor, metric_N: Tensor, num_metrics: int) -> Tensor:
    """Summed nll of each (loss, stream) metric, fp64 [M], without gradient."""
    zeros = torch.zeros(num_metrics, dtype=torch.float64, device=nll_N.device)
    return zeros.index_add(0, metric_N.long(), nll_N.detach().double())

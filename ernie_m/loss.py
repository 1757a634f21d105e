"""The loss: exact over the global step, computed for predicted positions alone.

    loss = sum over objectives of  weight * (nll summed over the global step) / (its predicted tokens in the global step)

1. `predicted_nll`: -log p of each predicted token, logits in chunks, fp32.
2. `objective_scales`: the factor of each objective's nll, with DeepSpeed's own averaging undone.
3. `weighted_loss`: the micro-batch's share of the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 1 << 26  # logits alive at a time: 256 MiB in fp32


def predicted_nll(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor) -> Tensor:
    """-log softmax(hidden W^T + b)[label], fp32 [N]. When N x V is large, chunks are recomputed in the backward pass."""
    chunk = max(1, MAX_LOGITS // weight_VD.shape[0])
    if len(hidden_ND) <= chunk:
        return _nll(hidden_ND, weight_VD, bias_V, labels_N)
    parts = [
        checkpoint(_nll, hidden, weight_VD, bias_V, labels, use_reentrant=False, preserve_rng_state=False)
        for hidden, labels in zip(hidden_ND.split(chunk), labels_N.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _nll(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, labels_N: Tensor) -> Tensor:
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
    return F.cross_entropy(logits_NV, labels_N.long(), reduction="none")


def objective_scales(weights_O: Tensor, predicted_O: Tensor, world_size: int, accumulation_steps: int) -> Tensor:
    """What to multiply an objective's summed nll with before DeepSpeed's backward: fp32 [O].

    `predicted_O` counts the predicted tokens of the *global* step. DeepSpeed divides each micro-batch's loss by the
    accumulation steps and averages gradients over ranks; both are undone here, and only here.
    """
    per_token_O = weights_O / predicted_O.clamp(min=1)
    return per_token_O * (world_size * accumulation_steps)


def weighted_loss(nll_N: Tensor, objective_N: Tensor, scales_O: Tensor) -> Tensor:
    """Sum over predicted positions of their nll times their objective's scale: a scalar; 0 (with a graph) when N is 0."""
    return (nll_N * scales_O[objective_N.long()]).sum()


def metric_sums(nll_N: Tensor, metric_N: Tensor, num_metrics: int) -> Tensor:
    """Summed nll of each (objective, stream) metric, fp64 [M], without gradient."""
    zeros = torch.zeros(num_metrics, dtype=torch.float64, device=nll_N.device)
    return zeros.index_add(0, metric_N.long(), nll_N.detach().double())

"""Weights laid out once for the products of many small batches, for a model that writes on a CPU.

A step of decoding multiplies a few rows with every matrix of the model. torch's product lays a matrix out anew each time,
which then takes as long as the product. oneDNN's can be given one that is laid out already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.models.gelu_linear import GeluLinear
from ernie_m.models.heads import TokenHead
from ernie_m.models.loss import logits_at_a_time

LEAST = 1 << 17
"""Numbers of a matrix. With a smaller one torch's product is no slower, and its call is shorter."""
ROWS = 32
"""The layout is chosen for so many rows. It is the same from about eight to some hundreds."""
Product = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside the block the model's products are of laid out copies of its weights, which must not change meanwhile.

    Nothing happens on a GPU, in 16 bits, and where torch is built without oneDNN.
    """
    changed: list[tuple[nn.Module, str]] = []

    def put(module: nn.Module, name: str, function: Callable[..., object]) -> None:
        setattr(module, name, function)
        changed.append((module, name))

    try:
        for module in model.modules():
            if isinstance(module, TokenHead) and _is_worth_it(module.decoder_weight):
                put(module, "logit_slices", _slices(module))
            elif isinstance(module, nn.Linear) and _is_worth_it(module.weight):
                product = _product(module.weight, module.bias)
                put(module, "forward", partial(_behind_gelu, product) if isinstance(module, GeluLinear) else product)
        yield
    finally:
        for module, name in changed:
            delattr(module, name)


def _is_worth_it(weight: Tensor) -> bool:
    is_able = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return is_able and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LEAST


def _product(weight_ND: Tensor, bias_N: Tensor | None) -> Product:
    """x W^T + b of a copy of W."""
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight_ND.detach(), ROWS)
    multiplied = torch.ops.mkldnn._linear_pointwise.default
    bias = None if bias_N is None else bias_N.detach()
    return lambda input: multiplied(input, laid_out, bias, "none", [], "")


def _behind_gelu(product: Product, input: Tensor) -> Tensor:
    return product(F.gelu(input))


def _slices(head: TokenHead) -> Callable[[Tensor], Iterator[tuple[int, Tensor]]]:
    """As TokenHead.logit_slices, in slices of one width."""
    width = logits_at_a_time(head.decoder_weight.device) // 128
    firsts = range(0, len(head.decoder_weight), width)
    parts = zip(head.decoder_weight.split(width), head.decoder_bias.split(width), strict=True)
    products = [_product(weight, bias) for weight, bias in parts]

    def slices(hidden_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
        for first, product in zip(firsts, products, strict=True):
            yield first, product(hidden_ND)

    return slices

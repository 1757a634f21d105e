"""The linear layer behind a GELU: torch's own pair bit for bit, without the GELU's output kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.models.gelu_linear import GeluLinear

N, WIDE, NARROW = 37, 96, 24


def both(shape: tuple[int, ...], dtype: torch.dtype) -> list[list[Tensor]]:
    """Output and gradients (input, weight, bias) of ours, and of nn.Linear behind torch's GELU."""
    found = []
    for layer_class in (GeluLinear, nn.Linear):
        torch.manual_seed(0)
        layer = layer_class(WIDE, NARROW).to(dtype)
        input = (3 * torch.randn(*shape, WIDE)).to(dtype).requires_grad_()
        output = layer(input) if layer_class is GeluLinear else layer(F.gelu(input))
        output.backward(torch.linspace(-1, 2, output.numel()).view_as(output).to(dtype))
        assert input.grad is not None
        found.append([output.detach(), input.grad, layer.weight.grad, layer.bias.grad])
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(N,), (3, N), (0,)])
def test_output_and_gradients_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ours, theirs = both(shape, dtype)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)
    assert shape == (0,) or min(gradient.abs().max() for gradient in theirs[1:]) > 1e-2


def test_gradients_are_those_of_differences() -> None:
    layer = GeluLinear(5, 3).double()
    assert torch.autograd.gradcheck(layer, torch.randn(4, 5, dtype=torch.float64, requires_grad=True))


def test_nothing_is_saved_but_the_input_and_the_weight() -> None:
    layer, input = GeluLinear(WIDE, NARROW), torch.randn(N, WIDE, requires_grad=True)
    saved: list[tuple[int, int]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append((t.data_ptr(), t.numel())), t)[1], lambda t: t):
        layer(input)
    assert sorted(saved) == sorted((t.data_ptr(), t.numel()) for t in (input, layer.weight))


def test_the_input_survives_backward() -> None:
    """Its gradient is made in place of another tensor, never of what others may still read."""
    layer, input = GeluLinear(WIDE, NARROW), torch.randn(N, WIDE, requires_grad=True)
    before, hidden = input.detach().clone(), input * 1
    layer(hidden).sum().backward()
    assert torch.equal(input, before)
    assert torch.equal(hidden, before)

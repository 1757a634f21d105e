"""The tied matrix's gradient: what autograd would add up, in one tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.models.loss import plain_nll, predicted_nll
from ernie_m.models.tied_gradient import TiedGradient, embedding_rows

V, D, PAD = 5000, 32, 1
IDS = torch.tensor([[7, 7, PAD, 4999], [0, 7, 31, PAD]])
LABELS = torch.tensor([3, 7, 4999, 11, 3, 7, 0, 2])


def gradient(is_tied: bool, backwards: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of the matrix, for positions that are looked up in it, changed, and predicted with it."""
    rng = torch.Generator().manual_seed(0)
    weight = (torch.randn(V, D, generator=rng) * 0.1).to(dtype).requires_grad_()
    bias = torch.zeros(V, dtype=dtype, requires_grad=True)
    for _ in range(backwards):
        if is_tied:
            tied = TiedGradient()
            hidden = embedding_rows(IDS, weight, PAD, tied).flatten(0, 1).tanh()
            nll = predicted_nll(hidden, weight, bias, LABELS, tied)
        else:
            nll = plain_nll(F.embedding(IDS, weight, PAD).flatten(0, 1).tanh(), weight, bias, LABELS)
        (nll * torch.linspace(0.5, 2, len(LABELS))).sum().backward()
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize("backwards", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_it_is_the_sum_of_both_uses(backwards: int, dtype: torch.dtype, tolerance: float) -> None:
    ours, expected = gradient(True, backwards, dtype), gradient(False, backwards, dtype)
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    assert expected[31].abs().max() > 0.01, "a word that is read and not predicted"


def test_padding_gets_the_heads_gradient_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    weight = (torch.randn(V, D, generator=rng) * 0.1).requires_grad_()
    hidden = F.embedding(IDS, weight, PAD).flatten(0, 1).tanh().detach()
    nll = plain_nll(hidden, weight, torch.zeros(V), LABELS)
    (nll * torch.linspace(0.5, 2, len(LABELS))).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(gradient(True)[PAD], weight.grad[PAD])


def test_backward_makes_one_tensor_of_the_matrix_size() -> None:
    with torch.profiler.profile(profile_memory=True) as recorded:
        gradient(True)
    large = [event.name for event in recorded.events() if event.self_cpu_memory_usage >= V * D * 4]
    assert large == ["aten::empty", "aten::empty_strided"], "the matrix, and the room for its gradient"


def test_a_place_serves_one_step_after_the_other() -> None:
    weight, bias = torch.randn(V, D).requires_grad_(), torch.zeros(V, requires_grad=True)
    tied, kept = TiedGradient(), []
    for _ in range(2):
        weight.grad = None
        predicted_nll(embedding_rows(IDS, weight, PAD, tied).flatten(0, 1), weight, bias, LABELS, tied).sum().backward()
        assert (tied.room, tied.gradient) == (None, None)
        assert weight.grad is not None
        kept.append(weight.grad)
    assert kept[0].data_ptr() != kept[1].data_ptr(), "a gradient that somebody keeps is not written over"
    assert torch.equal(*kept)


def test_without_a_place_for_it_each_gives_its_own() -> None:
    weight = torch.randn(V, D).requires_grad_()
    embedding_rows(IDS, weight, PAD, None).sum().backward()
    assert weight.grad is not None
    assert weight.grad[7].tolist() == [3.0] * D
    assert weight.grad[PAD].tolist() == [0.0] * D

"""The loss against plain cross entropy in float64, and DeepSpeed's averaging undone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ernie_m import loss
from ernie_m.loss import metric_sums, objective_scales, predicted_nll, weighted_loss

WORLD, ACCUMULATION = 3, 2


def inputs(num_positions: int, vocab_size: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_positions, width, generator=rng, dtype=torch.float64)
    weight = torch.randn(vocab_size, width, generator=rng, dtype=torch.float64) * 0.3
    bias = torch.randn(vocab_size, generator=rng, dtype=torch.float64) * 0.1
    labels = torch.randint(0, vocab_size, (num_positions,), generator=rng).int()
    leaves = (t.to(dtype).requires_grad_() for t in (hidden, weight, bias))
    return *leaves, labels


@pytest.mark.parametrize(
    ("num_positions", "vocab_size", "max_logits", "num_chunks"),
    [(50, 1000, 7_000, 8), (50, 1000, 1, 50), (49, 1000, 7_000, 7), (50, 1000, 1 << 26, 1), (5, 250_002, 600_000, 3)],
)
def test_chunked_nll_is_plain_cross_entropy(
    num_positions: int, vocab_size: int, max_logits: int, num_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "MAX_LOGITS", max_logits)
    sizes: list[int] = []
    plain = loss._nll
    monkeypatch.setattr(loss, "_nll", lambda hidden, *rest: (sizes.append(len(hidden)), plain(hidden, *rest))[1])
    hidden, weight, bias, labels = inputs(num_positions, vocab_size, 16, torch.float32)
    nll = predicted_nll(hidden, weight, bias, labels)
    assert len(sizes) == num_chunks
    assert sum(sizes) == num_positions
    factor = torch.linspace(0.5, 2, num_positions)
    (nll * factor).sum().backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
    expected = F.cross_entropy(F.linear(*exact), labels.long(), reduction="none")
    (expected * factor.double()).sum().backward()
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((hidden, weight, bias), exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)
        assert theirs.grad.abs().max() > 1e-2


def test_nll_is_accumulated_in_fp32_when_the_weights_are_bf16() -> None:
    hidden, weight, bias, labels = inputs(20, 500, 16, torch.bfloat16)
    nll = predicted_nll(hidden, weight, bias, labels)
    assert nll.dtype == torch.float32
    logits = F.linear(hidden, weight, bias).float()  # the product is bf16's, the softmax is not
    torch.testing.assert_close(nll, F.cross_entropy(logits, labels.long(), reduction="none"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("max_logits", [1, 1 << 26])
def test_no_predictions_give_zero_with_a_graph(max_logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MAX_LOGITS", max_logits)
    hidden, weight, bias, _ = inputs(3, 50, 4, torch.float32)
    none = torch.zeros(0, dtype=torch.int32)
    total = weighted_loss(predicted_nll(hidden[:0], weight, bias, none), none, torch.ones(2))
    assert total.item() == 0.0
    total.backward()
    assert torch.count_nonzero(weight.grad) == 0


def test_scales_undo_averaging_over_ranks_and_accumulation_steps() -> None:
    """Gradient as DeepSpeed makes it (mean over ranks, losses / accumulation) = gradient of the loss as defined."""
    rng = torch.Generator().manual_seed(1)
    parameter = torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    micro_batches = []
    for _ in range(WORLD * ACCUMULATION):
        num_predicted = int(torch.randint(1, 40, (1,), generator=rng))
        features = torch.randn(num_predicted, 4, generator=rng, dtype=torch.float64)
        micro_batches.append((features, torch.randint(0, 2, (num_predicted,), generator=rng).int()))  # objective 2: none
    objectives = torch.cat([objective for _, objective in micro_batches])
    predicted = torch.bincount(objectives, minlength=3)
    assert predicted[2] == 0
    assert len({len(features) for features, _ in micro_batches}) > 1, "a mean of means would pass with equal counts"

    def nll(features: torch.Tensor) -> torch.Tensor:
        return (features @ parameter).exp()

    all_nll = torch.cat([nll(features) for features, _ in micro_batches])
    defined = sum(weights[o] * all_nll[objectives == o].sum() / predicted[o] for o in (0, 1))
    (expected,) = torch.autograd.grad(defined, parameter)
    scales = objective_scales(weights, predicted.double(), WORLD, ACCUMULATION)
    gradients = []
    for rank in range(WORLD):
        own = micro_batches[rank * ACCUMULATION : (rank + 1) * ACCUMULATION]
        parts = [weighted_loss(nll(features), objective, scales) / ACCUMULATION for features, objective in own]
        gradients.append(torch.autograd.grad(sum(parts), parameter)[0])
    torch.testing.assert_close(torch.stack(gradients).mean(0), expected, rtol=1e-12, atol=1e-12)
    assert scales.isfinite().all()


def test_scales_of_known_numbers() -> None:
    scales = objective_scales(torch.tensor([1.0, 2.0]), torch.tensor([8.0, 4.0]), 2, 3)
    assert scales.tolist() == [0.75, 3.0]
    assert scales.dtype == torch.float32


def test_metric_sums_are_per_metric_in_fp64_without_gradient() -> None:
    nll = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums = metric_sums(nll, torch.tensor([2, 0, 2, 1]).int(), 4)
    assert sums.tolist() == [2.0, 8.0, 5.0, 0.0]
    assert sums.dtype == torch.float64
    assert not sums.requires_grad

"""The loss against plain cross entropy in float64, and DeepSpeed's averaging undone."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.models import loss
from ernie_m.models.loss import loss_scales, metric_sums, plain_nll, predicted_nll, weighted_loss

WORLD, ACCUMULATION = 3, 2


def inputs(num_positions: int, vocab_size: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_positions, width, generator=rng, dtype=torch.float64)
    weight = torch.randn(vocab_size, width, generator=rng, dtype=torch.float64) * 0.3
    bias = torch.randn(vocab_size, generator=rng, dtype=torch.float64) * 0.1
    labels = torch.randint(0, vocab_size, (num_positions,), generator=rng).int()
    leaves = (t.to(dtype).requires_grad_() for t in (hidden, weight, bias))
    return *leaves, labels


def exact(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, factor: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The nll and the three gradients of its sum times `factor`, in float64."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
    nll = F.cross_entropy(F.linear(*leaves), labels.long(), reduction="none")
    (nll * factor.double()).sum().backward()
    return nll.detach(), [cast(Tensor, t.grad) for t in leaves]


def sizes_of_logits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the number of rows of each product that makes logits."""
    sizes: list[int] = []
    product = loss._product
    monkeypatch.setattr(loss, "_product", lambda hidden, weight: (sizes.append(len(hidden)), product(hidden, weight))[1])
    return sizes


@pytest.mark.parametrize(
    ("num_positions", "vocab_size", "max_logits", "num_chunks"),
    [(50, 1000, 7_000, 8), (50, 1000, 1, 50), (49, 1000, 7_000, 7), (50, 1000, 1 << 28, 1), (5, 250_002, 600_000, 3)],
)
def test_chunked_nll_is_plain_cross_entropy(
    num_positions: int, vocab_size: int, max_logits: int, num_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "MAX_LOGITS", max_logits)
    monkeypatch.setattr(loss, "logits_at_a_time", lambda device: 3_000)
    sizes = sizes_of_logits(monkeypatch)
    hidden, weight, bias, labels = inputs(num_positions, vocab_size, 16, torch.float32)
    nll = predicted_nll(hidden, weight, bias, labels)
    factor = torch.linspace(0.5, 2, num_positions)
    (nll * factor).sum().backward()
    again = num_chunks if num_chunks > 1 else 0  # a single chunk is kept
    assert len(sizes) == num_chunks + again
    assert max(sizes) == -(-num_positions // num_chunks) or max(sizes) * vocab_size <= max_logits
    expected, gradients = exact(hidden, weight, bias, labels, factor)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((hidden, weight, bias), gradients, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs, rtol=1e-4, atol=1e-5)
        assert theirs.abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_in_every_precision_error_at_the_full_vocabulary_is_of_rounding_the_logits(
    dtype: torch.dtype, num_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLM-R's 250,002 words: no worse than all logits in fp32 behind a product in this precision, many chunks or one."""
    monkeypatch.setattr(loss, "MAX_LOGITS", 12 // num_chunks * 250_002)
    hidden, weight, bias, labels = inputs(12, 250_002, 16, dtype)
    factor = torch.linspace(0.5, 2, 12)
    expected, gradients = exact(hidden, weight, bias, labels, factor)
    errors = []

    def plain_in_chunks(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        """Products of the same shapes: in which order a library adds up 250,002 terms may hang on them."""
        parts = zip(hidden.split(12 // num_chunks), labels.split(12 // num_chunks), strict=True)
        return torch.cat([plain_nll(part, weight, bias, of_part) for part, of_part in parts])

    for function in (predicted_nll, plain_in_chunks):
        hidden.grad = weight.grad = bias.grad = None
        nll = function(hidden, weight, bias, labels)
        assert nll.dtype == torch.float32
        (nll * factor).sum().backward()
        found = [nll.detach(), *(cast(Tensor, t.grad) for t in (hidden, weight, bias))]
        pairs = zip(found, [expected, *gradients], strict=True)
        errors.append([float((ours.double() - right).norm() / right.norm()) for ours, right in pairs])
    rounding = torch.finfo(dtype).eps
    for ours, plain in zip(*errors, strict=True):
        assert ours <= 1.1 * plain + 0.5 * rounding
        assert ours < 8 * rounding + 250_002**0.5 * torch.finfo(torch.float32).eps, "sums are in fp32, in any order"


def test_gradients_of_many_chunks_are_added_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, labels = inputs(512, 40, 16, torch.bfloat16)
    factor = torch.ones(512)
    _, (_, right, right_bias) = exact(hidden, weight, bias, labels, factor)
    errors = []
    for max_logits in (40 * 512, 40 * 2):  # 1 chunk, 256 chunks
        monkeypatch.setattr(loss, "MAX_LOGITS", max_logits)
        weight.grad = bias.grad = None
        predicted_nll(hidden, weight, bias, labels).sum().backward()
        errors.append([float((t.grad.double() - r).norm() / r.norm()) for t, r in ((weight, right), (bias, right_bias))])
    for one, many in zip(*errors, strict=True):
        assert many < 1.2 * one


@pytest.mark.parametrize("shift", [500.0, -500.0])
def test_logits_of_any_size_have_the_nll_and_gradient_of_their_differences(shift: float) -> None:
    found = []
    for added in (0.0, shift):
        hidden, weight, bias, labels = inputs(5, 40, 4, torch.float32)
        nll = predicted_nll(hidden, weight, (bias + added).detach().requires_grad_(), labels)
        nll.sum().backward()
        found.append([nll.detach(), cast(Tensor, hidden.grad), cast(Tensor, weight.grad)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_in_fp16_an_unlikely_word_has_a_gradient_and_a_sure_one_its_small_rest() -> None:
    """exp(-20) is 0 in fp16, and 1 - exp(-10) is 1; a loss scale brings both back, if they were kept."""
    hidden, weight = torch.zeros(1, 4, dtype=torch.float16), torch.zeros(3, 4, dtype=torch.float16)
    bias = torch.tensor([0.0, -10.0, -20.0], dtype=torch.float16, requires_grad=True)
    (predicted_nll(hidden, weight, bias, torch.tensor([0])) * 1e5).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad.tolist(), [-4.54, 4.54, 2.06e-4], rtol=0.02, atol=0.0)


def test_a_second_backward_through_used_logits_is_refused() -> None:
    hidden, weight, bias, labels = inputs(5, 40, 4, torch.float32)
    total = predicted_nll(hidden, weight, bias, labels).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("max_logits", [1, 1 << 28])
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
    scales = loss_scales(weights, predicted.double(), WORLD, ACCUMULATION)
    gradients = []
    for rank in range(WORLD):
        own = micro_batches[rank * ACCUMULATION : (rank + 1) * ACCUMULATION]
        parts = [weighted_loss(nll(features), objective, scales) / ACCUMULATION for features, objective in own]
        gradients.append(torch.autograd.grad(sum(parts), parameter)[0])
    torch.testing.assert_close(torch.stack(gradients).mean(0), expected, rtol=1e-12, atol=1e-12)
    assert scales.isfinite().all()


def test_scales_of_known_numbers() -> None:
    scales = loss_scales(torch.tensor([1.0, 2.0]), torch.tensor([8.0, 4.0]), 2, 3)
    assert scales.tolist() == [0.75, 3.0]
    assert scales.dtype == torch.float32


def test_metric_sums_are_per_metric_in_fp64_without_gradient() -> None:
    nll = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums = metric_sums(nll, torch.tensor([2, 0, 2, 1]).int(), 4)
    assert sums.tolist() == [2.0, 8.0, 5.0, 0.0]
    assert sums.dtype == torch.float64
    assert not sums.requires_grad

"""Which precision gradients are summed and sent in, and what a sum loses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ernie_m.training.gradient_exchange import (
    BUCKET_ELEMENTS,
    OVERLAPPING_BUCKET,
    SUMMED_IN_HALF,
    GradientSums,
    choose_exchange,
)


def backwards(layer: nn.Linear, num_micro_batches: int, sums: GradientSums | None) -> torch.Tensor:
    """The weight's gradient [2, 3] of a step whose micro-batches all have the same."""
    inputs = torch.tensor([[0.3, -1.7, 2.9]], dtype=layer.weight.dtype)
    for number in range(num_micro_batches):
        if sums is not None:
            sums.begin(is_last=number == num_micro_batches - 1)
        layer(inputs).sum().backward()
    assert layer.weight.grad is not None
    found, layer.weight.grad, layer.bias.grad = layer.weight.grad, None, None
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_equal_gradients_of_any_number_of_micro_batches_add_up_to_their_multiple(dtype: torch.dtype) -> None:
    """A power of two: exact. In bf16 all from the 256th on would be lost."""
    for num_micro_batches in (1, 2, 64, 4096):
        layer = nn.Linear(3, 2, dtype=dtype)
        one = backwards(layer, 1, None)
        sums = GradientSums(layer)
        for _ in range(2):  # a step leaves nothing for the next
            assert torch.equal(backwards(layer, num_micro_batches, sums), one * num_micro_batches)
    layer = nn.Linear(3, 2, dtype=torch.bfloat16)
    assert backwards(layer, 4096, None).abs().max() < 0.2 * 4096 * one.abs().max(), "what it is for"


def test_half_precision_sums_as_many_as_it_can_and_no_more() -> None:
    for precision, most in SUMMED_IN_HALF.items():
        for count in (1, most, most + 1, 512):
            exchange = choose_exchange(precision, 1, count, 2 * count, {})
            assert exchange.sums.value == (precision if count <= most else "fp32")
            assert exchange.reduction.value == (precision if 2 * count <= most else "fp32")
            assert f"{count} micro-batches a step" in exchange.sums.reason
    assert choose_exchange("fp32", 1, 512, 64, {}).sums.value == "fp32"


@pytest.mark.parametrize(
    ("stage", "micro_batches", "ranks", "section", "expected", "reason"),
    [
        (1, 1, 2, {}, "yes", "one micro-batch a step"),
        (2, 1, 64, {}, "yes", "one micro-batch a step"),
        (1, 2, 2, {}, "no", "2 micro-batches a step, not one"),
        (1, 1, 1, {}, "no", "one rank"),
        (0, 1, 2, {}, "no", "ZeRO 0, not 1 or 2"),
        (3, 1, 2, {}, "no", "ZeRO 3, not 1 or 2"),
        (2, 1, 2, {"overlap_comm": False}, "no", "ds_configs says so"),
    ],
)
def test_gradients_travel_beside_the_backward_where_there_is_one(
    stage: int, micro_batches: int, ranks: int, section: dict[str, bool], expected: str, reason: str
) -> None:
    ds_config = {"zero_optimization": {"stage": stage, **section}}
    exchange = choose_exchange("fp16", stage, micro_batches, ranks, ds_config)
    assert (exchange.overlap.value, exchange.overlap.reason) == (expected, reason)
    assert exchange.bucket_elements == (OVERLAPPING_BUCKET if expected == "yes" else BUCKET_ELEMENTS)
    assert exchange.fill(ds_config, "fp16", stage) is False
    if stage in (1, 2):
        assert ds_config["zero_optimization"]["overlap_comm"] == (expected == "yes")


@pytest.mark.parametrize(("stage", "ours"), [(0, True), (1, True), (2, False), (3, False)])
def test_sums_are_left_to_deepspeed_where_it_has_them(stage: int, ours: bool) -> None:
    ds_config: dict[str, dict[str, object]] = {"zero_optimization": {"stage": stage, "reduce_bucket_size": 77}}
    exchange = choose_exchange("bf16", stage, 512, 2, ds_config)
    assert exchange.bucket_elements == 77
    assert exchange.fill(ds_config, "bf16", stage) == ours
    assert ds_config.get("data_types") == (None if ours else {"grad_accum_dtype": "fp32"})
    assert "communication_data_type" not in ds_config

"""How a step's gradients are added up and sent: over its micro-batches, over the ranks, during the backward.

autograd adds a micro-batch's gradient to that of the parameter, in the parameter's precision; ranks do the same. Each
addition rounds. An addend smaller than half a unit in the last place of the sum is lost. If gradients are equal, bf16, with
its eight bits, loses all from the 256th on. Up to SUMMED_IN_HALF addends the error is below 0.3 % of the gradient
(docs/log/numerics.md).

1. ZeRO 2 and 3 take each micro-batch's gradient away and add up this rank's share of it: DeepSpeed's `grad_accum_dtype`.
2. ZeRO 0 and 1 leave it on the parameters (DeepSpeed's stage 0 knows no other type, and for bf16 its stage 1 changes to an
   optimizer of another class): a `GradientSums` takes it from there.
3. Gradients are sent after the backward, or during it if each step has only one backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ernie_m.base.console import Choice

if TYPE_CHECKING:  # the planner, which needs no torch, asks for the choices too
    from torch import Tensor, nn

SUMMED_IN_HALF = {"fp16": 64, "bf16": 8}
"""Addends up to which a sum in half precision is exact enough."""
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default reduce_bucket_size."""
OVERLAPPING_BUCKET = 50_000_000
"""Elements sent at a time while the backward runs: enough to keep links busy, few enough for the first to leave early."""
OVERLAPPING_STAGES = (1, 2)
YES, NO = "yes", "no"


@dataclass(frozen=True)
class GradientExchange:
    """`sums` and `reduction`: the precision of sums over micro-batches and over ranks; `overlap`: YES or NO."""

    sums: Choice
    reduction: Choice
    overlap: Choice
    bucket_elements: int

    @property
    def overlaps(self) -> bool:
        return self.overlap.value == YES

    def fill(self, ds_config: dict[str, Any], precision: str, zero_stage: int) -> bool:
        """Write the choices into DeepSpeed's configuration. Returns whether a GradientSums has to make the sums."""
        if self.reduction.value != precision:
            ds_config["communication_data_type"] = self.reduction.value
        if zero_stage in OVERLAPPING_STAGES:
            section = ds_config["zero_optimization"]
            section |= {"overlap_comm": self.overlaps, "reduce_bucket_size": self.bucket_elements}
        if self.sums.value == precision or zero_stage < 2:
            return self.sums.value != precision
        ds_config["data_types"] = {"grad_accum_dtype": self.sums.value}
        return False


def choose_exchange(
    precision: str, zero_stage: int, num_micro_batches: int, num_ranks: int, ds_config: Mapping[str, Any]
) -> GradientExchange:
    """Choose, for a step of `num_micro_batches` on each rank. What `ds_config` says of overlap and buckets is kept."""
    section = ds_config.get("zero_optimization", {})
    overlap = _overlap(zero_stage, num_micro_batches, num_ranks, section.get("overlap_comm"))
    usual = OVERLAPPING_BUCKET if overlap.value == YES else BUCKET_ELEMENTS
    return GradientExchange(
        _precision_of_sum("gradient sums", precision, num_micro_batches, "micro-batches a step"),
        _precision_of_sum("gradient reduction", precision, num_ranks, "ranks"),
        overlap,
        int(float(section.get("reduce_bucket_size", usual))),
    )


def _precision_of_sum(name: str, precision: str, num_addends: int, what: str) -> Choice:
    most = SUMMED_IN_HALF.get(precision)
    if most is None:
        return Choice(name, precision, "as all else")
    will_do = f"{precision} will do up to {most}"
    return Choice(name, "fp32" if num_addends > most else precision, f"{num_addends} {what}; {will_do}")


def _overlap(zero_stage: int, num_micro_batches: int, num_ranks: int, in_file: bool | None) -> Choice:
    """The first obstacle decides."""
    obstacles = {
        f"ZeRO {zero_stage}, not 1 or 2": zero_stage not in OVERLAPPING_STAGES,
        "ds_configs says so": in_file is False,
        "one rank": num_ranks == 1,
        f"{num_micro_batches} micro-batches a step, not one": num_micro_batches > 1,
    }
    obstacle = next((reason for reason, is_one in obstacles.items() if is_one), None)
    name = "gradients sent beside the backward"
    return Choice(name, NO, obstacle) if obstacle else Choice(name, YES, "one micro-batch a step")


class GradientSums:
    """Takes the gradients of each micro-batch from the parameters, and puts the sum there at the step's last one.

    Make it before DeepSpeed puts its own hooks on the parameters, so that these hooks find the sum.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sums: dict[Tensor, Tensor] = {}
        self._is_last = False
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._take)

    def begin(self, is_last: bool) -> None:
        """Call it before each backward. `is_last`: this is the step's last one."""
        assert not (self._is_last and self._sums), "a parameter had no gradient in the step's last backward"
        self._is_last = is_last

    def _take(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        summed = self._sums.pop(parameter, None)
        summed = gradient.float() if summed is None else summed.add_(gradient)
        if self._is_last:
            gradient.copy_(summed)
        else:
            self._sums[parameter] = summed
            parameter.grad = None

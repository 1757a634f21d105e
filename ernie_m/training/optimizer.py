"""The optimizer: AdamW, its schedule, and which parameters share a learning rate and a weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from ernie_m.base.config import Section, section
from ernie_m.base.ranges import Range
from ernie_m.models.parts import Place, rate_factors_of
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.schedule import PARTS


@section
class OptimizerConfig(Section):
    """AdamW with linear warm-up and a decay."""

    peak_learning_rate: Annotated[float, Range(above=0, most=10)] = 2e-4
    """Highest learning rate: the paper's base 2e-4, large 1e-4."""
    schedule: Literal["linear", "inverse_sqrt"] = "linear"
    """Decay after the warm-up: linear to 0 at the last step, or with 1/sqrt(step) (XLM), which needs no last step."""
    warmup_steps: Annotated[int, Range(least=0, most=10**9, zero="no warm-up")] = 10_000
    """Steps of linear warm-up (paper: 10,000)."""
    beta1: Annotated[float, Range(least=0, below=1, zero="no momentum")] = 0.9
    """Adam's decay of the first moment."""
    beta2: Annotated[float, Range(least=0, below=1, zero="the present gradient alone")] = 0.98
    """Adam's decay of the second moment (InfoXLM)."""
    epsilon: Annotated[float, Range(above=0, most=1)] = 1e-6
    """Adam's epsilon (InfoXLM)."""
    weight_decay: Annotated[float, Range(least=0, most=10, zero="none")] = 0.01
    """Decoupled weight decay; biases and norms have none."""
    rate_factors: dict[str, Annotated[float, Range(above=0, most=1e6)]] | None = None
    """Factors of the learning rate of embeddings, encoder and heads, e.g. {embeddings: 20}; 1 where not named."""
    layer_decay: Annotated[float, Range(above=0, most=1)] | None = None
    """Layer i of L, from 0, learns with decay^(L-i) of its rate, embeddings with decay^(L+1); null: all with theirs."""
    gradient_clipping: Annotated[float, Range(least=0, most=1e6, zero="none")] = 1.0
    """Largest global gradient norm; 0 switches clipping off."""

    def check(self) -> None:
        self.require(set(self.rate_factors or ()) <= set(PARTS), "rate_factors", f"factors of {', '.join(PARTS)}")

    def learning_rate(self, step: int, num_steps: int) -> float:
        """Rate of step `step` (from 0): rises linearly over the warm-up, then falls, linearly to 0 at `num_steps` or as
        sqrt(warm-up / step)."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        if self.schedule == "inverse_sqrt":
            return self.peak_learning_rate * min(rising, math.sqrt(max(1, self.warmup_steps) / (step + 1)))
        falling = (num_steps - step) / max(1, num_steps - self.warmup_steps)
        return self.peak_learning_rate * min(1.0, rising, falling)


@dataclass(frozen=True)
class Group:
    """Parameters that learn with `factor` of the learning rate; of one `part`, unless None."""

    factor: float
    part: str | None
    weight_decay: float
    parameters: tuple[nn.Parameter, ...]

    def for_optimizer(self) -> dict[str, Any]:
        """As torch's optimizers take it."""
        return {"params": list(self.parameters), "weight_decay": self.weight_decay}


def parameter_groups(
    model: PretrainingModel, config: OptimizerConfig, places: Mapping[str, Place] | None = None
) -> list[Group]:
    """Each parameter once: matrices, which decay, then biases and norms, which do not; apart by factor and, with `places`,
    by part. Where all factors are 1 these are two groups, as in runs from before there were factors."""
    factors = rate_factors_of(model, config.rate_factors, config.layer_decay)
    groups: list[Group] = []
    for decays in (True, False):
        found: dict[tuple[float, str | None], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if (parameter.dim() >= 2) == decays:
                part = places[name].part if places else None
                found.setdefault((factors[name], part), []).append(parameter)
        decay = config.weight_decay if decays else 0.0
        groups += [Group(factor, part, decay, tuple(parameters)) for (factor, part), parameters in found.items()]
    return groups

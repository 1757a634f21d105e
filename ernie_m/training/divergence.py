"""Guards against divergence: a value that is not finite stops the run before the update, a loss that jumps is reported.

1. `SpikeDetector` compares each objective's loss with the median and MAD (median absolute deviation) of the last steps. A
   spike moves these only a little. Steps of few rows differ by the languages that they hold: where each of these is at its
   own level, it is none. The state is the last losses. It is rebuilt from metrics.jsonl, so a restart does not change a
   verdict. It only reports: a person looks at the rows (ernie-m inspect_step), and leaves the steps out with --skip_steps
   if the rows are wrong.
2. `SkippedUpdates` counts the fp16 updates in a row that the loss scaler left out. A few are normal, while it looks for its
   scale. Many mean that the gradients overflow at any scale.
3. `non_finite_message` is the message for a loss or gradient that is not finite in fp32 or bf16, which have no scaler.

Steps are counted from 0, as in --skip_steps; a line of metrics.jsonl counts finished steps and so is one ahead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ernie_m.base.config import Section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range

LEAST_STEPS = 20  # no verdict with fewer
MAD_TO_SIGMA = 1.4826  # of a normal distribution
LEAST_DEVIATION = 0.01  # nats: if a loss hardly varies, a tiny change is not a spike


@section
class GuardConfig(Section):
    """Which losses stop a run or print an alarm. May change when a run is resumed."""

    spike_window: Annotated[int, Range(least=LEAST_STEPS, most=10**6)] = 100
    """Steps whose losses make the level that a new loss is compared with; comparisons start after 20."""
    spike_threshold: Annotated[float, Range(least=0, most=1e6, zero="no detection")] = 8.0
    """A loss this many deviations (1.4826 x MAD) above the median is a spike and logged with its rows; 0 = off."""
    max_skipped_updates: Annotated[int, Range(least=1, most=10**6)] = 50
    """fp16: so many overflows in a row stop the run."""


@dataclass(frozen=True)
class Spike:
    """Step `step` (from 0) lost `loss` nats in `objective`, `deviation` robust deviations above the `median` before it."""

    step: int
    objective: str
    loss: float
    median: float
    deviation: float

    def __str__(self) -> str:
        return (
            f"loss spike in step {self.step}: {self.objective} {self.loss:.3f}, {self.deviation:.0f} deviations above "
            f"the median {self.median:.3f} of the steps before"
        )


class SpikeDetector:
    """Takes each finished step, in order. The same losses give the same spikes, on every rank."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._recent: dict[str, deque[float]] = {}

    @classmethod
    def from_lines(cls, config: GuardConfig, lines: Sequence[Mapping[str, Any]], resume_step: int) -> SpikeDetector:
        """The detector as it was after `resume_step` finished steps, from metrics.jsonl; later lines are not read."""
        detector = cls(config)
        for line in lines:
            if line["step"] <= resume_step:
                detector._take(line)
        return detector

    def observe(self, step: int, losses: Mapping[str, Any]) -> list[Spike]:
        """The spikes of step `step` (from 0), at most one an objective; then its losses become part of the level.

        `losses` in nats, {'loss/CAMLM': 1.9, 'loss/CAMLM/de-en': 1.8, ...}, as in a line of metrics.jsonl. A loss that is
        not finite is no spike, and never becomes part of the level.
        """
        spikes = []
        if self.config.spike_threshold > 0:
            finite, threshold = dict(_finite_losses(losses)), self.config.spike_threshold
            for name in (name for name in finite if "/" not in name):
                deviation = self._deviation(name, finite[name])
                if not threshold < deviation < math.inf:
                    continue
                streams = [key for key in finite if key.startswith(f"{name}/")]
                if not streams or any(self._deviation(key, finite[key]) > threshold for key in streams):
                    spikes.append(Spike(step, name, finite[name], float(np.median(self._recent[name])), deviation))
        self._take(losses)
        return spikes

    def _deviation(self, name: str, loss: float) -> float:
        """Robust deviations above its own level; infinity with fewer steps than LEAST_STEPS."""
        recent = self._recent.get(name, ())
        if len(recent) < LEAST_STEPS:
            return math.inf
        median = float(np.median(recent))
        mad = float(np.median(np.abs(np.asarray(recent) - median)))
        return (loss - median) / max(mad * MAD_TO_SIGMA, LEAST_DEVIATION)

    def _take(self, losses: Mapping[str, Any]) -> None:
        for name, loss in _finite_losses(losses):
            self._recent.setdefault(name, deque(maxlen=self.config.spike_window)).append(loss)


def _finite_losses(losses: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """('CAMLM', 1.9) of each 'loss/CAMLM', and ('CAMLM/de-en', 1.8) of each 'loss/CAMLM/de-en', if finite."""
    for key, value in losses.items():
        prefix, _, name = key.partition("/")
        if prefix == "loss" and value is not None and math.isfinite(value):
            yield name, float(value)


class SkippedUpdates:
    """Counts the fp16 updates, one after the other, that the loss scaler left out because of an overflow."""

    def __init__(self, most: int) -> None:
        self.most, self.in_a_row, self.total = most, 0, 0

    def record(self, step: int, skipped: bool, loss_scale: float | None = None) -> None:
        """Note whether the update of step `step` (from 0) was left out. Raises InputError at the `most`-th in a row."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.total += int(skipped)
        if self.in_a_row < self.most:
            return
        scale = "" if loss_scale is None else f" (loss scale now {loss_scale:g})"
        first = step - self.in_a_row + 1
        raise InputError(
            f"step {step}: the fp16 gradients overflowed {self.in_a_row} times in a row{scale}, so nothing was learnt since "
            f"step {first}; use engine.precision=bf16 where the hardware has it, lower optimizer.peak_learning_rate in "
            f"another --run, or look at the rows with ernie-m inspect_step --step {first} --decode and leave them out "
            f"with --skip_steps {first}:{step + 1}"
        )


def non_finite_message(step: int, what: str) -> str:
    """For an InputError: `what` ('the loss of CAMLM', 'the gradient norm') of step `step` (from 0) is not finite."""
    return (
        f"step {step}: {what} is not finite; this update was not made and the newest checkpoint is from before it. A plain "
        "restart would meet it again: lower optimizer.peak_learning_rate in another --run, use engine.precision=bf16 if "
        f"this is fp16, or look at its rows with ernie-m inspect_step --step {step} --decode and leave them out with "
        f"--skip_steps {step}:{step + 1}"
    )

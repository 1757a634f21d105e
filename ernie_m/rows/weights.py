"""How much each loss counts: the factor of its mean, a number or a curve over the steps. Counted in updates.

Where a curve ends at 0, and with it all losses of an objective, no more rows of it are drawn: the other objectives of the
stage share the rows of a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ernie_m.base.console import InputError
from ernie_m.base.curve import Curve
from ernie_m.rows.objectives import OBJECTIVES, PREDICTIONS
from ernie_m.rows.schedule import StageConfig


class ObjectiveWeights:
    """`given`: what the recipe says, by loss; a loss that it does not name has the weight 1."""

    def __init__(self, given: Mapping[str, float | str]) -> None:
        self._curves = {loss: Curve.of(given.get(loss, 1.0)) for loss in PREDICTIONS}
        self._changing = [loss for loss, written in given.items() if isinstance(written, str)]

    def at(self, step: int) -> list[float]:
        """Of each loss, in the table's order, when so many steps are done."""
        return [curve.at(step) for curve in self._curves.values()]

    def changing(self, step: int) -> dict[str, float]:
        """Of the losses whose weight is a curve."""
        return {loss: self._curves[loss].at(step) for loss in self._changing}

    def teaches(self, objective: str) -> bool:
        """Whether something is learnt from the objective, at some step."""
        return any(self._curves[prediction.loss].zero_from != 0 for prediction in OBJECTIVES[objective].predictions)

    def ends(self, objective: str) -> int | None:
        """The step from which on the objective teaches nothing."""
        losses = [prediction.loss for prediction in OBJECTIVES[objective].predictions]
        ends = [self._curves[loss].zero_from if loss in self._changing else None for loss in losses]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(ends) else None

    def drawn(self, stages: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        """The stages, cut where objectives end. Raises InputError where a stage would have none left."""
        found, first = [], 0
        for number, stage in enumerate(stages):
            last = first + stage.steps
            ends = {name: end for name in stage.rows if (end := self.ends(name)) is not None and end < last}
            borders = sorted({first, last, *(end for end in ends.values() if end > first)})
            for begin, stop in itertools.pairwise(borders):
                rows = {name: share for name, share in stage.rows.items() if ends.get(name, stop) > begin}
                if not rows:
                    raise InputError(
                        f"objective_weights: from step {begin} on all of stages[{number}] ({', '.join(stage.rows)}) weighs "
                        "nothing; end the stage there, or leave one a weight above 0"
                    )
                found.append(replace(stage, steps=stop - begin, rows=rows))
            first = last
        return tuple(found)

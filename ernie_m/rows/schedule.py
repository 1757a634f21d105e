"""Which rows make up each step: the recipe's stages, and how many rows of each objective a step has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ernie_m.base.config import Section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.base.sampling import apportion
from ernie_m.rows.objectives import OBJECTIVE_INDEX, OBJECTIVES

EMBEDDINGS, ENCODER, HEADS_PART = "embeddings", "encoder", "heads"
PARTS = (EMBEDDINGS, ENCODER, HEADS_PART)
"""Parts of a model. A stage may train some of them only, a recipe may give each its own learning rate. ernie_m.models.parts
finds them. A head's output matrix belongs to the embeddings if the two share it."""


@section
class StageConfig(Section):
    """A stretch of training with a fixed mix of objectives."""

    steps: Annotated[int, Range(least=1, most=10**9)]
    """Length of the stage, in steps."""
    rows: dict[str, Annotated[float, Range(above=0, most=1e6)]]
    """Shares of a step's rows, e.g. {MMLM: 1, TLM: 1, CAMLM: 1}: as many rows of each."""
    train: tuple[str, ...] | None = None
    """Parts of the model that learn: embeddings, encoder, heads, e.g. [heads]; null: all. The others do not change."""

    def check(self) -> None:
        unknown = [name for name in self.rows if name not in OBJECTIVES]
        self.require(not unknown, "rows", f"objectives out of {', '.join(OBJECTIVES)}")
        self.require(bool(self.rows), "rows", "a positive share each")
        known = self.train is None or (bool(self.train) and set(self.train) <= set(PARTS))
        self.require(known, "train", f"some of {', '.join(PARTS)}, or null for all")

    @property
    def trained(self) -> frozenset[str]:
        """Parts of the model that learn."""
        return frozenset(PARTS if self.train is None else self.train)


@dataclass(frozen=True)
class RowAddress:
    """Row number `draw` of an objective, counted from the start of training."""

    objective: str
    draw: int


class Schedule:
    """Which rows make up any global step; found in O(number of stages)."""

    def __init__(self, stages: tuple[StageConfig, ...], rows_per_step: int) -> None:
        self.rows_per_step = rows_per_step
        self._stages: list[tuple[int, dict[str, int], dict[str, int]]] = []
        self._trained: list[tuple[int, frozenset[str]]] = []
        first_step, drawn = 0, dict.fromkeys(OBJECTIVES, 0)
        for number, stage in enumerate(stages):
            if rows_per_step < len(stage.rows):
                raise InputError(
                    f"batch.rows_per_step: {rows_per_step}; stages[{number}] mixes {len(stage.rows)} objectives and needs "
                    "a row of each in every step"
                )
            names = sorted(stage.rows, key=OBJECTIVE_INDEX.__getitem__)
            counts = dict(zip(names, apportion([stage.rows[name] for name in names], rows_per_step), strict=True))
            self._stages.append((first_step, counts, dict(drawn)))
            self._trained.append((first_step, stage.trained))
            first_step += stage.steps
            for name, count in counts.items():
                drawn[name] += count * stage.steps
        self.num_steps = first_step
        self.objectives = [name for name in OBJECTIVES if drawn[name] > 0]

    def trained(self, step: int) -> frozenset[str]:
        """Parts of the model that learn in global step `step`."""
        return next(parts for first_step, parts in reversed(self._trained) if first_step <= step)

    @property
    def trains_parts(self) -> bool:
        """Whether some stage trains only a part of the model."""
        return any(parts != frozenset(PARTS) for _, parts in self._trained)

    def rows_of_step(self, step: int, chosen: range | None = None) -> list[RowAddress]:
        """Addresses of the rows of global step `step` (all, or the `chosen`), by objective in the table's order."""
        found = []
        for name, rows, draw in self._blocks(step):
            own = rows if chosen is None else chosen[_first_from(chosen, rows.start) : _first_from(chosen, rows.stop)]
            found += [RowAddress(name, draw + number - rows.start) for number in own]
        return found

    def generates(self, step: int, chosen: range) -> bool:
        """Whether the model writes into some of these rows of global step `step`."""
        blocks = [rows for name, rows, _ in self._blocks(step) if OBJECTIVES[name].generates]
        return any(max(rows.start, chosen.start) < min(rows.stop, chosen.stop) for rows in blocks)

    def _blocks(self, step: int) -> list[tuple[str, range, int]]:
        """For each objective: its name, its rows of global step `step`, and the draw of the first."""
        first_step, counts, drawn = next(stage for stage in reversed(self._stages) if stage[0] <= step)
        blocks, start = [], 0
        for name, count in counts.items():
            blocks.append((name, range(start, start + count), drawn[name] + (step - first_step) * count))
            start += count
        return blocks


def _first_from(numbers: range, least: int) -> int:
    """Index of the first of these ascending numbers that is at least `least`."""
    return len(range(numbers.start, min(least, numbers.stop), numbers.step))

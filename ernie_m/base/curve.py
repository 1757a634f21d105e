"""A number that changes over the steps: straight lines between points, written "0:1, 100000:0.1, 300000:0"."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import Any

from ernie_m.base.ranges import Range

MOST_STEPS = 10**9


@dataclass(frozen=True)
class Curve:
    """`steps` ascend. Before the first of them the first value holds, behind the last the last one."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @staticmethod
    def of(written: float | str) -> Curve:
        """What a recipe says; raises ValueError for a text that says no curve."""
        if not isinstance(written, str):
            return Curve((0,), (float(written),))
        points = [point.split(":") for point in written.split(",")]
        steps, values = tuple(int(step) for step, _ in points), tuple(float(value) for _, value in points)
        if steps[0] < 0 or steps[-1] > MOST_STEPS or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"{written}: steps do not ascend")
        return Curve(steps, values)

    def scaled(self, factor: float) -> Curve:
        """As many points, at steps that are this factor times as far; none meets the one before it."""
        steps: list[int] = []
        for step in self.steps:
            steps.append(max(round(step * factor), steps[-1] + 1 if steps else 0))
        return Curve(tuple(steps), self.values)

    @property
    def written(self) -> str:
        """As a recipe says it; `of` gives the same curve again."""
        return ", ".join(
            f"{step}:{repr(value).removesuffix('.0')}" for step, value in zip(self.steps, self.values, strict=True)
        )

    def at(self, step: int) -> float:
        """Its value when so many steps are done. The same bits on any machine."""
        behind = bisect.bisect_right(self.steps, step)
        if behind in (0, len(self.steps)):
            return self.values[max(0, behind - 1)]
        (first, last), (a, b) = self.steps[behind - 1 : behind + 1], self.values[behind - 1 : behind + 1]
        return (a * (last - step) + b * (step - first)) / (last - first)

    @property
    def zero_from(self) -> int | None:
        """The first step from which on it is 0 for good, if it ever is."""
        if self.values[-1] != 0:
            return None
        last = max((i for i, value in enumerate(self.values) if value != 0), default=-1)
        return self.steps[last + 1] if last >= 0 else 0


@dataclass(frozen=True, kw_only=True)
class CurveRange(Range):
    """Numbers in a range, and texts of curves whose values are."""

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in here, or a curve of such."""
        if not isinstance(value, str):
            return super().holds(value)
        try:
            curve = Curve.of(value)
        except (ValueError, OverflowError):
            return False
        return all(map(super().holds, curve.values))

    def expected(self, is_whole: bool) -> str:
        """In words."""
        return f"{super().expected(is_whole)}; or step:number, ... with ascending steps, e.g. '0:1, 100000:0.1, 300000:0'"

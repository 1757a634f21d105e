"""Steps that a run leaves out: they have no forward and no update, and their data is not used.

`--skip_steps 1200:1300,1500:1510` names them as the trainer counts, from 0: A:B is steps A .. B-1. RUN/skipped_steps.json
remembers all skipped steps of a run, so that a restart without the option leaves out the same steps.

If a step was trained before somebody asked to skip it, it must be undone: the run resumes from a checkpoint of at most
`first_new` steps.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, write_json
from ernie_m.base.run_files import SKIPPED_STEPS_FILE


@dataclass(frozen=True)
class SkipSteps:
    """A set of steps as ranges (first, end) that are sorted and do not touch; `SkipSteps.of` makes them so."""

    ranges: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(ranges: Iterable[tuple[int, int]]) -> SkipSteps:
        """The steps of all these ranges first .. end-1, in any order, overlapping or not."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted(ranges):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((first, end))
        return SkipSteps(tuple(merged))

    @staticmethod
    def parse(text: str, num_steps: int | None = None) -> SkipSteps:
        """The steps of '1200:1300,1500:1510'; '' is none. `num_steps`: length of the run.

        Raises InputError for anything else, and for ranges that are empty or go beyond the run's last step.
        """
        ranges = [_parsed(part.strip(), num_steps) for part in text.split(",")] if text.strip() else []
        return SkipSteps.of(ranges)

    @staticmethod
    def read(run: Path) -> SkipSteps:
        """What the run in this folder remembers; nothing when it never skipped. Raises InputError for a broken file."""
        path = run / SKIPPED_STEPS_FILE
        try:
            content = read_json(path)["skipped"]
            return SkipSteps.parse(",".join(content))
        except FileNotFoundError:
            return SkipSteps()
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, InputError) as error:
            raise InputError(
                f'{path}: not a list of skipped steps ({error}); expected {{"skipped": ["1200:1300"]}}, with every range '
                "this run was ever told to skip"
            ) from None

    def write(self, run: Path) -> None:
        """Remember these steps in the run's folder, atomically."""
        write_json(run / SKIPPED_STEPS_FILE, {"skipped": [f"{first}:{end}" for first, end in self.ranges]})

    def __contains__(self, step: object) -> bool:
        """Whether the step is skipped; O(log n) in the number of ranges."""
        assert isinstance(step, int)
        return self.next_kept(step) != step

    def next_kept(self, step: int) -> int:
        """The first step at or behind this one that is not skipped; O(log n)."""
        found = bisect.bisect_right(self.ranges, step, key=lambda span: span[0]) - 1
        return max(step, self.ranges[found][1]) if found >= 0 else step

    def union(self, other: SkipSteps) -> SkipSteps:
        """Steps that one of the two skips."""
        return SkipSteps.of((*self.ranges, *other.ranges))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __str__(self) -> str:
        """As `parse` reads it: '1200:1300,1500:1510'."""
        return ",".join(f"{first}:{end}" for first, end in self.ranges)


def first_new(remembered: SkipSteps, asked: SkipSteps) -> int | None:
    """The earliest step that is asked for and not remembered; None when there is none.

    A checkpoint of s finished steps that was trained with `remembered` can be used with `remembered.union(asked)` only if
    this is None or at least s.
    """
    new = [remembered.next_kept(first) for first, _ in asked.ranges]
    return min((step for step in new if step in asked), default=None)


def _parsed(part: str, num_steps: int | None) -> tuple[int, int]:
    """The range of 'A:B'."""
    advice = "expected A:B[,A:B...], e.g. 1200:1300 for steps 1200 .. 1299, counted from 0"
    found = re.fullmatch(r"([0-9]+):([0-9]+)", part)
    if found is None:
        alone = f"; step {part} alone is {part}:{int(part) + 1}" if re.fullmatch(r"[0-9]+", part) else ""
        raise InputError(f"--skip_steps: {part!r}; {advice}{alone}")
    first, end = map(int, found.groups())
    if first >= end:
        raise InputError(f"--skip_steps: {part} holds no step; {advice}")
    if num_steps is not None and end > num_steps:
        raise InputError(f"--skip_steps: {part} goes beyond the run, whose last step is {num_steps - 1}; {advice}")
    return first, end

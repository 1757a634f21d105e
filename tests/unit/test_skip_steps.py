"""Skipped steps: any way of writing them means the same set, and a run remembers what it was told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.base.run_files import SKIPPED_STEPS_FILE
from ernie_m.runs.skip_steps import SkipSteps, first_new


def random_skips(rng: np.random.Generator) -> tuple[SkipSteps, set[int]]:
    """A few ranges below 60, as text through the parser, and the same steps as a plain set."""
    spans = [(first, first + int(rng.integers(1, 9))) for first in rng.integers(0, 52, rng.integers(0, 6)).tolist()]
    skips = SkipSteps.parse(",".join(f"{first}:{end}" for first, end in spans))
    return skips, {step for first, end in spans for step in range(first, end)}


@pytest.mark.parametrize("seed", range(60))
def test_ranges_are_the_set_of_steps_they_name(seed: int) -> None:
    skips, steps = random_skips(np.random.default_rng(seed))
    assert {step for step in range(70) if step in skips} == steps
    for step in range(70):
        assert skips.next_kept(step) == next(kept for kept in range(step, 99) if kept not in steps)
    assert bool(skips) == bool(steps)
    assert SkipSteps.parse(str(skips)) == skips
    ends = [border for span in skips.ranges for border in span]
    assert ends == sorted(set(ends)), "sorted, apart and merged: one way to write a set"


@pytest.mark.parametrize("seed", range(60))
def test_the_first_new_step_is_the_earliest_that_was_trained_and_is_now_to_be_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (remembered, old), (asked, new) = random_skips(rng), random_skips(rng)
    assert first_new(remembered, asked) == min(new - old, default=None)
    assert {step for step in range(70) if step in remembered.union(asked)} == old | new
    assert first_new(remembered, remembered) is None
    assert first_new(remembered, SkipSteps()) is None


def test_looking_up_a_step_among_very_many_ranges_looks_at_few() -> None:
    looks = 0

    class Counted(tuple[tuple[int, int], ...]):
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            nonlocal looks
            looks += 1
            return super().__getitem__(index)

    skips = SkipSteps(Counted((10 * i, 10 * i + 5) for i in range(100_000)))
    assert 777_773 in skips
    assert 777_776 not in skips
    assert 0 < looks < 60


def test_a_run_remembers_what_it_skipped(tmp_path: Path) -> None:
    assert SkipSteps.read(tmp_path) == SkipSteps()
    asked = SkipSteps.parse(" 1500:1510, 1200:1300 ")
    asked.write(tmp_path)
    assert SkipSteps.read(tmp_path) == asked
    assert (1199 in asked, 1200 in asked, 1299 in asked, 1300 in asked) == (False, True, True, False)
    assert str(asked) == "1200:1300,1500:1510"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1200", r"'1200'; expected A:B.*step 1200 alone is 1200:1201"),
        ("1200-1300", "'1200-1300'; expected A:B"),
        ("-5:7", "'-5:7'; expected"),
        ("1:2,,3:4", "''; expected"),
        ("1.5:2", "'1.5:2'; expected"),
        ("1300:1200", "1300:1200 holds no step"),
        ("7:7", "7:7 holds no step"),
        ("1:2,90:101", "90:101 goes beyond the run, whose last step is 99"),
    ],
)
def test_what_is_no_range_of_the_run_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^--skip_steps: {message}"):
        SkipSteps.parse(text, num_steps=100)


def test_the_last_step_may_be_skipped() -> None:
    assert SkipSteps.parse("90:100", num_steps=100).next_kept(95) == 100


@pytest.mark.parametrize("content", ["", "[]", '{"skipped": ["3"]}', '{"skipped": 5}', '{"skipped": [5]}', '{"other": []}'])
def test_a_broken_memory_is_an_error_never_nothing_skipped(tmp_path: Path, content: str) -> None:
    (tmp_path / SKIPPED_STEPS_FILE).write_text(content)
    with pytest.raises(InputError, match=r"skipped_steps.json: not a list of skipped steps"):
        SkipSteps.read(tmp_path)

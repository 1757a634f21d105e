"""benchmarks/results_quick.py: the committed figures agree with themselves, and what does not hold is named."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from results_quick import COMMITTED, EXPECTED, figures, verdict

from ernie_m.base.console import InputError


def test_the_committed_result_is_in_the_order_that_is_asked_for_by_more_than_the_tolerance() -> None:
    committed = figures(COMMITTED)
    assert verdict(committed, committed)[1] == []
    for measure, expected in EXPECTED.items():
        for lower, higher in zip(expected.order, expected.order[1:], strict=False):
            values = committed[lower][measure], committed[higher][measure]
            assert expected.distance(*values) > expected.tolerance, f"{measure}: {lower} and {higher} could change places"


@pytest.mark.parametrize("measure", EXPECTED)
def test_another_order_and_a_figure_out_of_its_tolerance_are_named(measure: str) -> None:
    committed = figures(COMMITTED)
    low, high = EXPECTED[measure].order[0], EXPECTED[measure].order[-1]
    swapped = copy.deepcopy(committed)
    swapped[low][measure], swapped[high][measure] = committed[high][measure], committed[low][measure]
    lines = verdict(committed, swapped)[1]
    assert any(line.startswith(f"{measure}: expected {low} below") for line in lines)
    assert any(line.startswith(f"{measure} of {high}:") and "committed" in line for line in lines)


def test_a_missing_cell_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mmlm_seed0\.json: no such file; expected a finished cell"):
        figures(tmp_path)

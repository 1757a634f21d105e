"""Weights of losses over the steps: straight lines between points, and where an objective ends."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ernie_m.base.config import build, read_recipe, to_mapping
from ernie_m.base.console import InputError
from ernie_m.base.curve import Curve
from ernie_m.base.shipped import recipe_path
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.rows.weights import ObjectiveWeights
from ernie_m.training.recipe import TrainingConfig

WRONG = ("", "1", "0:1,", "0:1 5:2", "5:1, 5:2", "9:1, 5:2", "-1:1", "0:-1", "0:1e7", "0:nan", "a:1")
PAPERS = "0:1, 100000:0.1, 300000:0"


def test_a_curve_is_straight_between_its_points_and_flat_outside() -> None:
    curve = Curve.of("10:2, 20:1, 60:0, 70:4")
    xs, ys = [10, 20, 60, 70], [2, 1, 0, 4]
    assert [curve.at(step) for step in range(100)] == pytest.approx(np.interp(range(100), xs, ys).tolist(), abs=1e-12)
    assert Curve.of(0.3).at(10**9) == 0.3
    assert Curve.of(PAPERS).at(200_000) == float((Fraction(0.1) * 100_000) / 200_000)


def test_where_a_curve_is_zero_for_good() -> None:
    found = {text: Curve.of(text).zero_from for text in (PAPERS, "0:1", "0:0", "5:0, 9:1", "0:0, 5:1, 9:0, 20:0")}
    assert list(found.values()) == [300_000, None, 0, None, 9]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_curve_is_one_line(text: str) -> None:
    content = {**read_recipe(recipe_path("demo")), "objective_weights": {"MMLM": text}}
    if text == "1":
        assert build(TrainingConfig, content, "r.yaml").weights.at(7)[LOSS_INDEX["MMLM"]] == 1.0
        return
    with pytest.raises(InputError, match=r"^r\.yaml: objective_weights\.MMLM: .*expected a number .*; or step:number"):
        build(TrainingConfig, content, "r.yaml")


def test_numbers_stay_numbers_and_curves_their_text() -> None:
    given: dict[str, Any] = {"MMLM": "0:1, 10:0.5", "TLM": 2, "CAMLM": "1e-1"}
    config = build(TrainingConfig, {**read_recipe(recipe_path("demo")), "objective_weights": given}, "r.yaml")
    assert to_mapping(config)["objective_weights"] == {"MMLM": "0:1, 10:0.5", "TLM": 2.0, "CAMLM": 0.1}
    assert config.weights.changing(5) == {"MMLM": 0.75}
    weights = config.weights.at(5)
    assert [weights[LOSS_INDEX[name]] for name in ("MMLM", "TLM", "CAMLM", "BTMLM")] == [0.75, 2.0, 0.1, 1.0]


def test_an_objective_whose_curve_ends_at_zero_is_drawn_no_more_and_the_others_take_its_rows() -> None:
    stages = (StageConfig(steps=10, rows={"MMLM": 1, "TLM": 1}), StageConfig(steps=5, rows={"TLM": 3, "CLM": 1}))
    drawn = ObjectiveWeights({"MMLM": "0:1, 4:0", "CLM": "10:1, 13:0", "CAMLM": "0:0", "TLM": 0}).drawn(stages)
    schedule = Schedule(drawn, 8)
    assert schedule.num_steps == 15
    rows = [[address.objective for address in schedule.rows_of_step(step)] for step in range(15)]
    assert [row.count("MMLM") for row in rows] == [4] * 4 + [0] * 11
    assert [row.count("TLM") for row in rows] == [4] * 4 + [8] * 6 + [6] * 3 + [8] * 2
    draws = [address.draw for step in range(15) for address in schedule.rows_of_step(step) if address.objective == "TLM"]
    assert draws == list(range(len(draws))), "no row is left out or drawn twice"
    assert ObjectiveWeights({"TLM": "0:1, 99:0"}).drawn(stages) == stages


def test_an_objective_of_two_losses_ends_with_the_later_one() -> None:
    both = {"AlignLM": "0:1, 30:0", "AlignLM_bilingual": "0:1, 50:0"}
    assert ObjectiveWeights(both).ends("AlignLM") == 50
    assert ObjectiveWeights({"AlignLM": "0:1, 30:0"}).ends("AlignLM") is None


def test_a_stage_that_would_teach_nothing_is_refused() -> None:
    content = read_recipe(recipe_path("demo")) | {
        "stages": [{"steps": 9, "rows": {"MMLM": 1, "TLM": 1}}],
        "objective_weights": {"MMLM": "0:1, 3:0", "TLM": "5:1, 7:0"},
    }
    with pytest.raises(InputError, match=r"weights: from step 7 on all of stages\[0\] \(MMLM, TLM\) weighs nothing"):
        build(TrainingConfig, content, "r.yaml")
    build(TrainingConfig, content | {"objective_weights": {"MMLM": 0}}, "r.yaml")
    with pytest.raises(InputError, match=r"weights: all of stages\[0\] \(MMLM, TLM\) weighs nothing"):
        build(TrainingConfig, content | {"objective_weights": {"MMLM": 0, "TLM": 0.0}}, "r.yaml")

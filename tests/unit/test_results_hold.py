"""benchmarks/results_hold.py: committed figures agree with themselves, and what does not hold here is named."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from results_hold import Expected, found_in, read_expected, results_hold, verdict
from results_quick import OPTIONS

from ernie_m.ablation import variants
from ernie_m.base.config import build
from ernie_m.base.console import InputError
from ernie_m.training.optimizer import OptimizerConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.yaml") if path.with_suffix(".md").is_file())


def found(expected: dict[str, Expected]) -> dict[str, dict[str, float]]:
    return {measure: dict(of.figures) for measure, of in expected.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.stem))
def test_the_figures_of_a_page_stand_in_its_text_and_in_the_order_that_is_asked_for(page: Path) -> None:
    expected = read_expected(page)
    assert verdict(expected, found(expected))[1] == []
    assert any(of.order for of in expected.values())
    text = page.with_suffix(".md").read_text()
    assert "results_hold.py" in text or "results_quick.py" in text
    for of in expected.values():
        for figure in of.figures.values():
            shown = {f"{figure:.{digits}f}" for digits in range(4) if round(figure, digits) == figure}
            assert any(f" {one} " in text or f" **{one}" in text for one in shown), f"{page}: {figure}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.stem))
def test_another_order_and_a_figure_out_of_its_tolerance_are_named(page: Path) -> None:
    expected = read_expected(page)
    for measure, of in expected.items():
        if len(of.order) < 2:
            continue
        low, high = of.order[0], of.order[-1]
        swapped = copy.deepcopy(found(expected))
        swapped[measure][low], swapped[measure][high] = of.figures[high], of.figures[low]
        lines = verdict(expected, swapped)[1]
        assert any(line.startswith(f"{measure}: expected {low} below") for line in lines)
        assert any(line.startswith(f"{measure} of {high}:") and "committed" in line for line in lines)


def test_means_over_seeds_of_a_results_file_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def result(gain: float, accuracy: float) -> dict[str, object]:
        by_layer = {"de": {"0": [0.9, 0.9], "1": [accuracy, accuracy]}}
        return {"retrieval": by_layer, "fine_tuned": {}, "pairs": {"gain": gain}}

    page, results = tmp_path / "page.yaml", tmp_path / "results.json"
    page.write_text(
        "gain: {figures: {a: 0.2, b: 0.5}, tolerance: 0.1, order: [a, b]}\n"
        "last_layer: {figures: {a: 40, b: 20}, tolerance: 10 %}\n"
    )
    runs = {"a": [result(0.1, 0.41), result(0.34, 0.42)], "b": [result(0.5, 0.2)]}
    results.write_text(json.dumps({"results": runs}))
    results_hold(page=str(page), results=str(results))
    assert "the committed result holds here" in capsys.readouterr().out
    assert found_in(results, read_expected(page))["last_layer"]["a"] == pytest.approx(41.5), "percent of the last layer"
    runs["a"].append(result(0.6, 0.46))
    results.write_text(json.dumps({"results": runs}))
    with pytest.raises(InputError, match=r"gain of a: 0.3467, committed 0.2, more than 0.1 apart$"):
        results_hold(page=str(page), results=str(results))
    assert read_expected(page)["last_layer"].distance(0.0, 40.0) == float("inf")
    del runs["b"]
    results.write_text(json.dumps({"results": runs}))
    for path in (results, tmp_path / "absent.json"):
        with pytest.raises(InputError, match=r"no gain of [ab] there; expected the results of the page's command"):
            results_hold(page=str(page), results=str(path))


@pytest.mark.parametrize("content", ["", "[" * 10**5, "[]", "{}", '{"results": 3}', '{"results": {"a": [{}]}}'])
def test_results_of_something_else_are_one_line(tmp_path: Path, content: str) -> None:
    page, results = tmp_path / "page.yaml", tmp_path / "results.json"
    page.write_text("gain: {figures: {a: 0.2}, tolerance: 0.1}\n")
    results.write_text(content)
    with pytest.raises(InputError, match=r"results\.json: not a results\.json of `ernie-m ablate`"):
        results_hold(page=str(page), results=str(results))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("gain: 3", "gain: expected figures, a tolerance and, where"),
        ("gain: {figures: {a: 1}, tolerance: 0.1, ordr: [a]}", "gain: expected figures, a tolerance and, where"),
        ("gain: {figures: {a: x}, tolerance: 0.1}", "expected figures of variants, a tolerance such as 0.03 or 12 %"),
        ("gain: {figures: {a: 1}, tolerance: 1 % 2}", "expected figures of variants, a tolerance such as 0.03 or 12 %"),
        ("gain: {figures: {}, tolerance: 1}", "expected figures of variants, a tolerance such as 0.03 or 12 %"),
        ("{}", "names no measure, so that nothing is compared"),
        ("gain: {figures: {a: 0}, tolerance: 1 %}", "expected figures of variants, a tolerance such as 0.03 or 12 %"),
        ("gain: {figures: {a: 1}, tolerance: 0}", "expected figures of variants, a tolerance such as 0.03 or 12 %"),
        ("gain: {figures: {a: 1}, tolerance: 1, order: [b]}", "expected figures of variants, a tolerance such as"),
        ("gain: {figures: {a: 1, b: 2}, tolerance: 1, order: [a, b]}", "gain: a and b could change places: 1 and 2"),
        ("gain: {figures: {a: 3, b: 1}, tolerance: 1, order: [a, b]}", "gain: a and b could change places: 3 and 1"),
    ],
)
def test_a_page_that_says_nothing_exact_is_one_line(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "page.yaml").write_text(written)
    with pytest.raises(InputError, match=said):
        read_expected(tmp_path / "page.yaml")


def test_the_quick_result_is_trained_as_its_figures_were_whatever_becomes_of_recipes() -> None:
    recipe, steps = (OPTIONS[OPTIONS.index(option) + 1] for option in ("--recipe", "--steps"))
    overrides = [word for word in OPTIONS if "=" in word]
    trained = {of.name: of.recipe for of in variants.transfer(recipe, int(steps), overrides)}["camlm"]
    assert trained["stages"] == [{"steps": 3000, "rows": {"MMLM": 1, "TLM": 1, "CAMLM": 2}}]
    assert trained["data"] == {"sequence_length": 128, "alpha": 0.7, "corruption": {"mask_rate": 0.3}}
    optimizer = build(OptimizerConfig, trained["optimizer"], "quick")
    assert optimizer == OptimizerConfig(peak_learning_rate=2e-3, warmup_steps=75)

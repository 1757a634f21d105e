"""Means, spreads and gaps are those of numpy; a collapsed seed is named, and counted in the open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_m.base.language_codes import macrolanguage
from ernie_m.downstream import paper, report

SCORES = {"en": (80.0, 82.0, 50.0), "de": (70.0, 75.0, 40.0), "fr": (72.0, 71.0, 30.0)}
VALIDATION = (79.0, 81.0, 34.0)


def results_of(scores: dict[str, tuple[float, ...]], validation: tuple[float, ...]) -> list[dict[str, Any]]:
    return [
        {
            "seed": number + 1,
            "validation": value,
            "test": {language: {"accuracy": of[number], "em": of[number] / 2} for language, of in scores.items()},
        }
        for number, value in enumerate(validation)
    ]


RESULTS = results_of(SCORES, VALIDATION)
TABLE = np.array(list(SCORES.values()))


def test_means_spreads_and_gap_are_those_of_numpy() -> None:
    summary = report.summarise(RESULTS, ("accuracy", "em"), trivial=33.3, num_validation=2490)
    for row, language in zip(TABLE, SCORES, strict=True):
        spread = summary.languages[language]["accuracy"]
        assert (spread.mean, spread.sd) == pytest.approx((row.mean(), row.std(ddof=1)))
        assert summary.languages[language]["em"].mean == pytest.approx(row.mean() / 2)
    of_seeds = TABLE.mean(axis=0)
    assert (summary.average["accuracy"].mean, summary.average["accuracy"].sd) == pytest.approx(
        (of_seeds.mean(), of_seeds.std(ddof=1))
    )
    gaps = TABLE[0] - TABLE[1:].mean(axis=0)
    assert summary.gap is not None
    assert (summary.gap.mean, summary.gap.sd) == pytest.approx((gaps.mean(), gaps.std(ddof=1)))


def test_a_collapsed_seed_stays_in_the_mean_and_is_named_beside_it() -> None:
    summary = report.summarise(RESULTS, ("accuracy", "em"), trivial=33.3, num_validation=2490)
    assert summary.collapsed == [3]
    assert summary.average["accuracy"].mean == pytest.approx(TABLE.mean())
    assert summary.without_collapsed is not None
    assert summary.without_collapsed["accuracy"].mean == pytest.approx(TABLE[:, :2].mean())
    shown = report.as_table(summary, RESULTS, None)
    assert "seed 3*" in shown
    assert "seed 2*" not in shown
    assert "mean without *" in shown
    assert any("collapsed: 1 of 3 seeds (3)" in line for line in report.remarks(summary, RESULTS, None))


@pytest.mark.parametrize(
    ("validation", "num_examples", "expected"),
    [
        ((79.0, 81.0, 36.0), 2490, []),  # 33.3 + 2 * 0.94
        ((79.0, 81.0, 35.1), 2490, [3]),
        ((79.0, 81.0, 36.0), 60, [3]),  # of few examples it is not clearly above
        ((33.3, 33.3, float("nan")), 2490, [1, 2, 3]),
    ],
)
def test_collapsed_is_what_chance_could_reach(validation: tuple[float, ...], num_examples: int, expected: list[int]) -> None:
    summary = report.summarise(results_of(SCORES, validation), ("accuracy", "em"), 33.3, num_examples)
    assert summary.collapsed == expected
    assert summary.without_collapsed is None or expected == [3]


def test_a_trivial_score_of_zero_means_that_only_zero_is_collapsed() -> None:
    summary = report.summarise(results_of(SCORES, (0.0, 0.5, 40.0)), ("accuracy", "em"), 0.0, 100)
    assert summary.collapsed == [1]


def test_one_seed_has_no_spread_and_one_language_no_gap() -> None:
    summary = report.summarise(results_of({"en": (80.0,)}, (79.0,)), ("accuracy", "em"), 33.3, 2490)
    assert summary.average["accuracy"].sd is None
    assert summary.gap is None
    assert json.dumps(report.as_json(summary, None))


def test_the_papers_row_is_over_the_same_languages_or_says_so() -> None:
    row = paper.ROWS["xnli", "transfer", "base"]
    assert row.over(list(row.languages)) == pytest.approx(row.averages["accuracy"], abs=0.06), "its own mean"
    summary = report.summarise(RESULTS, ("accuracy", "em"), 33.3, 2490)
    lines = report.as_table(summary, RESULTS, row).splitlines()
    paper_of = {line.split("  ")[0].strip(): line.split()[-1] for line in lines}
    assert paper_of["en"] == "85.5"
    assert paper_of["de"] == "79.2"
    assert paper_of["mean"] == f"{(85.5 + 79.2 + 80.1) / 3:.1f}"
    assert paper_of["en - others"] == f"{85.5 - (79.2 + 80.1) / 2:.1f}"
    assert report.remarks(summary, [], row)[-1:] != ["the paper's mean is over all languages of its table"]
    large = paper.ROWS["xnli", "transfer", "large"]
    assert report.as_table(summary, RESULTS, large).splitlines()[5].split()[-3] == "82.0"
    assert report.remarks(summary, [], large)[-1] == "the paper's mean is over all languages of its table"


@pytest.mark.parametrize(
    ("task", "tested", "reason"),
    [
        ("xnli", {"en": 5010, "ur": 5010}, None),
        ("xnli", {"en": 5010, "ur": 2490}, "2,490 examples in ur, of which XNLI's test set has 5,010"),
        ("xnli", {"en": 36}, "36 examples in en, of which XNLI's test set has 5,010"),
        ("xnli", {"ja": 5010}, "ja, which is not among XNLI's"),
        ("ner", {"en": 3453, "de": 3005, "es": 1517, "nl": 5195}, None),
        ("ner", {"en": 10_000, "zh": 10_000}, "10,000 examples in en, of which CoNLL's test set has 3,453"),
        ("ner", {"fi": 3453}, "fi, which is not among CoNLL's"),
        ("mlqa", {"de": 4517}, None),
        ("mlqa", {"de": 1190}, "1,190 examples in de, of which MLQA's test set has 4,517"),
        ("mlqa", {"de-en": 4517}, "de-en, which is not among MLQA's"),
        ("tatoeba", {"fra": 1000, "swh": 390}, None),
        ("tatoeba", {"fra": 1000, "bre": 1000}, "bre, which is not among Tatoeba's"),
    ],
)
def test_the_papers_row_stands_beside_its_own_test_set_alone(task: str, tested: dict[str, int], reason: str | None) -> None:
    assert paper.difference(task, tested) == reason
    setting = next(key[1] for key in paper.ROWS if key[0] == task)
    row, absence = paper.row_of(task, setting, "large", reason)
    assert (row is None) == (reason is not None)
    assert (absence is None) == (reason is None)
    assert (
        reason is None
        or absence == f"no row of the paper: tested on {reason}; its rows are of {paper.DATA_SETS[task]}'s test set"
    )


def test_a_row_that_the_paper_lacks_is_told() -> None:
    assert paper.row_of("pawsx", "transfer", "base", None) == (
        None,
        "the paper has no row for PAWS-X, transfer, of its base model",
    )


def test_languages_of_test_sets_are_those_of_the_papers_rows() -> None:
    assert len(paper.TEST_SIZES["tatoeba"]) == len({*map(macrolanguage, paper.TEST_SIZES["tatoeba"])}) == 36
    assert set(paper.TEST_SIZES["xnli"]) == set(paper.ROWS["xnli", "transfer", "base"].languages)


def test_the_picture_is_drawn_whole(tmp_path: Path) -> None:
    summary = report.summarise(RESULTS, ("accuracy", "em"), 33.3, 2490)
    report.draw(summary, RESULTS, paper.ROWS["xnli", "transfer", "base"], "t", tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.png"]

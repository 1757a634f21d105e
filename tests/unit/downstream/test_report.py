"""Means, spreads and gaps are those of numpy; a collapsed seed is named, and counted in the open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_m.downstream import paper, report
from ernie_m.downstream.mlqa import Mlqa
from ernie_m.downstream.ner import Ner
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.task import Task
from ernie_m.downstream.xnli import Xnli

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
    row = paper.row_of("xnli", "transfer", "base", {"XNLI"})
    assert row is not None
    assert row.over(list(row.languages)) == pytest.approx(row.averages["accuracy"], abs=0.06), "its own mean"
    summary = report.summarise(RESULTS, ("accuracy", "em"), 33.3, 2490)
    lines = report.as_table(summary, RESULTS, row).splitlines()
    paper_of = {line.split("  ")[0].strip(): line.split()[-1] for line in lines}
    assert paper_of["en"] == "85.5"
    assert paper_of["de"] == "79.2"
    assert paper_of["mean"] == f"{(85.5 + 79.2 + 80.1) / 3:.1f}"
    assert paper_of["en - others"] == f"{85.5 - (79.2 + 80.1) / 2:.1f}"
    assert report.remarks(summary, [], row)[-1:] != ["the paper's mean is over all languages of its table"]
    large = paper.row_of("xnli", "transfer", "large", {"XNLI"})
    assert report.as_table(summary, RESULTS, large).splitlines()[5].split()[-3] == "82.0"
    assert report.remarks(summary, [], large)[-1] == "the paper's mean is over all languages of its table"


@pytest.mark.parametrize(
    ("task", "setting", "files", "average", "reason"),
    [
        (Ner(), "en", ["eng.testb", "deu.testb", "esp.testb", "ned.testb"], 79.56, None),
        (Ner(), "en", ["test-en.tsv", "test-zh.tsv"], None, "no row for WikiANN; its rows are of CoNLL"),
        (Ner(), "all", ["en/test", "zh/test"], None, "no row for WikiANN; its rows are of CoNLL"),
        (Ner(), "en", ["eng.testb", "test-fr.tsv"], None, "no row for WikiANN; its rows are of CoNLL"),
        (Ner(), "en", ["eng.testa"], None, "no row for eng.testa; its rows are of CoNLL"),
        (Ner(), "en", ["fin.testb"], None, "no row for fin.testb; its rows are of CoNLL"),
        (Mlqa(), "transfer", ["test/test-context-de-question-de.json"], 68.7, None),
        (Mlqa(), "transfer", ["dev-context-de-question-de.json"], None, "no row for MLQA's dev files; its rows are of MLQA"),
        (Mlqa(), "transfer", ["xquad.de.json"], None, "no row for XQuAD; its rows are of MLQA"),
        (Mlqa(), "transfer", ["dev-v1.1.json"], None, "no row for dev-v1.1.json; its rows are of MLQA"),
        (Xnli(), "transfer", ["xnli.test.tsv"], 77.3, None),
        (Xnli(), "transfer", ["test-en.tsv", "xnli.dev.tsv"], None, "no row for XNLI's dev files; its rows are of XNLI"),
        (PawsX(), "transfer", ["test-en.tsv"], None, "no row for PAWS-X, transfer, of its base model"),
    ],
)
def test_the_papers_row_stands_beside_its_own_data_set_alone(
    task: Task[Any], setting: str, files: list[str], average: float | None, reason: str | None
) -> None:
    tested = {task.data_set(Path(name)) for name in files}
    row, absence = (of(task.name, setting, "base", tested) for of in (paper.row_of, paper.absence))
    assert (row.averages[task.metrics[0]] if row else None) == average
    assert absence == (reason and f"the paper has {reason}")


def test_the_picture_is_drawn_whole(tmp_path: Path) -> None:
    summary = report.summarise(RESULTS, ("accuracy", "em"), 33.3, 2490)
    report.draw(summary, RESULTS, paper.row_of("xnli", "transfer", "base", {"XNLI"}), "t", tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.png"]

"""Scores of all seeds: mean and spread by language, the gap between English and the others, the paper's row, collapsed
seeds by name; as a table, as JSON and as a picture.

A seed has *collapsed* if its validation score is at most two standard errors above that of a constant answer, which ignores
the input. It counts in the mean; the mean without it is shown too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.table import table
from ernie_m.downstream.paper import PaperRow

OURS_COLOR, SEED_COLOR, COLLAPSED_COLOR, PAPER_COLOR = "#1f4e9c", "#7a9bd1", "#c0392b", "#d1831f"
SOURCE_LANGUAGE = "en"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and their sample standard deviation (None for one seed), in percent."""

    mean: float
    sd: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Summary:
    """The summary of all seeds."""

    languages: dict[str, dict[str, Spread]]
    """Language -> metric -> spread over seeds."""
    average: dict[str, Spread]
    """Metric -> spread of each seed's mean over languages."""
    without_collapsed: dict[str, Spread] | None
    """The same without collapsed seeds; None when none collapsed, or all."""
    gap: Spread | None
    """First metric of English minus the mean of the others; None without English or without others."""
    collapsed: list[int]
    """Seeds that collapsed."""
    trivial: float
    """First metric on validation of a constant answer."""


def collapse_threshold(trivial: float, num_examples: int) -> float:
    """Percent up to which a validation score counts as collapsed: `trivial` and two standard errors of it."""
    share = trivial / 100
    return trivial + 200 * math.sqrt(share * (1 - share) / num_examples)


def summarise(results: Sequence[Mapping[str, Any]], metrics: Sequence[str], trivial: float, num_validation: int) -> Summary:
    """Put the seeds' results (`seed.run_seed`) together.

    `trivial` is the first metric of a constant answer, on `num_validation` examples.
    """
    first = metrics[0]
    threshold = collapse_threshold(trivial, num_validation)
    collapsed = [int(result["seed"]) for result in results if not result["validation"] > threshold]
    alive = [result for result in results if result["seed"] not in collapsed]
    languages = list(results[0]["test"])
    by_language = {
        language: {metric: spread([result["test"][language][metric] for result in results]) for metric in metrics}
        for language in languages
    }
    others = [language for language in languages if language != SOURCE_LANGUAGE]
    gaps = [
        result["test"][SOURCE_LANGUAGE][first] - average_of({k: result["test"][k] for k in others}, first)
        for result in results
        if SOURCE_LANGUAGE in languages and others
    ]
    return Summary(
        languages=by_language,
        average=_averages(results, metrics),
        without_collapsed=_averages(alive, metrics) if collapsed and alive else None,
        gap=spread(gaps) if gaps else None,
        collapsed=collapsed,
        trivial=trivial,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def average_of(scores: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """Mean of a metric over languages."""
    return statistics.fmean(of[metric] for of in scores.values())


def _averages(results: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Spread]:
    return {metric: spread([average_of(result["test"], metric) for result in results]) for metric in metrics}


def as_json(summary: Summary, paper: PaperRow | None) -> dict[str, Any]:
    """The summary as content of results.json, with the paper's row."""
    return {**asdict(summary), "paper": asdict(paper) if paper else None}


def as_table(summary: Summary, results: Sequence[Mapping[str, Any]], paper: PaperRow | None) -> str:
    """A row a language: mean ± sd of each metric, the first metric of each seed, the paper's; averages and gap below."""
    metrics = list(summary.average)
    first = metrics[0]
    seeds = [f"seed {r['seed']}" + ("*" if r["seed"] in summary.collapsed else "") for r in results]
    given = dict(paper.languages) if paper else {}
    rows = [
        [language, *(str(of[metric]) for metric in metrics)]
        + [f"{result['test'][language][first]:.2f}" for result in results]
        + [_shown(given.get(language))]
        for language, of in summary.languages.items()
    ]
    rows.append(
        ["mean", *(str(summary.average[metric]) for metric in metrics)]
        + [f"{average_of(result['test'], first):.2f}" for result in results]
        + [_paper_mean(paper, list(summary.languages), metrics)]
    )
    if summary.without_collapsed:
        kept = ["mean without *", *(str(summary.without_collapsed[metric]) for metric in metrics)]
        rows.append([*kept, *([""] * len(results)), ""])
    if summary.gap:
        gap = ["en - others", str(summary.gap), *([""] * (len(metrics) - 1 + len(results)))]
        rows.append([*gap, _paper_gap(paper, list(summary.languages))])
    return table(["language", *metrics, *seeds, "paper"], rows)


def remarks(summary: Summary, results: Sequence[Mapping[str, Any]], paper: PaperRow | None) -> list[str]:
    """Lines below the table: who collapsed, and over which languages the paper's mean is."""
    lines = []
    if summary.collapsed:
        named = ", ".join(map(str, summary.collapsed))
        lines.append(
            f"* collapsed: {len(summary.collapsed)} of {len(results)} seeds ({named}) are on validation not clearly above "
            f"{summary.trivial:.2f}, the score of a constant answer; they count in the means"
            + ("" if summary.without_collapsed else "; no other seed is left")
        )
    if paper and paper.over(list(summary.languages)) is None:
        lines.append("the paper's mean is over all languages of its table")
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _paper_mean(paper: PaperRow | None, languages: list[str], metrics: Sequence[str]) -> str:
    if paper is None:
        return "-"
    over = paper.over(languages)
    if over is not None and len(languages) < len(paper.languages):
        return _shown(over)
    return " / ".join(_shown(paper.averages.get(metric)) for metric in metrics)


def _paper_gap(paper: PaperRow | None, languages: list[str]) -> str:
    others = [language for language in languages if language != SOURCE_LANGUAGE]
    rest = paper.over(others) if paper and SOURCE_LANGUAGE in paper.languages else None
    return _shown(paper.languages[SOURCE_LANGUAGE] - rest if paper and rest is not None else None)


def mark_paper(axis: Any, names: Sequence[str], given: Mapping[str, float]) -> None:
    """A line at the paper's score of each of the bars `names` for which it gives one."""
    marked = [(x, given[name]) for x, name in enumerate(names) if name in given]
    axis.scatter(
        [x for x, _ in marked],
        [y for _, y in marked],
        marker="_",
        s=260,
        color=PAPER_COLOR,
        zorder=4,
        label="ERNIE-M's paper",
    )


def draw(summary: Summary, results: Sequence[Mapping[str, Any]], paper: PaperRow | None, title: str, path: Path) -> None:
    """Bars of the first metric by language with every seed as a dot, and the paper's scores; PNG, atomically."""
    pyplot = plotting()
    metric = next(iter(summary.average))
    names = [*summary.languages, "mean"]
    spreads = [*(of[metric] for of in summary.languages.values()), summary.average[metric]]
    figure, axis = pyplot.subplots(figsize=(2.5 + 0.6 * len(names), 4), layout="constrained")
    axis.bar(range(len(names)), [s.mean for s in spreads], color=OURS_COLOR, width=0.7, label="mean of the seeds")
    for result in results:
        heights = [*(of[metric] for of in result["test"].values()), average_of(result["test"], metric)]
        is_collapsed = result["seed"] in summary.collapsed
        color, label = (COLLAPSED_COLOR, "collapsed seed") if is_collapsed else (SEED_COLOR, "seed")
        axis.scatter(
            range(len(names)), heights, s=14, color=color, edgecolors="white", linewidths=0.5, zorder=3, label=label
        )
    if paper:
        over = paper.over(list(summary.languages))
        given = {**paper.languages, "mean": paper.averages[metric] if over is None else over}
        mark_paper(axis, names, given)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel(f"{metric}, %")
    figure.suptitle(title, fontsize=9)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(
        handles.values(), handles.keys(), fontsize=7, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False
    )
    save_figure(figure, path)

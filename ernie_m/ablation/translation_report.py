"""The table of a comparison of starts: BLEU and chrF both ways, beside copying and the paper's numbers; and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from ernie_m.ablation.report import Results, mean_and_spread, seeds_told, tell
from ernie_m.ablation.translation import Kind
from ernie_m.ablation.variants import Variant
from ernie_m.base.files import write_json
from ernie_m.base.plots import plotting, save_figure

PAPERS_DIRECTIONS = {"en-fr": "there", "fr-en": "back"}


def head_and_rows(kind: Kind, variants: Sequence[Variant], results: Results) -> tuple[list[str], list[list[str]]]:
    """A row a variant; of each direction BLEU and chrF, and the paper's BLEU where it is a direction of the paper's."""
    directions = list(next(iter(results.values()))[0])
    head, columns = ["encoder, decoder"], []
    for direction in directions:
        for measure, name in (("bleu", "BLEU"), ("chrf", "chrF")):
            head.append(f"{name} {direction}")
            of_rows = [[result[direction]["translated"][measure] for result in results[v.name]] for v in variants]
            copied = next(iter(results.values()))[0][direction]["source copied"][measure]
            columns.append([f"{copied:.1f}", *(mean_and_spread(values, 1) for values in of_rows)])
        if kind.paper and direction in PAPERS_DIRECTIONS:
            head.append("paper")
            told = [v.paper.get(PAPERS_DIRECTIONS[direction]) for v in variants]
            columns.append(["", *("" if score is None else f"{score:.1f}" for score in told)])
    names = ["source copied", *(v.title for v in variants)]
    return head, [list(row) for row in zip(names, *columns, strict=True)]


def write(kind: Kind, variants: Sequence[Variant], results: Results, to: Path) -> None:
    """Print the table; write results.json, results.md and comparison.png into `to`."""
    head, rows = head_and_rows(kind, variants, results)
    scored = next(iter(next(iter(results.values()))[0].values()))
    signatures = [scored["translated"][f"{measure}_signature"] for measure in ("bleu", "chrf")]
    told = [seeds_told(results), f"{scored['sentences']:,} sentences; {'; '.join(signatures)}", kind.remark]
    tell([(kind.title, head, rows)], told, to)
    described = {v.name: {"title": v.title, "recipe": v.recipe, "paper": v.paper} for v in variants}
    write_json(to / "results.json", {"variants": described, "results": results, "remarks": told})
    draw(kind, variants, results, to / "comparison.png")
    print(f"written: {', '.join(str(to / name) for name in ('results.md', 'results.json', 'comparison.png'))}")


def draw(kind: Kind, variants: Sequence[Variant], results: Results, path: Path) -> None:
    """BLEU, a panel a direction: a bar a row, each seed a point, copying a line, the paper's BLEU a cross."""
    pyplot = plotting()
    directions, places = list(next(iter(results.values()))[0]), range(len(variants))
    size = (4.2 * len(directions) + 1.8, 1.2 + 0.35 * len(variants))
    figure, axes = pyplot.subplots(1, len(directions), figsize=size, squeeze=False, sharey=True)
    for axis, direction in zip(axes[0], directions, strict=True):
        scored = [[of[direction]["translated"]["bleu"] for of in results[v.name]] for v in variants]
        axis.barh(places, [statistics.fmean(of_seeds) for of_seeds in scored], color="C0", alpha=0.5)
        for place, of_seeds in zip(places, scored, strict=True):
            axis.plot(of_seeds, [place] * len(of_seeds), "o", color="C0", markersize=4)
        copied = next(iter(results.values()))[0][direction]["source copied"]["bleu"]
        axis.axvline(copied, color="black", linestyle=":", label="source copied")
        if kind.paper and direction in PAPERS_DIRECTIONS:
            told = [(v.paper[PAPERS_DIRECTIONS[direction]], place) for v, place in zip(variants, places, strict=True)]
            axis.plot(*zip(*told, strict=True), "x", color="C1", label="the paper")
        axis.set(xlabel=f"BLEU {direction}")
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(places, [v.title for v in variants])
    axes[0][0].invert_yaxis()
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)

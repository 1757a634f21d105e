"""A comparison's results: one table for people, the same as Markdown and JSON, and pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.ablation.figures import NUMBERS, error_by_layer, mean_by_layer, results_of, word_accuracy
from ernie_m.ablation.measures import RULES
from ernie_m.ablation.variants import Variant
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.table import markdown, table
from ernie_m.runs.metrics import points_of, read_metrics

Results = Mapping[str, Sequence[Mapping[str, Any]]]
COLUMNS = {
    "retrieval": "Tatoeba, best layer, %",
    "last_layer": "last layer, %",
    "words": "word translation, %",
    "links": "state AER, best layer, %",
    "links_static": "embeddings, %",
    "gain": "gain, nats",
    **{f"perplexity/{rule}": f"perplexity, {rule}" for rule in RULES},
}

BY_LAYER: dict[str, tuple[str, Callable[[Any], list[float]]]] = {
    "retrieval": ("Tatoeba accuracy@1, %", mean_by_layer),
    "links": ("alignment error rate of states, %", error_by_layer),
}
"""Measures that a picture has layer by layer: what its axis says, and the numbers."""


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """'12.3 ± 0.4' (sample standard deviation), '12.3' for one value."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def head_and_rows(variants: Sequence[Variant], results: Results) -> tuple[list[str], list[list[str]]]:
    """The table: a row a variant, a column a measure; benchmarks are beside the paper's score."""
    some = _any(results)
    head, columns = ["variant", "objectives"], []
    for key, label in COLUMNS.items():
        is_taken = bool(some[NUMBERS[key][0]]) if key in NUMBERS else key in some["pairs"]
        if is_taken:
            head.append(label)
            digits = 2 if key == "gain" else 1
            columns.append({n: mean_and_spread(v, digits) for n, v in results_of(results, key).items()})
    for task in some["fine_tuned"]:
        head += [f"{task}, %", f"{task}, paper"]
        gaps = {name: [result["gap"][task] for result in of_seeds] for name, of_seeds in results.items()}
        is_alike = all(task in result["as_in_the_paper"] for of_seeds in results.values() for result in of_seeds)
        columns.append({name: mean_and_spread(values, 2) for name, values in results_of(results, task).items()})
        columns.append({v.name: f"{v.paper[task]:.1f}" if is_alike and task in v.paper else "-" for v in variants})
        if all(gap is not None for of_seeds in gaps.values() for gap in of_seeds):
            head.append(f"{task}, en - others")
            columns.append({name: mean_and_spread(values, 2) for name, values in gaps.items()})
    rows = [[v.name, v.title, *(column[v.name] for column in columns)] for v in variants]
    return head, rows


def by_language(variants: Sequence[Variant], results: Results) -> tuple[list[str], list[list[str]]]:
    """Retrieval of each language, mean of both ways, in the layer that is best over all of them."""
    languages = sorted(_any(results)["retrieval"])
    rows = []
    for variant in variants:
        cells = []
        for language in languages:
            values = []
            for result in results[variant.name]:
                layers = mean_by_layer(result["retrieval"])
                values.append(50 * sum(result["retrieval"][language][str(layers.index(max(layers)))]))
            cells.append(mean_and_spread(values, 1))
        rows.append([variant.name, *cells])
    return ["variant", *languages], rows


def by_retrieval_set(variants: Sequence[Variant], results: Results) -> tuple[list[str], list[list[str]]]:
    """Retrieval of each set, mean of both ways and all pairs, in the last / the middle / the best layer.

    The middle of L layers is L // 2 + 1, as XTREME takes it.
    """
    rows = []
    sets = [*(["Tatoeba"] if _any(results)["retrieval"] else []), *sorted(_any(results)["sets"])]
    for variant in variants:
        cells = []
        for name in sets:
            layers = [mean_by_layer(result["sets"].get(name, result["retrieval"])) for result in results[variant.name]]
            figures = zip(*((by[-1], by[min((len(by) + 1) // 2, len(by) - 1)], max(by)) for by in layers), strict=True)
            cells.append(" / ".join(mean_and_spread(values, 1) for values in figures))
        rows.append([variant.name, *cells])
    return ["variant", *sets], rows


def by_set(variants: Sequence[Variant], results: Results) -> tuple[list[str], list[list[str]]]:
    """Word translation of each pair of languages, and the error rate of each gold set in the layer that is best over all."""
    some = _any(results)
    head = ["variant", *(f"words {name}" for name in some["words"]), *(f"AER {name}" for name in some["links"])]
    rows = []
    for variant in variants:
        columns = [
            [word_accuracy({name: result["words"][name]}) for result in results[variant.name]] for name in some["words"]
        ]
        for name in some["links"]:
            errors = [error_by_layer(result["links"]) for result in results[variant.name]]
            best = [layers.index(min(layers)) for layers in errors]
            taken = zip(results[variant.name], best, strict=True)
            columns.append([100 * result["links"][name][str(layer)] for result, layer in taken])
        rows.append([variant.name, *(mean_and_spread(values, 1) for values in columns)])
    return head, rows


def write(title: str, variants: Sequence[Variant], results: Results, remarks: Sequence[str], to: Path) -> None:
    """Print the table; write results.json, results.md and, where there is something to draw, comparison.png into `to`."""
    variants = [variant for variant in variants if results.get(variant.name)]
    some = _any(results)
    head, rows = head_and_rows(variants, results)
    if not rows[0][2:]:
        remarks = [*remarks, "no measures to show: --tatoeba, --held_out and --finetune name what to measure by"]
    parts = [(title, head, rows)]
    if some["retrieval"]:
        parts.append(("Tatoeba accuracy@1 by language, %", *by_language(variants, results)))
    if some["sets"]:
        parts.append(("Retrieval, %: last layer / middle / best", *by_retrieval_set(variants, results)))
    if some["words"] or some["links"]:
        parts.append(("Word translation and state AER by set, %", *by_set(variants, results)))
    told = [seeds_told(results), *remarks]
    tell(parts, told, to)
    described = {v.name: {"title": v.title, "recipe": v.recipe, "trained": v.is_trained, "paper": v.paper} for v in variants}
    write_json(to / "results.json", {"variants": described, "results": results, "remarks": told})
    names = ["results.md", "results.json"]
    if draw(variants, results, to / "comparison.png"):
        names.append("comparison.png")
    print("written: " + ", ".join(str(to / name) for name in names))


def tell(parts: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]], told: Sequence[str], to: Path) -> None:
    """Print tables (heading, head, rows) and remarks, and write both into `to`/results.md."""
    for heading, head, rows in parts:
        print(f"\n{heading}\n{table(head, rows)}")
    print("\n".join(["", *told]))
    sections = [f"## {heading}\n\n{markdown(head, rows)}" for heading, head, rows in parts]
    with written_atomically(to / "results.md") as aside:
        aside.write_text("\n\n".join([*sections, *told]) + "\n", encoding="utf-8")


def _any(results: Results) -> Mapping[str, Any]:
    """The measures of one run: which there are is the same for all."""
    return next(iter(results.values()))[0]


def seeds_told(results: Results) -> str:
    """What the tables' cells are of."""
    counts = {name: len(of_seeds) for name, of_seeds in results.items()}
    fewest, most = min(counts.values()), max(counts.values())
    if fewest < most:
        return "mean ± sample standard deviation over seeds: " + ", ".join(f"{name} {n}" for name, n in counts.items())
    return f"mean ± sample standard deviation over {most} seeds" if most > 1 else "one seed: no spread"


def draw(variants: Sequence[Variant], results: Results, path: Path) -> bool:
    """Gain and TLM perplexity over steps, retrieval and state AER by layer; a line a variant, each seed faint.

    False where none of these was measured.
    """
    pyplot = plotting()
    some = _any(results)
    curves = {"gain": "cross-lingual gain, nats", "perplexity/TLM": "perplexity of TLM's masks, held-out pairs"}
    panels = [*(curves if some["curve"] else ()), *(panel for panel in BY_LAYER if some[panel])]
    if not panels:
        return False
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for number, variant in enumerate(variants):
            lines = [_line(result, panel) for result in results[variant.name]]
            if panel.startswith("perplexity") and not variant.is_trained:
                continue  # a value near the size of the vocabulary would flatten the other lines
            if panel not in BY_LAYER and len(lines[0]) < 2:
                value = statistics.fmean(line[0][1] for line in lines)
                axis.axhline(value, color=f"C{number}", linestyle=":", label=variant.title)
                continue
            for line in lines:
                axis.plot(*zip(*line, strict=True), color=f"C{number}", alpha=0.25, linewidth=0.8)
            axis.plot(
                *zip(*mean_line(lines), strict=True), color=f"C{number}", marker="o", markersize=3, label=variant.title
            )
        axis.set(
            xlabel="layer (0: embeddings)" if panel in BY_LAYER else "step",
            ylabel=BY_LAYER[panel][0] if panel in BY_LAYER else curves[panel],
        )
        if panel.startswith("perplexity"):
            axis.set_yscale("log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)
    return True


def mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of several lines at their common steps. (A run that was stopped has a step of its own, its last save.)"""
    by_step = [dict(line) for line in lines]
    return [(x, statistics.fmean(line[x] for line in by_step)) for x, _ in lines[0] if all(x in line for line in by_step)]


def _line(result: Mapping[str, Any], panel: str) -> list[tuple[float, float]]:
    if panel in BY_LAYER:
        return list(enumerate(BY_LAYER[panel][1](result[panel])))
    return [(point["step"], point[panel]) for point in result["curve"]]


def draw_pseudo_perplexity(variants: Sequence[Variant], runs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """The paper's Figure 6: perplexity of BTMLM's masks over the steps that have it, a line a share of pseudo tokens."""
    pyplot = plotting()
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for number, variant in enumerate(variants):
        smooth = [smoothed_perplexity(run) for run in runs[variant.name]]
        for line in smooth:
            axis.plot(*zip(*line, strict=True), color=f"C{number}", alpha=0.25, linewidth=0.8)
        axis.plot(*zip(*mean_line(smooth), strict=True), color=f"C{number}", label=variant.title)
    axis.set(xlabel="step", ylabel="perplexity of BTMLM's masks, training", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    save_figure(figure, path)


def pseudo_perplexity(variants: Sequence[Variant], runs: Mapping[str, Sequence[Path]]) -> str:
    """The ends of those lines as text: BTMLM's perplexity over the last tenth of its steps."""
    lines = {v.name: [smoothed_perplexity(run, num_points=10) for run in runs[v.name]] for v in variants}
    ends = {name: [line[-1][1] for line in of_runs if line] for name, of_runs in lines.items()}
    each = ", ".join(f"{v.title} {mean_and_spread(of, 1) if (of := ends[v.name]) else 'not logged'}" for v in variants)
    return f"perplexity of BTMLM's masks, training, last tenth of its steps: {each}"


def smoothed_perplexity(run: Path, num_points: int = 50) -> list[tuple[int, float]]:
    """(last step, exp of BTMLM's mean loss) of up to `num_points` equal stretches of the steps that have a row of it."""
    points = points_of(read_metrics(run), "loss/BTMLM")
    width = max(1, math.ceil(len(points) / num_points))
    stretches = [points[i : i + width] for i in range(0, len(points), width)]
    return [(stretch[-1][0], math.exp(statistics.fmean(loss for _, loss in stretch))) for stretch in stretches]

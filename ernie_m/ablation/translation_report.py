"""The table of a comparison of starts: BLEU and chrF both ways, beside copying and the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.ablation.report import markdown, mean_and_spread
from ernie_m.ablation.translation import Kind
from ernie_m.ablation.variants import Variant
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.table import table

Results = Mapping[str, Sequence[Mapping[str, Any]]]
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
    """Print the table; write results.json and results.md into `to`."""
    head, rows = head_and_rows(kind, variants, results)
    some = next(iter(results.values()))
    scored = next(iter(some[0].values()))
    signatures = [scored["translated"][f"{measure}_signature"] for measure in ("bleu", "chrf")]
    spread = f"mean ± sample standard deviation over {len(some)} seeds" if len(some) > 1 else "one seed: no spread"
    told = [spread, f"{scored['sentences']:,} sentences; {'; '.join(signatures)}", kind.remark]
    print(f"\n{kind.title}\n{table(head, rows)}")
    print("\n".join(["", *told]))
    with written_atomically(to / "results.md") as aside:
        aside.write_text("\n\n".join([f"## {kind.title}", markdown(head, rows), *told]) + "\n", encoding="utf-8")
    described = {v.name: {"title": v.title, "recipe": v.recipe, "paper": v.paper} for v in variants}
    write_json(to / "results.json", {"variants": described, "results": results, "remarks": told})
    print(f"written: {to / 'results.md'}, {to / 'results.json'}")

"""Repeat a committed result in about ten minutes of two cores, and say whether the order of its variants holds here too.

    python benchmarks/results_quick.py --to quick        (`make results-quick`)

1. LibreOffice's text in German, French and Russian, from Debian's packages (a catalog that was fetched before: --source).
2. `ernie-m ablate transfer`: MMLM, + TLM, + CAMLM, one seed of each, 2 layers of 64, for 3,000 steps.
3. Their figures beside those in docs/results/quick: each within its tolerance, and the variants in the same order.

Another processor rounds otherwise, and another release of the packages has other sentences: the tolerances are for both. An
order is only asked for where variants differ by more than them. Exit code 1 where anything does not hold.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.table import table

COMMITTED = Path(__file__).resolve().parents[1] / "docs" / "results" / "quick"
LANGUAGES, SEED = "de,fr,ru", 0
OPTIONS = (
    *("--only", "mmlm,tlm,camlm", "--seeds", "1", "--jobs", "2", "--steps", "3000", "--vocab_size", "8000"),
    *("--pairs", "100", "output.keep_every=3000", "output.save_every=3000"),
    *("model.num_layers=2", "model.hidden_size=64", "model.num_heads=2", "model.ffn_size=256"),
)


class Expected(NamedTuple):
    """What must hold of a measure."""

    order: tuple[str, ...]
    """Variants from the lowest figure to the highest."""
    tolerance: float
    is_ratio: bool
    """Whether the tolerance is a factor less 1 (perplexities), or a difference."""

    def distance(self, found: float, committed: float) -> float:
        """How far apart two figures are, in the tolerance's unit."""
        return abs(math.exp(abs(math.log(found / committed))) - 1) if self.is_ratio else abs(found - committed)


EXPECTED = {
    "gain": Expected(("mmlm", "tlm", "camlm"), 0.03, is_ratio=False),
    "perplexity/CAMLM": Expected(("camlm", "tlm", "mmlm"), 0.12, is_ratio=True),
    "perplexity/TLM": Expected(("camlm", "mmlm"), 0.12, is_ratio=True),
}
Figures = Mapping[str, Mapping[str, float]]
"""Variant -> measure -> figure."""


def results_quick(*, to: str = "quick", source: str | None = None) -> None:
    """Fetch, train, compare.

    Args:
        to: folder for everything; the same one again goes on
        source: folder of a catalog that was fetched before, instead of fetching one
    """
    folder = Path(to).resolve()
    fetched = Path(source).resolve() if source else folder / "fetched"
    if source is None:
        _run("-m", "data_prep", "fetch", "--corpus", "libreoffice", "--lang", LANGUAGES, "--to", fetched)
    _run("-m", "ernie_m", "ablate", "transfer", "--source", fetched, "--to", folder / "runs", *OPTIONS)
    told, lines = verdict(figures(COMMITTED), figures(folder / "runs" / "cells"))
    print(f"\n{told}\n")
    if lines:
        raise InputError("; ".join(lines))
    print("the committed result holds here: every figure within its tolerance, the variants in the same order")


def figures(cells: Path) -> dict[str, dict[str, float]]:
    """The figures of a folder of finished cells. Raises InputError where one is missing."""
    found = {}
    for variant in EXPECTED["gain"].order:
        path = cells / f"{variant}_seed{SEED}.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a finished cell")
        found[variant] = dict(json.loads(path.read_text(encoding="utf-8"))["result"]["pairs"])
    return found


def verdict(committed: Figures, found: Figures) -> tuple[str, list[str]]:
    """The table of both, and a line for each thing that does not hold."""
    rows, lines = [], []
    for measure, expected in EXPECTED.items():
        for variant in expected.order:
            ours, theirs = found[variant][measure], committed[variant][measure]
            apart = expected.distance(ours, theirs)
            unit = " %" if expected.is_ratio else ""
            scale = 100 if expected.is_ratio else 1
            shown = [f"{scale * number:.3g}{unit}" for number in (apart, expected.tolerance)]
            rows.append([measure, variant, f"{theirs:.4g}", f"{ours:.4g}", *shown])
            if not apart <= expected.tolerance:
                lines.append(f"{measure} of {variant}: {ours:.4g}, committed {theirs:.4g}, more than {shown[1]} apart")
        for lower, higher in itertools.pairwise(expected.order):
            if not found[lower][measure] < found[higher][measure]:
                lines.append(f"{measure}: expected {lower} below {higher}, found the contrary")
    return table(["measure", "variant", "committed", "here", "apart", "tolerance"], rows), lines


def _run(*words: object) -> None:
    if code := subprocess.run([sys.executable, *map(str, words)], check=False).returncode:
        raise SystemExit(code)


if __name__ == "__main__":
    run_command(results_quick, "python benchmarks/results_quick.py")

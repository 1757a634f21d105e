"""Say whether a committed result holds on this machine too: each figure within its tolerance, variants in the same order.

    python benchmarks/results_hold.py --page docs/results/encoder_objectives.yaml --results compared/results.json

1. The page's YAML file names measures as `ernie-m ablate` does: figures, tolerance, and which variants differ for sure.
2. The results.json of the page's command, given here, has the same measures; of several seeds the mean counts.
3. Both side by side, and a line for each thing that does not hold: exit code 2 then.

Another processor rounds otherwise, and another release of the packages has other sentences: the tolerances are for both. An
order is only asked for where variants differ by more than them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.ablation.figures import NUMBERS, number_of
from ernie_m.base.command_line import run as run_command
from ernie_m.base.config import read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json
from ernie_m.base.table import table

KEYS = {"figures", "tolerance", "order"}


class Expected(NamedTuple):
    """What must hold of a measure."""

    figures: Mapping[str, float]
    """Variant -> the committed figure."""
    order: tuple[str, ...]
    """Variants from the lowest figure to the highest; neighbours differ by more than the tolerance."""
    tolerance: float
    is_ratio: bool
    """Whether the tolerance is a factor less 1 ("12 %"), or a difference."""

    def distance(self, found: float, committed: float) -> float:
        """How far apart two figures are, in the tolerance's unit."""
        if not self.is_ratio:
            return abs(found - committed)
        return max(found / committed, committed / found) - 1 if found > 0 else math.inf


Figures = Mapping[str, Mapping[str, float]]
"""Measure -> variant -> figure."""


def results_hold(*, page: str, results: str) -> None:
    """Compare.

    Args:
        page: YAML file beside a page of docs/results
        results: results.json that the page's command wrote here
    """
    expected = read_expected(Path(page))
    told, lines = verdict(expected, found_in(Path(results), expected))
    print(f"\n{told}\n")
    if lines:
        raise InputError("; ".join(lines))
    print("the committed result holds here: every figure within its tolerance, the variants in the same order")


def read_expected(path: Path) -> dict[str, Expected]:
    """Measure -> what must hold of it. Raises InputError where the file is not as it should be."""
    expected = {measure: _expected(f"{path}: {measure}", given) for measure, given in read_yaml(path).items()}
    if not expected:
        raise InputError(f"{path}: names no measure, so that nothing is compared; expected one or more")
    return expected


def _expected(where: str, given: Any) -> Expected:
    if not isinstance(given, dict) or not {"figures", "tolerance"} <= given.keys() <= KEYS:
        raise InputError(f"{where}: expected figures, a tolerance and, where variants differ by more, their order")
    wrong = InputError(f"{where}: expected figures of variants, a tolerance such as 0.03 or 12 %, and an order of these")
    number, unit, rest = str(given["tolerance"]).partition("%")
    try:
        figures = {str(variant): float(figure) for variant, figure in given["figures"].items()}
        order = tuple(map(str, given.get("order", ())))
        expected = Expected(figures, order, float(number) / (100 if unit else 1), bool(unit))
    except (AttributeError, TypeError, ValueError):
        raise wrong from None
    has_ratios = not unit or all(figure > 0 for figure in figures.values())
    if (
        rest
        or not figures
        or not has_ratios
        or not 0 < expected.tolerance < math.inf
        or not {*expected.order} <= figures.keys()
    ):
        raise wrong
    for pair in itertools.pairwise(expected.order):
        low, high = (expected.figures[variant] for variant in pair)
        if not low < high or expected.distance(low, high) <= expected.tolerance:
            raise InputError(f"{where}: {' and '.join(pair)} could change places: {low:g} and {high:g}")
    return expected


def found_in(path: Path, expected: Mapping[str, Expected]) -> dict[str, dict[str, float]]:
    """The figures of a results.json, means over seeds. Raises InputError where one is missing."""
    found: dict[str, dict[str, float]] = {}
    try:
        results = read_json(path)["results"] if path.is_file() else {}
        for measure, of in expected.items():
            for variant in of.figures:
                seeds = results.get(variant, [])
                if not seeds or not all(_has(result, measure) for result in seeds):
                    raise InputError(f"{path}: no {measure} of {variant} there; expected the results of the page's command")
                found.setdefault(measure, {})[variant] = statistics.fmean(number_of(result, measure) for result in seeds)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a results.json of `ernie-m ablate` ({told})") from None
    return found


def _has(result: Mapping[str, Any], measure: str) -> bool:
    if measure in NUMBERS:
        return bool(result[NUMBERS[measure][0]])
    return measure in result["fine_tuned"] or measure in result["pairs"]


def verdict(expected: Mapping[str, Expected], found: Figures) -> tuple[str, list[str]]:
    """The table of both, and a line for each thing that does not hold."""
    rows, lines = [], []
    for measure, of in expected.items():
        unit, scale = (" %", 100) if of.is_ratio else ("", 1)
        for variant, theirs in of.figures.items():
            ours = found[measure][variant]
            apart = of.distance(ours, theirs)
            shown = [f"{scale * number:.3g}{unit}" for number in (apart, of.tolerance)]
            rows.append([measure, variant, f"{theirs:.4g}", f"{ours:.4g}", *shown])
            if not apart <= of.tolerance:
                lines.append(f"{measure} of {variant}: {ours:.4g}, committed {theirs:.4g}, more than {shown[1]} apart")
        for lower, higher in itertools.pairwise(of.order):
            if not found[measure][lower] < found[measure][higher]:
                lines.append(f"{measure}: expected {lower} below {higher}, found the contrary")
    return table(["measure", "variant", "committed", "here", "apart", "tolerance"], rows), lines


if __name__ == "__main__":
    run_command(results_hold, "python benchmarks/results_hold.py")

"""Filters of the catalog: which lines a careful person leaves out (`filters: strict`, or a mapping of name -> limit).

1. `FILTERS` is the table: a filter has a name, the range of its one limit, the value that `strict` takes, and a function
   that marks faulty lines of a stretch (stretch.py). A new filter is a new entry.
2. `read_filters` reads what a catalog says.
3. `faults` is called by `clean`, for the lines of a stretch that are usable otherwise; each filter looks at what the ones
   before it have left. A line that is faulty by several counts under the first.

A stretch is some thousand lines of one chunk, cut by the text alone, so the bytes do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.filters import language, measures
from data_prep.filters.stretch import Stretch
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range

OFF, STRICT, PRESET = "none", "strict", "preset"
SHARE = Range(above=0, most=1)
Chosen = tuple[tuple[str, float], ...]
"""(name, limit) of the filters that a corpus asks for, in the table's order."""


@dataclass(frozen=True)
class Filter:
    """One kind of line that is left out."""

    reason: str
    """Under which the report counts; `{limit}` stands for the limit."""
    limit: Range | None
    """None: it has no limit, and is true or false."""
    strict: float
    is_faulty: Callable[[Stretch, np.ndarray, float], np.ndarray]
    """(lines, which of them are candidates, limit) -> bool [lines]; what it says of others does not count."""
    num_languages: tuple[int, ...] = (1, 2)


FILTERS: dict[str, Filter] = {
    "identical": Filter("both sides are the same text", None, 1, measures.identical, (2,)),
    "length_ratio": Filter("length ratio above {limit}", Range(least=1, most=100), 4, measures.length_ratio, (2,)),
    "copies": Filter("stands more than {limit} times in its document", Range(least=1, most=10**6), 1, measures.copies, (1,)),
    "script": Filter("less than {limit} of it in the language's script", SHARE, 0.5, measures.script),
    "markup": Filter("more than {limit} of it addresses or markup", SHARE, 0.2, measures.markup),
    "repeats": Filter("more than {limit} of it repeats itself", SHARE, 0.3, measures.repeats),
    language.NAME: Filter("less than {limit} of it in its language", SHARE, 0.5, language.foreign),
}


def read_filters(value: Any, num_languages: int, where: str) -> Chosen:
    """What a catalog's `filters` says, for a corpus of so many languages. Raises InputError for anything else."""
    if value in (None, OFF, STRICT):
        value = {PRESET: value or OFF}
    if not isinstance(value, dict):
        raise InputError(f"{where}: filters is {value!r}, expected {OFF}, {STRICT} or a mapping such as {{script: 0.5}}")
    preset = value.get(PRESET, OFF)
    if preset not in (OFF, STRICT):
        raise InputError(f"{where}: filters.{PRESET} is {preset!r}, expected {OFF} or {STRICT}")
    for name in value:
        if name not in (*FILTERS, PRESET):
            hint = nearest(str(name), FILTERS) or ","
            raise InputError(f"{where}: filters: unknown filter `{name}`{hint} expected only {PRESET}, {', '.join(FILTERS)}")
    limits = {name: one.strict for name, one in FILTERS.items() if preset == STRICT}
    limits |= {name: _limit(name, given, where) for name, given in value.items() if name != PRESET}
    chosen = ((name, limits.get(name, 0.0), one) for name, one in FILTERS.items())
    return tuple((name, limit) for name, limit, one in chosen if limit and num_languages in one.num_languages)


def _limit(name: str, given: Any, where: str) -> float:
    """The limit of one filter; 0 where it is switched off."""
    allowed = FILTERS[name].limit
    if given is False or (given is True and allowed is None):
        return float(given)
    if allowed is None or not allowed.holds(given):
        expected = "true" if allowed is None else allowed.expected(is_whole=False)
        raise InputError(f"{where}: filters.{name} is {given!r}, expected {expected}, or false")
    return float(given)


def require(chosen: Iterable[Chosen]) -> None:
    """Raise InputError where filters of these corpora need a package that is not installed."""
    if language.NAME in _names(chosen):
        language.engine()


def versions(chosen: Iterable[Chosen]) -> dict[str, str]:
    """Versions of the packages that the filters of these corpora need."""
    if language.NAME not in _names(chosen):
        return {}
    from importlib.metadata import version  # a parser of mail with it: every start of every rank would load it

    return {language.PACKAGE: version(language.PACKAGE)}


def _names(chosen: Iterable[Chosen]) -> set[str]:
    return {name for some in chosen for name, _ in some}


def faults(stretch: Stretch, chosen: Chosen) -> Iterator[tuple[str, np.ndarray]]:
    """(reason, bool [lines] of the lines that are left out for it) of each filter; no line is left out twice."""
    candidates = np.ones(stretch.num_lines, np.bool_)
    for name, limit in chosen:
        is_faulty = FILTERS[name].is_faulty(stretch, candidates, limit) & candidates
        candidates &= ~is_faulty
        yield FILTERS[name].reason.format(limit=f"{limit:g}"), is_faulty

"""Near duplicates (catalog: `deduplicate_near`): rows that share most of their runs of words, by MinHash.

1. A row is the set of its runs of `words` words, each as a 64-bit hash: letters and digits alone count, in lower case. In
   scripts without spaces a letter is a word; a shorter text is one run. A pair has the runs of both sides.
2. rensa makes `permutations` minima of them. Two rows have the same minimum in as many places, nearly, as is the share of
   their runs that they have in common (their Jaccard similarity).
3. The minima are cut into bands; the hash of a band is a key. Rows with a common key are compared, by a byte of each
   minimum (the row's sketch): deduplicate.py finds them as it finds exact copies, by more than one key a row.

A row without letters and digits has no runs, and is not compared.

    R rows   P permutations   B bands
"""

from __future__ import annotations

import importlib
import os
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np

from data_prep.exclusion.letters import Letters
from data_prep.filters.stretch import of_scripts
from ernie_m.base.config import Section, build, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range

KEY, PACKAGE = "deduplicate_near", "rensa"
SEED = 1
WITHOUT_SPACES = ("Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr")
ROWS_AT_ONCE = 256
"""Minima come as Python's numbers, 4 KB a row: as many as a processor keeps near."""
BAND_KEY = np.dtype([("high", "<u8"), ("row", "<i4")])
MIX = 0x9E3779B1  # odd: the upper bits of a product depend on all bits of the number


@section
class Near(Section):
    """Which rows of a corpus are near duplicates."""

    threshold: Annotated[float, Range(above=0, most=1)] = 0.8
    """Least share of the runs of two rows that both have (Jaccard similarity), as estimated."""
    words: Annotated[int, Range(least=1, most=100)] = 5
    """Of a run; letters in scripts without spaces."""
    permutations: Annotated[int, Range(least=8, most=1024)] = 112
    """Minima a row: the estimate is off by 0.04 with 112, by 0.02 with 448."""
    bands: Annotated[int, Range(least=1, most=1024)] = 14
    """Keys a row. Of rows that are alike by s, 1 - (1 - s ** (permutations / bands)) ** bands have a common one."""

    def check(self) -> None:
        """See the fields."""
        if self.permutations % self.bands:
            raise InputError(f"permutations: {self.permutations} is not a multiple of bands, {self.bands}")

    @property
    def bytes_per_row(self) -> int:
        """Of keys and sketch, on disk while rows are compared."""
        return self.permutations + self.bands * BAND_KEY.itemsize

    def are_alike(self, sketches_RP: np.ndarray, others_RP: np.ndarray) -> np.ndarray:
        """Whether each row is as like to its other one as the threshold says, bool [R]."""
        least_equal = self.permutations * (self.threshold + (1 - self.threshold) / 256)  # bytes meet by chance too
        return np.asarray((sketches_RP == others_RP).sum(axis=1) >= least_equal)


def read_near(value: Any, where: str) -> Near | None:
    """What a catalog's `deduplicate_near` says; None: nothing is compared. Raises InputError for anything else."""
    if value is None or isinstance(value, bool):
        return Near() if value else None
    if not isinstance(value, dict):
        raise InputError(f"{where}: {KEY} is {value!r}, expected true, false or a mapping such as {{threshold: 0.8}}")
    return build(Near, value, where, f"{KEY}.")


@lru_cache(maxsize=1)
def engine() -> Any:
    """rensa's R-MinHash. Raises InputError where it is not installed."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # else it takes all cores; a rank keeps to its own
    try:
        return importlib.import_module(PACKAGE).RMinHash
    except ImportError:
        advice = "pip install 'ernie-m[filters]', or leave it out of the catalog"
        raise InputError(f"`{KEY}` needs {PACKAGE}, which is not installed: {advice}") from None


def require(chosen: Iterable[Near | None]) -> None:
    """Raise InputError where one of these needs a package that is not installed."""
    if any(chosen):
        engine()


def versions(chosen: Iterable[Near | None]) -> dict[str, str]:
    """Versions of the packages that these need."""
    if not any(chosen):
        return {}
    from importlib.metadata import version  # a parser of mail with it: every start of every rank would load it

    return {PACKAGE: version(PACKAGE)}


class Signatures(NamedTuple):
    """Of some rows, as far as they have runs."""

    rows_R: np.ndarray
    """Which rows, int64."""
    keys_RB: np.ndarray
    """uint64."""
    sketches_RP: np.ndarray
    """uint8."""


def signatures(sides: Sequence[Sequence[str]], near: Near) -> Signatures:
    """The keys and sketches of some rows; `sides` holds the texts of each language."""
    runs, counts = _runs(sides, near.words)
    rows_R = np.flatnonzero(counts)
    borders = np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts[rows_R], dtype=np.uint64)])
    minima = [np.zeros((0, near.permutations), np.uint32)]
    for first in range(0, len(rows_R), ROWS_AT_ONCE):
        some = borders[first : first + ROWS_AT_ONCE + 1]
        found = engine().digest_matrix_from_flat_token_hashes(
            runs[int(some[0]) : int(some[-1])], some - some[0], near.permutations, SEED
        )
        minima.append(_array(found.to_rows()).reshape(-1, near.permutations))
    minima_RP = np.concatenate(minima)
    sketches_RP = (minima_RP * np.uint32(MIX) >> np.uint32(24)).astype(np.uint8)
    return Signatures(rows_R, _band_keys(minima_RP, near.bands), sketches_RP)


def _array(rows: Iterable[list[int]]) -> np.ndarray:
    """All the numbers, uint32; a third of the time that numpy takes, which asks each number what it is."""
    found = array("I")
    assert found.itemsize == 4
    for row in rows:
        found.fromlist(row)
    return np.frombuffer(found, np.uint32)


def _band_keys(minima_RP: np.ndarray, bands: int) -> np.ndarray:
    """A 64-bit hash of each band, uint64 [R, B]; equal bands at other places differ."""
    parts = minima_RP.reshape(len(minima_RP), bands, minima_RP.shape[1] // bands).astype(np.uint64)
    keys_RB = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2])
    for place in range(parts.shape[2]):
        keys_RB = (keys_RB ^ parts[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        keys_RB ^= keys_RB >> np.uint64(32)
    return keys_RB


def _runs(sides: Sequence[Sequence[str]], words: int) -> tuple[np.ndarray, np.ndarray]:
    """(a hash of each run of words, row by row, uint64; how many each row has, int64 [R])."""
    num_rows = len(sides[0])
    found = [_runs_of_texts(texts, words) for texts in sides]
    rows = np.concatenate([np.repeat(np.arange(num_rows), counts) for _, counts in found])
    salted = [hashes * np.uint64(2 * side + 1) for side, (hashes, _) in enumerate(found)]  # not the same on both sides
    counts = np.sum([counts for _, counts in found], axis=0)
    return np.concatenate(salted)[np.argsort(rows, kind="stable")], counts


def _runs_of_texts(texts: Sequence[str], words: int) -> tuple[np.ndarray, np.ndarray]:
    letters = Letters(texts)
    starts = letters.words(_stands_alone())
    stops = np.append(starts[1:], len(letters.codes_C))  # letters alone are left: a word ends where the next one begins
    words_T = np.diff(np.searchsorted(starts, letters.borders))
    runs_T = np.minimum(words_T, np.maximum(1, words_T - words + 1))
    firsts = np.repeat(np.cumsum(words_T) - words_T, runs_T)
    firsts += np.arange(len(firsts)) - np.repeat(np.cumsum(runs_T) - runs_T, runs_T)
    lasts = firsts + np.repeat(np.minimum(words_T, words), runs_T) - 1
    return letters.between(starts[firsts], stops[lasts]), runs_T


@lru_cache(maxsize=1)
def _stands_alone() -> np.ndarray:
    """Whether each code point is a word by itself, bool [0x110000]."""
    return of_scripts(frozenset(WITHOUT_SPACES)).astype(np.bool_)


def sorted_band_keys(rows_R: np.ndarray, keys_RB: np.ndarray) -> np.ndarray:
    """BAND_KEY [R * B], in the order of the keys, and of the rows where these are the same."""
    found = np.zeros(keys_RB.size, BAND_KEY)
    order = np.argsort(keys_RB, axis=None, kind="stable")
    found["high"] = keys_RB.ravel()[order]
    order //= keys_RB.shape[1]
    found["row"] = rows_R[order]
    return found

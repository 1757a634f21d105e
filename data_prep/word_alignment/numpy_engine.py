"""The aligner's inner loops in numpy. `numba_engine` has the same, compiled.

Both make their sums in the same order, so to the same bits: links do not depend on what is installed.
"""

from __future__ import annotations

import numpy as np

from data_prep.word_alignment.cells import Occurrences, SortedPairs, Types, occurrences
from ernie_m.base.arrays import ranges


def index_cells(pairs: SortedPairs, vocab_size: int) -> tuple[Types, np.ndarray]:
    """The types of the pairs, and the number of each cell's type, int32 [cells]."""
    found, cells = occurrences(pairs), np.empty(pairs.num_cells, np.int32)
    counts, targets, total = np.zeros(vocab_size, np.int64), [np.zeros(0, np.int32)], 0
    for number, source in enumerate(found.ids.tolist()):
        ids, places = _row_of(pairs, found, number)
        distinct, inverse = np.unique(ids, return_inverse=True)
        cells[places] = total + inverse
        targets.append(distinct)
        counts[source] = len(distinct)
        total += len(distinct)
    return Types(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(targets)), cells


def look_up(
    pairs: SortedPairs, types: Types, forward: np.ndarray, backward: np.ndarray, floors: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each cell its type's entries in the two tables, or for an unknown type floors[0][source] and floors[1][target]."""
    found, place_of = occurrences(pairs), np.full(len(types.starts) - 1, -1, np.int64)
    values = np.empty(pairs.num_cells), np.empty(pairs.num_cells)
    for number, source in enumerate(found.ids.tolist()):
        ids, places = _row_of(pairs, found, number)
        first, last = types.starts[source : source + 2]
        place_of[types.targets[first:last]] = np.arange(first, last)
        where = place_of[ids]
        values[0][places] = np.where(where >= 0, forward[where], floors[0][source])
        values[1][places] = np.where(where >= 0, backward[where], floors[1][ids])
        place_of[types.targets[first:last]] = -1
    return values


def _row_of(pairs: SortedPairs, found: Occurrences, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Target ids beside all occurrences of a source id, and the cells where they meet."""
    run = slice(*found.starts[number : number + 2])
    starts, lengths = pairs.target.offsets[:-1][found.pair[run]], np.diff(pairs.target.offsets)[found.pair[run]]
    return pairs.target.values[ranges(starts, lengths)], ranges(found.first_cell[run], lengths)


def expect(
    cells_PNM: np.ndarray,
    targets_PM: np.ndarray,
    table: np.ndarray,
    null: np.ndarray,
    prior_NM: np.ndarray,
    null_prior: float,
    counts: np.ndarray,
    null_counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Add the expected counts of some pairs of the same lengths to `counts` and `null_counts`.

    Returns the posterior of each place, summed over the pairs [N, M], and the probability of each target token [P, M].
    """
    posterior_PNM = prior_NM * table[cells_PNM]
    nulls_PM = null_prior * null[targets_PM]
    probability_PM = nulls_PM.copy()
    for i in range(posterior_PNM.shape[1]):
        probability_PM += posterior_PNM[:, i]
    posterior_PNM /= probability_PM[:, None]
    np.add.at(counts, cells_PNM.ravel(), posterior_PNM.ravel())
    np.add.at(null_counts, targets_PM.ravel(), (nulls_PM / probability_PM).ravel())
    if prior_NM.size == 1:  # else numpy would sum in another order
        return np.cumsum(posterior_PNM)[-1:].reshape(1, 1), probability_PM
    return posterior_PNM.sum(axis=0), probability_PM

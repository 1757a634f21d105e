"""The aligner's inner loops in numpy. `numba_engine` has the same, compiled.

Both make their sums in the same order, so to the same bits: links do not depend on what is installed.
"""

from __future__ import annotations

import numpy as np

from data_prep.word_alignment.cells import CellsOf, Group, Occurrences, SortedPairs, Types, occurrences
from ernie_m.base.arrays import ranges


def types_of(pairs: SortedPairs, vocab_size: int) -> Types:
    """The types of the pairs."""
    found, counts, targets = occurrences(pairs), np.zeros(vocab_size, np.int64), [np.zeros(0, np.int32)]
    for number, source in enumerate(found.ids.tolist()):
        targets.append(np.unique(_beside(pairs, found, number)[0]))
        counts[source] = len(targets[-1])
    return Types(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(targets))


def cells_of(pairs: SortedPairs, types: Types) -> CellsOf:
    """The cells' types, group by group; here all are found at once and kept, 4 bytes a cell."""
    found, place_of = occurrences(pairs), np.full(len(types.starts) - 1, -1, np.int32)
    kept, widths = np.empty(pairs.num_cells, np.int32), np.diff(pairs.target.offsets)
    for number, source in enumerate(found.ids.tolist()):
        ids, run = _beside(pairs, found, number)
        first, last = types.starts[source : source + 2]
        place_of[types.targets[first:last]] = np.arange(first, last)
        pair = found.pair[run]
        first_cells = pairs.offsets[pair] + (found.place[run] - pairs.source.offsets[pair]) * widths[pair]
        kept[ranges(first_cells, widths[pair])] = place_of[ids]
        place_of[types.targets[first:last]] = -1

    def of_group(group: Group) -> np.ndarray:
        return kept[pairs.offsets[group.first] : pairs.offsets[group.last]].reshape(-1, group.n, group.m)

    return of_group


def _beside(pairs: SortedPairs, found: Occurrences, number: int) -> tuple[np.ndarray, slice]:
    """Target ids beside all occurrences of a source id, and where these are in `found`."""
    run = slice(*found.starts[number : number + 2])
    starts, lengths = pairs.target.offsets[:-1][found.pair[run]], np.diff(pairs.target.offsets)[found.pair[run]]
    return pairs.target.values[ranges(starts, lengths)], run


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

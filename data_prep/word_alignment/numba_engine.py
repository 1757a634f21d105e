"""The aligner's inner loops compiled by numba; `numpy_engine` says what each does, and gives the same bits."""

from __future__ import annotations

import numpy as np
from numba import njit

from data_prep.word_alignment.cells import CellsOf, SortedPairs, Types, occurrences
from data_prep.word_alignment.symmetrization import grow_pairs as _grow_pairs

Array = np.ndarray


def types_of(pairs: SortedPairs, vocab_size: int) -> Types:
    """As in numpy_engine."""
    found, text, counts = occurrences(pairs), (pairs.target.values, pairs.target.offsets), np.zeros(vocab_size, np.int64)
    counts[found.ids] = _count_types(found.starts, found.pair, *text, vocab_size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    targets = np.empty(starts[-1], np.int32)
    _fill_types(found.starts, found.pair, *text, starts[found.ids], targets, vocab_size)
    return Types(starts, targets)


@njit(cache=True)
def _count_types(run_starts: Array, pair: Array, values: Array, offsets: Array, vocab_size: int) -> Array:
    counts, seen = np.zeros(len(run_starts) - 1, np.int64), np.full(vocab_size, -1, np.int32)
    for run in range(len(run_starts) - 1):
        for k in range(run_starts[run], run_starts[run + 1]):
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                if seen[values[j]] != run:
                    seen[values[j]] = run
                    counts[run] += 1
    return counts


@njit(cache=True)
def _fill_types(
    run_starts: Array, pair: Array, values: Array, offsets: Array, begins: Array, targets: Array, vocab_size: int
) -> None:
    seen = np.full(vocab_size, -1, np.int32)
    for run in range(len(run_starts) - 1):
        place = begins[run]
        for k in range(run_starts[run], run_starts[run + 1]):
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                if seen[values[j]] != run:
                    seen[values[j]] = run
                    targets[place] = values[j]
                    place += 1
        targets[begins[run] : place] = np.sort(targets[begins[run] : place])


def cells_of(pairs: SortedPairs, types: Types) -> CellsOf:
    """As in numpy_engine; here each group's are searched when they are asked for, so that no memory grows with the cells."""
    return lambda group: _search(pairs.sources(group), pairs.targets(group), types.starts, types.targets)


@njit(cache=True)
def _search(sources_PN: Array, targets_PM: Array, type_starts: Array, type_targets: Array) -> Array:
    cells_PNM = np.empty((*sources_PN.shape, targets_PM.shape[1]), np.int32)
    for pair in range(len(sources_PN)):
        for i in range(sources_PN.shape[1]):
            start, end = type_starts[sources_PN[pair, i]], type_starts[sources_PN[pair, i] + 1]
            for j in range(targets_PM.shape[1]):
                target, first, left = targets_PM[pair, j], start, end - start
                while left > 0:  # the first type from `start` on that is not below `target`
                    half = left >> 1
                    is_below = type_targets[first + half] < target
                    first += (half + 1) * is_below
                    left = left - half - 1 if is_below else half
                is_there = first < end and type_targets[first] == target
                cells_PNM[pair, i, j] = first if is_there else -1
    return cells_PNM


@njit(cache=True)
def expect(
    cells_PNM: Array,
    targets_PM: Array,
    table: Array,
    null: Array,
    prior_NM: Array,
    null_prior: float,
    counts: Array,
    null_counts: Array,
) -> tuple[Array, Array]:
    """As in numpy_engine."""
    num_pairs, n, m = cells_PNM.shape
    posterior_NM, probability_PM = np.zeros((n, m)), np.empty((num_pairs, m))
    scores_NM = np.empty((n, m))
    for pair in range(num_pairs):
        for j in range(m):
            probability_PM[pair, j] = null_prior * null[targets_PM[pair, j]]
        for i in range(n):
            for j in range(m):
                scores_NM[i, j] = prior_NM[i, j] * table[cells_PNM[pair, i, j]]
                probability_PM[pair, j] += scores_NM[i, j]
        for i in range(n):
            for j in range(m):
                posterior = scores_NM[i, j] / probability_PM[pair, j]
                counts[cells_PNM[pair, i, j]] += posterior
                posterior_NM[i, j] += posterior
        for j in range(m):
            null_counts[targets_PM[pair, j]] += null_prior * null[targets_PM[pair, j]] / probability_PM[pair, j]
    return posterior_NM, probability_PM


grow_pairs = njit(cache=True)(_grow_pairs)

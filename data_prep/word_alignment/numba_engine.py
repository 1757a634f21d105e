"""The aligner's inner loops compiled by numba; `numpy_engine` says what each does, and gives the same bits."""

from __future__ import annotations

import numpy as np
from numba import njit

from data_prep.word_alignment.cells import SortedPairs, Types, occurrences
from data_prep.word_alignment.symmetrization import grow_pairs as _grow_pairs

Array = np.ndarray


def index_cells(pairs: SortedPairs, vocab_size: int) -> tuple[Types, np.ndarray]:
    """As in numpy_engine."""
    found, offsets, values = occurrences(pairs), pairs.target.offsets, pairs.target.values
    counts = np.zeros(vocab_size, np.int64)
    counts[found.ids] = _count_types(found.starts, found.pair, values, offsets, vocab_size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    targets, cells = np.empty(starts[-1], np.int32), np.empty(pairs.num_cells, np.int32)
    places = found.starts, found.pair, found.first_cell
    _fill_types(*places, values, offsets, starts[found.ids], starts[found.ids + 1], targets, cells, vocab_size)
    return Types(starts, targets), cells


@njit(cache=True)
def _count_types(run_starts: Array, pair: Array, values: Array, offsets: Array, vocab_size: int) -> Array:
    counts, seen = np.zeros(len(run_starts) - 1, np.int64), np.full(vocab_size, -1, np.int64)
    for run in range(len(run_starts) - 1):
        for k in range(run_starts[run], run_starts[run + 1]):
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                if seen[values[j]] != run:
                    seen[values[j]] = run
                    counts[run] += 1
    return counts


@njit(cache=True)
def _fill_types(
    run_starts: Array,
    pair: Array,
    first_cell: Array,
    values: Array,
    offsets: Array,
    begins: Array,
    ends: Array,
    targets: Array,
    cells: Array,
    vocab_size: int,
) -> None:
    seen, number = np.full(vocab_size, -1, np.int64), np.zeros(vocab_size, np.int32)
    for run in range(len(run_starts) - 1):
        place = begins[run]
        for k in range(run_starts[run], run_starts[run + 1]):
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                if seen[values[j]] != run:
                    seen[values[j]] = run
                    targets[place] = values[j]
                    place += 1
        targets[begins[run] : ends[run]] = np.sort(targets[begins[run] : ends[run]])
        for place in range(begins[run], ends[run]):
            number[targets[place]] = place
        for k in range(run_starts[run], run_starts[run + 1]):
            first = first_cell[k] - offsets[pair[k]]
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                cells[first + j] = number[values[j]]


def look_up(
    pairs: SortedPairs, types: Types, forward: np.ndarray, backward: np.ndarray, floors: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """As in numpy_engine."""
    found, values = occurrences(pairs), (np.empty(pairs.num_cells), np.empty(pairs.num_cells))
    _look_up(*found, pairs.target.values, pairs.target.offsets, *types, forward, backward, *floors, *values)
    return values


@njit(cache=True)
def _look_up(
    ids: Array,
    run_starts: Array,
    pair: Array,
    first_cell: Array,
    values: Array,
    offsets: Array,
    type_starts: Array,
    targets: Array,
    forward: Array,
    backward: Array,
    floor: Array,
    floor_back: Array,
    out: Array,
    out_back: Array,
) -> None:
    place_of = np.full(len(type_starts) - 1, -1, np.int64)
    for run in range(len(ids)):
        first_type, last_type = type_starts[ids[run]], type_starts[ids[run] + 1]
        for place in range(first_type, last_type):
            place_of[targets[place]] = place
        for k in range(run_starts[run], run_starts[run + 1]):
            first = first_cell[k] - offsets[pair[k]]
            for j in range(offsets[pair[k]], offsets[pair[k] + 1]):
                place = place_of[values[j]]
                out[first + j] = forward[place] if place >= 0 else floor[ids[run]]
                out_back[first + j] = backward[place] if place >= 0 else floor_back[values[j]]
        for place in range(first_type, last_type):
            place_of[targets[place]] = -1


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

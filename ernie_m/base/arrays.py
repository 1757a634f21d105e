"""Small helpers on arrays of integers."""

from __future__ import annotations

import numpy as np


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, range after range: start, start + 1, ... of each. int64 [lengths.sum()]."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def rows_in_order(values: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Ragged rows, flat in `values`, row after row with these `lengths`: the same rows in another order, flat again."""
    starts = np.cumsum(lengths) - lengths
    return values[ranges(starts[order], lengths[order])]

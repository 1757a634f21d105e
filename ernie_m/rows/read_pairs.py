"""How many (query, key) pairs the attention of a batch reads. Its FLOPs are counted from this.

A row of S positions has S x S pairs, but a document reads only itself, and not every group reads every other one.
The count uses cumulative sums of each group along the rows, not the dense mask. It needs only numpy.
"""

from __future__ import annotations

import numpy as np

from ernie_m.rows.batch import PAD_DOCUMENT, PackedBatch


def pairs_read(batch: PackedBatch[np.ndarray]) -> int:
    """Number of pairs that the attention rule allows, over all queries that are real tokens.

    A document may lie in several places of its row, as in rows of two halves: positions are first ordered by document.
    """
    num_rows, length = batch.document_BS.shape
    order_BS = np.argsort(np.where(batch.document_BS == PAD_DOCUMENT, length, batch.document_BS), axis=1, kind="stable")
    document_BS, group_BS, reads_BS, horizon_BS = (
        np.take_along_axis(array, order_BS, 1)
        for array in (batch.document_BS, batch.group_BS, batch.reads_BS, batch.horizon_BS)
    )
    place_BS = np.argsort(order_BS, axis=1)  # a horizon is a position of the own document
    moved_BS = np.take_along_axis(place_BS, np.minimum(horizon_BS, length - 1), 1)
    horizon_BS = np.where(horizon_BS < length, moved_BS, length)
    positions = np.arange(length)
    starts_BS, ends_BS = _spans(document_BS)
    ends_BS = np.minimum(ends_BS, horizon_BS + 1)
    found_BS = np.zeros((num_rows, length), np.int64)
    for group in range(int(group_BS.max(initial=0)) + 1):
        before = np.zeros((num_rows, length + 1), np.int64)
        np.cumsum(group_BS == group, axis=1, out=before[:, 1:])
        counted = np.take_along_axis(before, np.maximum(ends_BS, starts_BS), 1) - np.take_along_axis(before, starts_BS, 1)
        found_BS += counted * ((reads_BS >> group) & 1)
    reads_itself = ((reads_BS >> group_BS) & 1).astype(bool) & (positions < ends_BS)
    found_BS += ~reads_itself  # every token reads itself
    return int(found_BS[document_BS != PAD_DOCUMENT].sum())


def _spans(document_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[start, end) of the document of each position, int64 [B, S]."""
    num_rows, length = document_BS.shape
    is_first = np.ones((num_rows, length), bool)
    is_first[:, 1:] = document_BS[:, 1:] != document_BS[:, :-1]
    flat = np.flatnonzero(is_first)
    sizes = np.diff(flat, append=num_rows * length)
    starts_BS = np.repeat(flat % length, sizes).reshape(num_rows, length)
    return starts_BS, starts_BS + np.repeat(sizes, sizes).reshape(num_rows, length)

"""Documents side by side in rows of fixed length.

1. `place`: which document goes to which row, best fit decreasing, from lengths alone.
2. `pack`: rows of documents -> one PackedBatch; the row's integers are the documents' with a number each.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from ernie_m.base.special_tokens import NO_LANGUAGE, PAD_ID
from ernie_m.rows.batch import NO_HORIZON, PAD_DOCUMENT, Document, Documents, Generation, PackedBatch

NO_ROW = -1


def place(lengths: np.ndarray, capacity: int, num_rows: int) -> np.ndarray:
    """Put items of these lengths into `num_rows` rows of `capacity`: longest first, each where it fits tightest.

    Returns the row of each item, int64, and NO_ROW for those that found no room. Of equally tight rows the first is taken.
    A row stays the tightest until it is too full for the length at hand: items of one length are placed together.
    """
    room = [(capacity, row) for row in range(num_rows)]  # sorted: the tightest fit is the first that is large enough
    longest_first = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    rows, shares = [], []
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        found = bisect.bisect_left(room, (size, -1))
        while count and found < num_rows:
            free, row = room.pop(found)
            share = min(count, free // size)
            bisect.insort(room, (free - share * size, row))
            rows.append(row)
            shares.append(share)
            count -= share
            found += 1
        rows.append(NO_ROW)
        shares.append(count)
    placed = np.empty(len(lengths), np.int64)
    placed[longest_first] = np.repeat(np.array(rows, np.int64), shares)
    return placed


class PackedRow:
    """One row: its documents, and the objective and metric that their predictions count for."""

    def __init__(self, documents: Documents | Sequence[Document], objective: int, metric: int) -> None:
        self.documents = documents if isinstance(documents, Documents) else Documents.of(documents)
        self.objective, self.metric = objective, metric

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return len(self.documents.joined)


def pack(rows: Sequence[PackedRow], sequence_length: int, generates: bool = False) -> PackedBatch:
    """Lay rows of documents out as one micro-batch of numpy arrays.

    `generates` says that some rank's micro-batch of this moment holds placeholders: then this one carries a Generation
    in any case, on its first row if it has none itself, since under ZeRO-3 all ranks must do the same forwards.
    """
    shape = (len(rows), sequence_length)
    columns = {
        "input_ids": np.full(shape, PAD_ID, np.int32),
        "position_ids": np.full(shape, PAD_ID, np.int32),
        "language": np.full(shape, NO_LANGUAGE, np.int32),
        "group": np.zeros(shape, np.int32),
        "reads": np.zeros(shape, np.int32),
        "horizon": np.full(shape, NO_HORIZON, np.int32),
    }
    document = np.full(shape, PAD_DOCUMENT, np.int32)
    generation_ids, generation_reads = columns["input_ids"].copy(), columns["reads"].copy()
    predicted, labels, placeholders, objective, metric = [], [], [], [], []
    for index, row in enumerate(rows):
        content, span = row.documents.joined, slice(0, row.num_tokens)
        for name, array in columns.items():
            array[index, span] = getattr(content, name)
        document[index, span] = np.repeat(np.arange(len(row.documents), dtype=np.int32), row.documents.lengths_E)
        if generates:
            generation_ids[index, span], generation_reads[index, span] = content.generation_ids, content.generation_reads
        predicted.append(index * sequence_length + content.predicted)
        placeholders.append(index * sequence_length + content.placeholders)
        labels.append(content.labels)
        objective.append(np.full(len(content.predicted), row.objective, np.int32))
        metric.append(np.full(len(content.predicted), row.metric, np.int32))
    return PackedBatch(
        **{f"{name}_BS": array for name, array in columns.items()},
        document_BS=document,
        predicted_N=_joined(predicted),
        labels_N=_joined(labels),
        objective_N=_joined(objective),
        metric_N=_joined(metric),
        generation=_generation(_joined(placeholders), generation_ids, generation_reads) if generates else None,
    )


def _generation(slots: np.ndarray, ids_BS: np.ndarray, reads_BS: np.ndarray) -> Generation:
    sequence_length = ids_BS.shape[1]
    rows = np.unique(slots // sequence_length) if len(slots) else np.zeros(1, np.int32)
    within = np.searchsorted(rows, slots // sequence_length) * sequence_length + slots % sequence_length
    return Generation(rows.astype(np.int32), ids_BS[rows], reads_BS[rows], within.astype(np.int32), slots)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype(np.int32) if arrays else np.zeros(0, np.int32)

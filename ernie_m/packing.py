"""Documents side by side in rows of fixed length.

1. `place`: which document goes to which row, best fit decreasing, from lengths alone.
2. `pack`: rows of documents -> one PackedBatch; the row's integers are the documents' with a number each.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from ernie_m.batch import NO_HORIZON, PAD_DOCUMENT, Document, Generation, PackedBatch
from ernie_m.special_tokens import NO_LANGUAGE, PAD_ID


def place(lengths: Sequence[int], capacity: int, num_rows: int) -> tuple[list[list[int]], list[int]]:
    """Put items of these lengths into `num_rows` rows of `capacity`: longest first, each where it fits tightest.

    Returns the items of each row (in their given order) and the items that found no room, longest first.
    """
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [(capacity, row) for row in range(num_rows)]  # sorted: the tightest fit is the first that is large enough
    left_over = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = bisect.bisect_left(room, (lengths[item], -1))
        if found == len(room):
            left_over.append(item)
            continue
        free, row = room.pop(found)
        bisect.insort(room, (free - lengths[item], row))
        rows[row].append(item)
    return [sorted(row) for row in rows], left_over


class PackedRow:
    """One row: its documents and, for each, the objective and metric its predictions count for."""

    def __init__(self, documents: Sequence[Document], objective: int, metric: int) -> None:
        self.documents, self.objective, self.metric = list(documents), objective, metric

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return sum(map(len, self.documents))


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
        start = 0
        for number, item in enumerate(row.documents):
            span = slice(start, start + len(item))
            for name, array in columns.items():
                array[index, span] = getattr(item, name)
            columns["horizon"][index, span] = np.minimum(item.horizon, NO_HORIZON - start) + start
            document[index, span] = number
            generation_ids[index, span], generation_reads[index, span] = item.generation_ids, item.generation_reads
            flat_start = index * sequence_length + start
            predicted.append(flat_start + item.predicted)
            labels.append(item.labels)
            placeholders.append(flat_start + item.placeholders)
            start += len(item)
        num_predicted = sum(len(item.predicted) for item in row.documents)
        objective.append(np.full(num_predicted, row.objective, np.int32))
        metric.append(np.full(num_predicted, row.metric, np.int32))
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

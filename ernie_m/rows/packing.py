"""Documents side by side in rows of fixed length.

1. `place`: which document goes to which row, by best fit decreasing, from their lengths.
2. `pack`: rows of documents -> one PackedBatch. Each document of a row gets a number.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ernie_m.base.arrays import rows_in_order
from ernie_m.base.special_tokens import NO_LANGUAGE, XLM_R_VOCAB_SIZE, Specials
from ernie_m.rows.back_translation import Text, back_translation, texts_of
from ernie_m.rows.batch import (
    NO_HORIZON,
    PAD_DOCUMENT,
    Document,
    Documents,
    Generation,
    PackedBatch,
    Sources,
)
from ernie_m.rows.halves import in_halves, least_length
from ernie_m.rows.objective import HEADS
from ernie_m.rows.objectives import LOSS_INDEX, OBJECTIVES, PREDICTIONS

NO_ROW = -1
XLM_R = Specials.xlm_r(XLM_R_VOCAB_SIZE)
FIRST_LOSS = np.array([LOSS_INDEX[objective.predictions[0].loss] for objective in OBJECTIVES.values()], np.int32)
"""Number of the loss of each objective's first prediction; the losses of its other predictions follow."""
HAS_HALVES = [objective.halves for objective in OBJECTIVES.values()]
HEAD_OF_LOSS = np.array([HEADS.index(prediction.head) for prediction in PREDICTIONS.values()])


def place(lengths: np.ndarray, capacity: int, num_rows: int) -> np.ndarray:
    """Put items of these lengths into `num_rows` rows of `capacity`: longest first, each into the row where it fits best.

    Returns the row of each item, int64, or NO_ROW if there was no room. Of equally good rows the first is taken.
    A row stays the best fit for items of one length until it is too full, so items of one length are placed together.
    """
    room = [(capacity, row) for row in range(num_rows)]  # sorted: the best fit is the first that is large enough
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
    """One row: its documents, the number of their objective, and the metric of the objective's first prediction.

    The metrics of its other predictions follow that one.
    """

    def __init__(self, documents: Documents | Sequence[Document], objective: int, metric: int) -> None:
        self.documents = documents if isinstance(documents, Documents) else Documents.of(documents)
        self.objective, self.metric = objective, metric

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return len(self.documents.joined)

    @property
    def least_length(self) -> int:
        """Positions of the shortest row that holds these documents."""
        joined = self.documents.joined
        return least_length(joined) if HAS_HALVES[self.objective] else len(joined)

    def placed(self, sequence_length: int) -> tuple[np.ndarray | slice, Document]:
        """Where the tokens stand in the row, and its documents as one, with positions numbered by that."""
        joined = self.documents.joined
        return in_halves(joined, sequence_length) if HAS_HALVES[self.objective] else (slice(0, len(joined)), joined)


def pack(
    rows: Sequence[PackedRow], sequence_length: int, generates: bool = False, specials: Specials = XLM_R
) -> PackedBatch[np.ndarray]:
    """Lay out rows of documents as one micro-batch of numpy arrays. `specials`: special tokens of the vocabulary.

    `generates`: the model writes into some rank's micro-batch at this point of the step. Then this one carries a Generation
    too, of its first row if it has no placeholders; or in rows of halves a BackTranslation, of an empty text if it has none:
    under ZeRO-3 all ranks must do the same forwards.
    """
    shape = (len(rows), sequence_length)
    columns = {
        "input_ids": np.full(shape, specials.pad, np.int32),
        "position_ids": np.full(shape, max(0, specials.first_position - 1), np.int32),
        "language": np.full(shape, NO_LANGUAGE, np.int32),
        "group": np.zeros(shape, np.int32),
        "reads": np.zeros(shape, np.int32),
        "horizon": np.full(shape, NO_HORIZON, np.int32),
    }
    document = np.full(shape, PAD_DOCUMENT, np.int32)
    generation_ids, generation_reads = columns["input_ids"].copy(), columns["reads"].copy()
    predicted, labels, placeholders, loss, metric, num_sources, sources = [], [], [], [], [], [], []
    texts: list[Text] = []
    for index, row in enumerate(rows):
        places, content = row.placed(sequence_length)
        for name, array in columns.items():
            array[index, places] = getattr(content, name)
        document[index, places] = np.repeat(np.arange(len(row.documents), dtype=np.int32), row.documents.lengths_E)
        if generates:
            generation_ids[index, places], generation_reads[index, places] = content.generation_ids, content.generation_reads
        predicted.append(index * sequence_length + content.predicted)
        placeholders.append(index * sequence_length + content.placeholders)
        labels.append(content.labels)
        loss.append(FIRST_LOSS[row.objective] + content.prediction)
        metric.append(row.metric + content.prediction)
        num_sources.append(content.num_sources)
        sources.append(index * sequence_length + content.sources)
        if generates and HAS_HALVES[row.objective]:
            texts += texts_of(row.documents, placeholders[-1])
    loss_N, num_sources_N = _joined(loss), _joined(num_sources)
    by_head, sizes = in_order_of_heads(loss_N)
    sources_P = rows_in_order(_joined(sources), num_sources_N, by_head)
    has_halves = any(HAS_HALVES[row.objective] for row in rows)
    of_placeholders = _joined(placeholders), generation_ids, generation_reads
    return PackedBatch(
        **{f"{name}_BS": array for name, array in columns.items()},
        document_BS=document,
        predicted_N=_joined(predicted)[by_head],
        labels_N=_joined(labels)[by_head],
        loss_N=loss_N[by_head],
        metric_N=_joined(metric)[by_head],
        head_sizes=sizes,
        sources=sources_of(sources_P, num_sources_N[by_head], loss_N[by_head]),
        generation=_generation(*of_placeholders) if generates and not has_halves else None,
        back_translation=back_translation(texts, specials) if generates and has_halves else None,
    )


def in_order_of_heads(loss_N: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The order that groups predictions by head, given the loss of each; and how many each head has."""
    head_N = HEAD_OF_LOSS[loss_N]
    counts = np.bincount(head_N, minlength=len(HEADS)).tolist()
    return np.argsort(head_N, kind="stable"), {head: count for head, count in zip(HEADS, counts, strict=True) if count}


def sources_of(positions_P: np.ndarray, counts_N: np.ndarray, loss_N: np.ndarray) -> Sources[np.ndarray] | None:
    """Sources of predictions that are grouped by head, given the loss of each; None if there are none."""
    if not len(positions_P):
        return None
    sizes = np.bincount(HEAD_OF_LOSS[loss_N], counts_N, len(HEADS)).astype(int).tolist()
    return Sources(positions_P, counts_N, {head: size for head, size in zip(HEADS, sizes, strict=True) if size})


def with_predictions(batch: PackedBatch[np.ndarray], chosen_N: np.ndarray) -> PackedBatch[np.ndarray]:
    """The batch with only these of its predictions (ascending indices into N)."""
    kept = {f"{name}_N": getattr(batch, f"{name}_N")[chosen_N] for name in ("predicted", "labels", "loss", "metric")}
    sources = batch.sources
    if sources is not None:
        positions_P = rows_in_order(sources.positions_P, sources.counts_N, chosen_N)
        sources = sources_of(positions_P, sources.counts_N[chosen_N], kept["loss_N"])
    return replace(batch, **kept, head_sizes=in_order_of_heads(kept["loss_N"])[1], sources=sources)


def _generation(slots: np.ndarray, ids_BS: np.ndarray, reads_BS: np.ndarray) -> Generation[np.ndarray]:
    sequence_length = ids_BS.shape[1]
    rows = np.unique(slots // sequence_length) if len(slots) else np.zeros(1, np.int32)
    within = np.searchsorted(rows, slots // sequence_length) * sequence_length + slots % sequence_length
    return Generation(rows.astype(np.int32), ids_BS[rows], reads_BS[rows], within.astype(np.int32), slots)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype(np.int32) if arrays else np.zeros(0, np.int32)

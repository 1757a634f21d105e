"""Rows of two halves, for models that translate: source sentences in the first half, their targets in the second.

Both sentences of a pair have the same document number, so the one attention rule says what a target reads of its source.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ernie_m.rows.batch import NO_HORIZON, Document

SOURCE_GROUP = 0  # the first sentence's, in every objective


def halves_of(length: int) -> tuple[range, range]:
    """The positions of the source and of the target in a row of that length."""
    return range(length // 2), range(length // 2, length)


def least_length(document: Document) -> int:
    """Positions of the shortest row whose halves have room for these documents."""
    num_source = int((document.group == SOURCE_GROUP).sum())
    return 2 * max(num_source, len(document) - num_source)


def in_halves(document: Document, length: int) -> tuple[np.ndarray, Document]:
    """Places of the tokens of a row's documents, int64, and the documents with their positions numbered by these."""
    source, target = halves_of(length)
    is_source = document.group == SOURCE_GROUP
    num_source = int(is_source.sum())
    assert num_source <= len(source), "more source tokens than half a row holds"
    assert len(document) - num_source <= len(target), "more target tokens than half a row holds"
    places = np.where(is_source, np.cumsum(is_source), target.start + np.cumsum(~is_source)) - 1
    reads_on = document.horizon == NO_HORIZON
    horizon = np.where(reads_on, document.horizon, places[np.where(reads_on, 0, document.horizon)]).astype(np.int32)
    moved = {name: places[getattr(document, name)].astype(np.int32) for name in ("predicted", "sources", "placeholders")}
    return places, replace(document, horizon=horizon, **moved)

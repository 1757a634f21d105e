"""The texts of a micro-batch that the model will translate back, and the slots that their translations go to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.rows.batch import BackTranslation, Documents
from ernie_m.rows.halves import SOURCE_GROUP

NO_SLOT = -1


class Text(NamedTuple):
    """`ids`, with special tokens; `slots`: flat positions of its translation's room. Their languages."""

    ids: np.ndarray
    slots: np.ndarray
    language: int
    slots_language: int


def texts_of(documents: Documents, slots: np.ndarray) -> Iterator[Text]:
    """The texts of a row's documents that have slots; `slots`: the flat position of each of the row's slots."""
    joined = documents.joined
    ends_E = np.cumsum(documents.lengths_E)
    first_slots = np.searchsorted(joined.placeholders, np.concatenate([[0], ends_E]))
    for (first, last), end, length in zip(itertools.pairwise(first_slots), ends_E, documents.lengths_E, strict=True):
        if first < last:
            own = slice(end - length, end)
            is_text, language = joined.group[own] != SOURCE_GROUP, joined.language[own]
            languages = int(language[is_text][0]), int(language[~is_text][0])
            yield Text(joined.input_ids[own][is_text], slots[first:last], *languages)


def back_translation(texts: Sequence[Text], specials: Specials) -> BackTranslation[np.ndarray]:
    """These texts, padded. Without any, an empty one without slots: the model does the same forwards for it."""
    nothing = np.zeros(0, np.int32)
    empty = Text(np.array([specials.end], np.int32), nothing, NO_LANGUAGE, NO_LANGUAGE)
    texts = texts or [empty]
    return BackTranslation(
        _padded([text.ids for text in texts], specials.pad),
        np.array([len(text.ids) for text in texts], np.int32),
        np.array([text.language for text in texts], np.int32),
        np.array([text.slots_language for text in texts], np.int32),
        _padded([text.slots for text in texts], NO_SLOT),
    )


def _padded(rows: Sequence[np.ndarray], padding: int) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), int(lengths.max())), padding, np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded

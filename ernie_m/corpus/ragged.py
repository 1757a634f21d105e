"""Rows of integers of different lengths, end to end in one array. Needs numpy alone: the aligner's processes stay small."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np


class EncodedTexts(NamedTuple):
    """Model ids of many texts, end to end: text i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray  # int32 [num_tokens]
    offsets: np.ndarray  # int64 [num_texts + 1]

    @staticmethod
    def of(ids: Sequence[Sequence[int]]) -> EncodedTexts:
        """The ids of each text, put end to end."""
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)), out=offsets[1:])
        return EncodedTexts(np.fromiter(chain.from_iterable(ids), np.int32, offsets[-1]), offsets)


class Ragged(NamedTuple):
    """Rows of integers: row i is values[offsets[i] : offsets[i + 1]]; both int32, views of a mapped file."""

    offsets: np.ndarray
    values: np.ndarray

"""Rows of integers of different lengths, end to end in one array. Needs numpy alone: the aligner's processes stay small."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class EncodedTexts(NamedTuple):
    """Model ids of many texts, end to end: text i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray  # int32 [num_tokens]
    offsets: np.ndarray  # int64 [num_texts + 1]


class Ragged(NamedTuple):
    """Rows of integers: row i is values[offsets[i] : offsets[i + 1]]; both int32, views of a mapped file."""

    offsets: np.ndarray
    values: np.ndarray

"""Pairs made of a text alone: its source is the text with noise (AE), or room for what the model will write there (BT).

1. `noised` draws, word by word, what becomes of the text: words change places, some are dropped, some are blanked.
   In its arrays W counts the words of all texts.
2. `with_room` keeps slots free in front of the text. The model fills them on the device (ernie_m.models.back_translation).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.sampling import mix, numbers_of
from ernie_m.rows.batch import Examples
from ernie_m.rows.corruption import CorruptionConfig, Count

NOISE = np.uint64(0x6E6F697365)
"""Purpose of the numbers drawn here: they are not those that choose masks."""
DROP_BITS, BLANK_BITS, PLACE_BITS = 24, 20, 20  # of a word's 64
TENTHS_LONGER, TOKENS_MORE = 13, 5
"""A back-translation has at most 1.3 n + 5 tokens, n of the text (XLM)."""


def most_written(num_tokens: Count) -> Count:
    """Most tokens of a back-translation of so many, without special tokens."""
    return num_tokens * TENTHS_LONGER // 10 + TOKENS_MORE


def expected_most_written(mean_tokens: Count) -> Count:
    """The mean of it for texts of this mean length: rounding down takes 0.45 on average."""
    return mean_tokens * TENTHS_LONGER / 10 - 0.45 + TOKENS_MORE  # type: ignore[return-value]  # means are arrays


def noised(examples: Examples, rates: CorruptionConfig, begins_word: np.ndarray, mask: int) -> Examples:
    """The pair (text with noise, text) of each text; `begins_word`: of each id whether a word begins with it.

    Words change places by up to `shuffle_places`: word i of a text is put in the order of i + u, u drawn from
    [0, shuffle_places + 1). Each token of a blanked word shows <mask>. Of each text one word stays at least. A line in which
    no space stands between two tokens, as in scripts without spaces, has each token as a word.
    """
    lengths_E = examples.lengths_EC[:, 0]
    assert lengths_E.min(initial=1) > 0
    first_E = np.cumsum(lengths_E) - lengths_E
    example_T = np.repeat(np.arange(len(lengths_E)), lengths_E)
    begins_T = begins_word[examples.tokens_T]
    begins_T[first_E] = True
    begins_T |= (np.bincount(example_T[begins_T], minlength=len(lengths_E)) == 1)[example_T]
    first_W = np.flatnonzero(begins_T)
    size_W, example_W = np.diff(first_W, append=len(begins_T)), example_T[first_W]
    number_W = numbers_of(mix(examples.keys_E ^ NOISE), lengths_E)[first_W]
    drawn_W = number_W >> np.uint64(64 - DROP_BITS)
    word_E = np.searchsorted(first_W, first_E)
    stays_W = drawn_W >= _below(rates.drop_rate, DROP_BITS)
    stays_W |= drawn_W == np.maximum.reduceat(drawn_W, word_E)[example_W] if len(word_E) else stays_W
    is_blank_W = _bits(number_W, PLACE_BITS, BLANK_BITS) < _below(rates.blank_rate, BLANK_BITS)
    index_W = (np.arange(len(first_W)) - word_E[example_W]) << PLACE_BITS
    place_W = index_W + _bits(number_W, 0, PLACE_BITS) * (rates.shuffle_places + 1) * (rates.shuffle_places > 0)
    order = np.lexsort((place_W, example_W))
    order = order[stays_W[order]]
    tokens_T = examples.tokens_T[ranges(first_W[order], size_W[order])]
    tokens_T = np.where(np.repeat(is_blank_W[order], size_W[order]), np.int32(mask), tokens_T)
    left_E = np.bincount(example_W[order], size_W[order], len(lengths_E)).astype(np.int64)
    return _paired(examples, tokens_T, left_E, examples.languages_EC[:, 0])


def with_room(examples: Examples, mask: int) -> Examples:
    """The pair (masks, text) of each text: as many masks as its back-translation has tokens at most, in its language."""
    room_E = most_written(examples.lengths_EC[:, 0])
    return _paired(examples, np.full(int(room_E.sum()), mask, np.int32), room_E, examples.targets_E)


def _paired(examples: Examples, sources_T: np.ndarray, lengths_E: np.ndarray, languages_E: np.ndarray) -> Examples:
    """Each text with this source in front of it."""
    lengths_EC = np.stack([lengths_E, examples.lengths_EC[:, 0]], axis=1)
    starts_EC = np.cumsum(lengths_EC, axis=0) - lengths_EC + [0, len(sources_T)]
    both_T = np.concatenate([sources_T, examples.tokens_T])
    languages_EC = np.stack([languages_E, examples.languages_EC[:, 0]], axis=1)
    tokens_T = both_T[ranges(starts_EC.ravel(), lengths_EC.ravel())]
    return replace(examples, tokens_T=tokens_T, lengths_EC=lengths_EC, languages_EC=languages_EC)


def _bits(numbers: np.ndarray, first: int, count: int) -> np.ndarray:
    """Bits [first, first + count) of these numbers, int64."""
    return ((numbers >> np.uint64(first)) & np.uint64((1 << count) - 1)).astype(np.int64)


def _below(rate: float, bits: int) -> int:
    """The bound that a number of so many random bits is below with this probability."""
    return round(rate * (1 << bits))

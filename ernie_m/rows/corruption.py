"""The table of corruptions: which tokens are predicted, and what the model sees instead. Randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeVar

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.config import Section, section
from ernie_m.base.ranges import Range
from ernie_m.base.special_tokens import Specials

Count = TypeVar("Count", int, np.ndarray)


@section
class CorruptionConfig(Section):
    """How much is predicted and generated."""

    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the tokens that are predicted (that of BERT and XLM-R; ERNIE-M's is not published)."""
    pseudo_token_share: Annotated[float, Range(least=0.05, most=0.20)] = 0.10
    """BTMLM: pseudo tokens per token of the sentence; the paper compares 0.05, 0.10, 0.15 and 0.20."""
    shuffle_places: Annotated[int, Range(least=0, most=1000, zero="words keep their places")] = 3
    """AE: places by which a word may move."""
    drop_rate: Annotated[float, Range(least=0, below=1, zero="none")] = 0.1
    """AE: share of the words that are left out."""
    blank_rate: Annotated[float, Range(least=0, most=1, zero="none")] = 0.1
    """AE: share of the words whose tokens show <mask>."""


def num_masked(num_tokens: Count, mask_rate: float) -> Count:
    """How many of `num_tokens` (int or array) are predicted: the rate times their number, rounded, at least 1."""
    if isinstance(num_tokens, int):
        return max(1, round(num_tokens * mask_rate))  # the same number, 20 times faster than with an array of one
    return np.maximum(1, np.rint(np.asarray(num_tokens) * mask_rate)).astype(np.int64)


def expected_masked(mean_tokens: np.ndarray | float, mask_rate: float) -> np.ndarray:
    """Mean number of predicted tokens a sentence, when sentences have `mean_tokens` on average.

    A short sentence has at least 1, so the mean is above rate x length. Within 3 % of what was measured on real text.
    Returns fp64 of the shape of `mean_tokens`.
    """
    exact = np.asarray(mean_tokens, np.float64) * mask_rate
    # math.exp: the last bit of np.exp depends on the processor, and all hosts must count the same number of rows
    decay = np.fromiter(map(math.exp, (-exact).ravel().tolist()), np.float64, exact.size).reshape(exact.shape)
    return np.maximum(1.0, exact + 0.5 * decay)


def choose_masked(numbers_T: np.ndarray, lengths: np.ndarray, mask_rate: float) -> np.ndarray:
    """Choose `num_masked` tokens of each sentence, uniformly without replacement. Returns sorted indices into T.

    `numbers_T` uint64: a random number for each token. `lengths` int [sentences]: positive, with sum T. In each sentence the
    tokens with the smallest numbers are chosen. Only the upper 24 bits count; of equal ones the first token is taken.
    """
    assert lengths.min(initial=1) > 0
    assert lengths.max(initial=1) < 1 << 16, "16 bits number a sentence's tokens"
    assert len(lengths) < 1 << 24, "24 bits number the sentences"
    starts, counts = np.cumsum(lengths) - lengths, num_masked(lengths, mask_rate)
    sentence = np.repeat(np.arange(len(lengths), dtype=np.uint64) << np.uint64(40), lengths)
    within = (np.arange(len(numbers_T)) - np.repeat(starts, lengths)).view(np.uint64)
    ordered = np.sort(sentence | (numbers_T >> 40 << 16) | within)  # all different: any algorithm sorts them alike
    smallest = ordered[ranges(starts, counts)] & 0xFFFF
    return np.sort(smallest.view(np.int64) + np.repeat(starts, counts))


def replace_80_10_10(numbers: np.ndarray, ids: np.ndarray, specials: Specials) -> np.ndarray:
    """BERT's rule for replaced tokens: 80 % <mask>, 10 % a random piece, 10 % unchanged (ids: int32 [n]).

    `numbers` uint64 [n] are random. The lower 32 bits are used; the upper ones have chosen the masks.
    """
    assert specials.mask is not None, "Layout refuses such objectives"
    tenths = (numbers & 0xFFFFFFFF) * 10
    tenth, fraction = tenths >> 32, tenths & 0xFFFFFFFF
    random_ids = specials.replacements((fraction * specials.num_replaceable >> 32).astype(np.int64))
    return np.where(tenth < 8, np.int32(specials.mask), np.where(tenth < 9, random_ids, ids))


class Laid(NamedTuple):
    """Examples side by side, before corruption. Positions count through all of them.

    `ids` and `position_ids`: int32, of each position. `places_T` and `tokens_T`: position and id of each token of text.
    `appended`: positions of the masks behind the sentences, in the order of the tokens that they stand for.
    """

    ids: np.ndarray
    position_ids: np.ndarray
    places_T: np.ndarray
    tokens_T: np.ndarray
    appended: np.ndarray


class Corrupted(NamedTuple):
    """What the model sees (`ids`, `position_ids`), and the predicted positions (int32, ascending)."""

    ids: np.ndarray
    position_ids: np.ndarray
    predicted: np.ndarray


def replaced(laid: Laid, chosen: np.ndarray, numbers_T: np.ndarray, specials: Specials) -> Corrupted:
    """Replace the `chosen` tokens (indices into T), 80/10/10."""
    predicted, ids = laid.places_T[chosen].astype(np.int32), laid.ids.copy()
    ids[predicted] = replace_80_10_10(numbers_T[chosen], laid.tokens_T[chosen], specials)
    return Corrupted(ids, laid.position_ids, predicted)


def inserted(laid: Laid, chosen: np.ndarray, numbers_T: np.ndarray, specials: Specials) -> Corrupted:
    """Keep the tokens; give each appended mask the position id of the token that it stands for."""
    behind, position_ids = laid.appended.astype(np.int32), laid.position_ids.copy()
    position_ids[behind] = position_ids[laid.places_T[chosen]]
    return Corrupted(laid.ids, position_ids, behind)


@dataclass(frozen=True)
class Corruption:
    """One corruption. `appends`: masks are extra positions behind the sentences. `apply`: None if no token is chosen."""

    appends: bool
    apply: Callable[[Laid, np.ndarray, np.ndarray, Specials], Corrupted] | None


NOTHING, REPLACE, INSERT = "none", "replace", "insert"
CORRUPTIONS = {NOTHING: Corruption(False, None), REPLACE: Corruption(False, replaced), INSERT: Corruption(True, inserted)}

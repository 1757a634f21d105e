"""Which tokens are predicted, and what the model sees in their place: a table of ways. Randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.special_tokens import Specials


def num_masked(num_tokens: Any, mask_rate: float) -> Any:
    """How many of `num_tokens` (int or array) are predicted: the rate, rounded, at least 1. Fixed by the length alone."""
    if isinstance(num_tokens, int):
        return max(1, round(num_tokens * mask_rate))  # the same number, 20 times as fast as by an array of one
    return np.maximum(1, np.rint(np.asarray(num_tokens) * mask_rate)).astype(np.int64)


def expected_masked(mean_tokens: Any, mask_rate: float) -> Any:
    """About how many are predicted in a sentence of a text whose sentences have `mean_tokens` (number or array) on average.

    Short sentences are lifted to 1, so the mean lies above rate x length; measured on real text within 3 %.
    """
    exact = np.asarray(mean_tokens, np.float64) * mask_rate
    # math.exp, not np.exp, whose last bit depends on the processor: rows are counted with this, alike on every host
    decay = np.fromiter(map(math.exp, (-exact).ravel().tolist()), np.float64, exact.size).reshape(exact.shape)
    return np.maximum(1.0, exact + 0.5 * decay)


def choose_masked(numbers_T: np.ndarray, lengths: np.ndarray, mask_rate: float) -> np.ndarray:
    """Which tokens to predict, `num_masked` of each sentence, uniform without replacement: sorted indices into T.

    `numbers_T` uint64 are random, one a token; `lengths` int [sentences] are positive and add up to T. A sentence's masks
    are its tokens with the smallest numbers: of the upper 24 bits, the first where they are equal.
    """
    assert lengths.min(initial=1) > 0
    assert lengths.max(initial=1) < 1 << 16, "16 bits number a sentence's tokens"
    assert len(lengths) < 1 << 24, "24 bits number the sentences"
    starts, counts = np.cumsum(lengths) - lengths, num_masked(lengths, mask_rate)
    sentence = np.repeat(np.arange(len(lengths), dtype=np.uint64) << np.uint64(40), lengths)
    within = (np.arange(len(numbers_T)) - np.repeat(starts, lengths)).view(np.uint64)
    ordered = np.sort(sentence | (numbers_T >> 40 << 16) | within)  # all different: one order, however it is sorted
    smallest = ordered[ranges(starts, counts)] & 0xFFFF
    return np.sort(smallest.view(np.int64) + np.repeat(starts, counts))


def replace_80_10_10(numbers: np.ndarray, ids: np.ndarray, specials: Specials) -> np.ndarray:
    """BERT's split for masks that replace tokens: 80 % <mask>, 10 % a random piece, 10 % unchanged (ids: int32 [n]).

    `numbers` uint64 [n] are random; the lower 32 bits are used, the upper ones chose the masks.
    """
    tenths = (numbers & 0xFFFFFFFF) * 10
    tenth, fraction = tenths >> 32, tenths & 0xFFFFFFFF
    random_ids = specials.replacements((fraction * specials.num_replaceable >> 32).astype(np.int64))
    return np.where(tenth < 8, np.int32(specials.mask), np.where(tenth < 9, random_ids, ids))


class Laid(NamedTuple):
    """Examples laid side by side, nothing corrupted yet; positions of all of them are numbered as one row.

    `ids` and `position_ids` int32 of each position; `places_T` and `tokens_T` position and id of each token of text;
    `appended` positions of the masks that stand behind the sentences, in the order of their originals.
    """

    ids: np.ndarray
    position_ids: np.ndarray
    places_T: np.ndarray
    tokens_T: np.ndarray
    appended: np.ndarray


class Corrupted(NamedTuple):
    """What the model sees, and the positions (int32, ascending) at which it is asked for the tokens that were chosen."""

    ids: np.ndarray
    position_ids: np.ndarray
    predicted: np.ndarray


def replaced(laid: Laid, chosen: np.ndarray, numbers_T: np.ndarray, specials: Specials) -> Corrupted:
    """Masks in the place of the `chosen` tokens (indices into T), 80/10/10."""
    predicted, ids = laid.places_T[chosen].astype(np.int32), laid.ids.copy()
    ids[predicted] = replace_80_10_10(numbers_T[chosen], laid.tokens_T[chosen], specials)
    return Corrupted(ids, laid.position_ids, predicted)


def inserted(laid: Laid, chosen: np.ndarray, numbers_T: np.ndarray, specials: Specials) -> Corrupted:
    """The tokens stay; each appended mask shares the position id of the token that it asks for."""
    behind, position_ids = laid.appended.astype(np.int32), laid.position_ids.copy()
    position_ids[behind] = position_ids[laid.places_T[chosen]]
    return Corrupted(laid.ids, position_ids, behind)


@dataclass(frozen=True)
class Corruption:
    """One way. `appends`: a mask is a position of its own, behind the sentences; `apply`: None where nothing is chosen."""

    appends: bool
    apply: Callable[[Laid, np.ndarray, np.ndarray, Specials], Corrupted] | None


NOTHING, REPLACE, INSERT = "none", "replace", "insert"
CORRUPTIONS = {NOTHING: Corruption(False, None), REPLACE: Corruption(False, replaced), INSERT: Corruption(True, inserted)}

"""Which tokens are predicted, and what the model sees in their place. Randomness is an argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ernie_m.special_tokens import FIRST_PIECE_ID, mask_id


def num_masked(num_tokens: Any, mask_rate: float) -> Any:
    """How many of `num_tokens` (int or array) are predicted: the rate, rounded, at least 1. Fixed by the length alone."""
    return np.maximum(1, np.rint(np.asarray(num_tokens) * mask_rate)).astype(np.int64)


def expected_masked(mean_tokens: Any, mask_rate: float) -> Any:
    """About how many are predicted in a sentence of a text whose sentences have `mean_tokens` (number or array) on average.

    Short sentences are lifted to 1, so the mean lies above rate x length; measured on real text within 3 %.
    """
    exact = np.asarray(mean_tokens, np.float64) * mask_rate
    # math.exp, not np.exp, whose last bit depends on the processor: rows are counted with this, alike on every host
    decay = np.fromiter(map(math.exp, (-exact).ravel().tolist()), np.float64, exact.size).reshape(exact.shape)
    return np.maximum(1.0, exact + 0.5 * decay)


def choose_masked(rng: np.random.Generator, num_tokens: int, mask_rate: float) -> np.ndarray:
    """Sorted positions in [0, num_tokens) to predict, `num_masked` of them, uniform without replacement."""
    return np.sort(rng.choice(num_tokens, size=int(num_masked(num_tokens, mask_rate)), replace=False, shuffle=False))


def replace_80_10_10(rng: np.random.Generator, ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """BERT's split for masks that replace tokens: 80 % <mask>, 10 % a random piece, 10 % unchanged (ids: int32 [n])."""
    draw = rng.random(len(ids))
    random_ids = rng.integers(FIRST_PIECE_ID, mask_id(vocab_size), size=len(ids), dtype=np.int32)
    return np.where(draw < 0.8, np.int32(mask_id(vocab_size)), np.where(draw < 0.9, random_ids, ids))

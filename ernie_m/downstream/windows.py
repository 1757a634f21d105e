"""Texts longer than the encoder: overlapping windows, and the one window that answers for each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def window_of_each(windows: Sequence[tuple[int, int]], length: int) -> np.ndarray:
    """For each of `length` positions, the window [start, end) in which its shorter side of context is longest: [length].

    Equals go to the longer window, then to the first, as in BERT's reading of SQuAD. Every position must be in a window.
    """
    owner_L, best_L = np.full(length, -1), np.full(length, -1.0)
    for number, (start, end) in enumerate(windows):
        position_W = np.arange(start, end)
        context_W = np.minimum(position_W - start, end - 1 - position_W) + 0.01 * (end - start)
        better_W = context_W > best_L[start:end]
        owner_L[start:end][better_W] = number
        best_L[start:end][better_W] = context_W[better_W]
    assert (owner_L >= 0).all(), "a position is in no window"
    return owner_L


def word_windows(lengths: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Windows [first, end) of whole words, `lengths` in pieces, of at most `room` pieces, that share up to `overlap`.

    A word longer than `room` is a window of its own.
    """
    assert 0 <= overlap < room
    windows, start = [], 0
    while True:
        end, used = start, 0
        while end < len(lengths) and (used + lengths[end] <= room or end == start):
            used += lengths[end]
            end += 1
        windows.append((start, end))
        if end == len(lengths):
            return windows
        shared, following = 0, end
        may_share = min(overlap, room - lengths[end])  # the next word is to fit, or nothing is gained
        while shared + lengths[following - 1] <= may_share:
            following -= 1
            shared += lengths[following]
        start = following

"""Windows cover everything, fit, and each token is answered for where most of its context is."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from ernie_m.downstream.windows import window_of_each, word_windows


def test_windows_of_words_cover_them_all_and_share_no_more_than_asked() -> None:
    draw, shared_some = random.Random(0), 0
    for _ in range(400):
        room = draw.randint(2, 30)
        overlap = draw.randint(0, room // 2)
        lengths = [draw.choice([1, 1, 2, 3, room - 1, room, room + 5]) for _ in range(draw.randint(1, 40))]
        windows = word_windows(lengths, room, overlap)
        assert windows[0][0] == 0
        assert windows[-1][1] == len(lengths)
        for start, end in windows:
            assert sum(lengths[start:end]) <= room or end == start + 1, "only a word that is too long alone may not fit"
        for (start, end), (following, last) in itertools.pairwise(windows):
            assert start < following <= end < last, "no gap, and each window brings something new"
            assert sum(lengths[following:end]) <= overlap
            shared_some += following < end
            assert sum(lengths[start : end + 1]) > room, "a window that has room takes the next word too"
    assert shared_some > 200


def test_a_text_that_fits_is_one_window() -> None:
    assert word_windows([3, 4, 3], 10, 5) == [(0, 3)]
    assert word_windows([99], 10, 5) == [(0, 1)]


def test_each_token_belongs_to_the_window_with_most_context_around_it() -> None:
    draw = random.Random(1)
    for _ in range(50):
        size, step = draw.randint(2, 12), draw.randint(1, 12)
        step = min(step, size)
        length = draw.randint(1, 60)
        windows = [(start, min(start + size, length)) for start in range(0, max(1, length - size + step), step)]
        owners = window_of_each(windows, length)
        for at in range(length):
            around = {
                number: (min(at - start, end - 1 - at), end - start)
                for number, (start, end) in enumerate(windows)
                if start <= at < end
            }
            best = max(around.values())
            assert around[owners[at]] == best
            assert owners[at] == min(number for number, value in around.items() if value == best)


def test_of_windows_with_equal_context_the_longer_answers() -> None:
    assert window_of_each([(0, 3), (2, 8)], 8)[2] == 1
    assert window_of_each([(0, 6), (5, 8)], 8)[5] == 0


def test_a_gap_between_windows_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="in no window"):
        window_of_each([(0, 3), (4, 6)], 6)
    assert np.array_equal(window_of_each([], 0), np.array([]))

"""What is masked, and what stands in its place, counted on 100,000 tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ernie_m.corruption import choose_masked, expected_masked, num_masked, replace_80_10_10
from ernie_m.special_tokens import FIRST_PIECE_ID, mask_id

VOCAB_SIZE = 5000
NUM_TOKENS = 100_000


def test_masks_that_replace_are_80_percent_mask_10_random_10_unchanged() -> None:
    ids = np.full(NUM_TOKENS, 1234, dtype=np.int32)
    shown = replace_80_10_10(np.random.default_rng(0), ids, VOCAB_SIZE)
    assert shown.dtype == np.int32
    masked, unchanged = (shown == mask_id(VOCAB_SIZE)).mean(), (shown == ids).mean()
    random_ids = shown[(shown != mask_id(VOCAB_SIZE)) & (shown != ids)]
    assert masked == pytest.approx(0.8, abs=0.005)
    assert unchanged == pytest.approx(0.1, abs=0.005)
    assert len(random_ids) / NUM_TOKENS == pytest.approx(0.1, abs=0.005)
    assert (ids == 1234).all(), "the labels must stay as they were"


def test_random_replacements_are_uniform_over_the_ordinary_pieces() -> None:
    vocab_size = 50
    ids = np.full(NUM_TOKENS, 7, dtype=np.int32)
    shown = replace_80_10_10(np.random.default_rng(1), ids, vocab_size)
    counts = np.bincount(shown[(shown != ids) & (shown != mask_id(vocab_size))], minlength=vocab_size)
    possible = [i for i in range(FIRST_PIECE_ID, mask_id(vocab_size)) if i != 7]
    assert counts.sum() == counts[possible].sum(), "no special token is ever put in"
    mean = counts.sum() / (mask_id(vocab_size) - FIRST_PIECE_ID)
    assert 0.6 * mean < counts[possible].min() <= counts[possible].max() < 1.4 * mean


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3])
def test_number_of_masks_is_exact_and_follows_from_the_length(rate: float) -> None:
    rng = np.random.default_rng(2)
    for length in [1, 2, 3, 4, 7, 10, 33, 100, 510]:
        expected = max(1, round(length * rate))
        for _ in range(5):
            chosen = choose_masked(rng, length, rate)
            assert len(chosen) == len(set(chosen.tolist())) == expected == num_masked(length, rate)
            assert (np.diff(chosen) > 0).all()
            assert 0 <= chosen.min() <= chosen.max() < length


def test_every_position_is_masked_at_the_rate() -> None:
    rng, length = np.random.default_rng(3), 40
    counts = np.zeros(length)
    for _ in range(NUM_TOKENS // length):
        counts[choose_masked(rng, length, 0.15)] += 1
    share = counts / (NUM_TOKENS // length)
    assert share.mean() == pytest.approx(0.15, abs=1e-9)
    assert np.abs(share - 0.15).max() < 0.03


def test_num_masked_of_many_lengths_is_that_of_each() -> None:
    lengths = np.arange(1, 600)
    assert num_masked(lengths, 0.15).tolist() == [int(num_masked(int(n), 0.15)) for n in lengths]


@pytest.mark.parametrize("mean", [3, 8, 25, 120])
def test_expected_masks_are_near_the_mean_over_real_length_distributions(mean: int) -> None:
    lengths = np.maximum(1, np.random.default_rng(4).lognormal(np.log(mean), 0.6, 20_000)).astype(int)
    actual = num_masked(lengths, 0.15).mean()
    assert expected_masked(float(lengths.mean()), 0.15) == pytest.approx(actual, rel=0.08)


def test_expected_masked_of_an_array_is_bit_for_bit_that_of_each_number() -> None:
    """Rows are counted with it: a last bit that depends on the processor would be another data order."""
    means = np.random.default_rng(0).uniform(0, 200, (3, 20_000))
    expected = [[max(1.0, m * 0.15 + 0.5 * math.exp(-(m * 0.15))) for m in row] for row in means.tolist()]
    assert expected_masked(means, 0.15).tolist() == expected
    assert [expected_masked(m, 0.15) for m in means[0, :50].tolist()] == expected[0][:50]
    assert len(np.unique(expected)) > 1000

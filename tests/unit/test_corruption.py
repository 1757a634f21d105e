"""What is masked, and what stands in its place, counted on 100,000 tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ernie_m.base.sampling import numbers_of
from ernie_m.base.special_tokens import FIRST_PIECE_ID, Specials, mask_id
from ernie_m.rows.corruption import choose_masked, expected_masked, num_masked, replace_80_10_10

VOCAB_SIZE = 5000
NUM_TOKENS = 100_000


def numbers(count: int, seed: int) -> np.ndarray:
    """Random numbers as `lay_out_all` draws them."""
    return numbers_of(np.array([seed], np.uint64), np.array([count]))


def test_masks_that_replace_are_80_percent_mask_10_random_10_unchanged() -> None:
    ids = np.full(NUM_TOKENS, 1234, dtype=np.int32)
    shown = replace_80_10_10(numbers(NUM_TOKENS, 0), ids, Specials.xlm_r(VOCAB_SIZE))
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
    shown = replace_80_10_10(numbers(NUM_TOKENS, 1), ids, Specials.xlm_r(vocab_size))
    counts = np.bincount(shown[(shown != ids) & (shown != mask_id(vocab_size))], minlength=vocab_size)
    possible = [i for i in range(FIRST_PIECE_ID, mask_id(vocab_size)) if i != 7]
    assert counts.sum() == counts[possible].sum(), "no special token is ever put in"
    mean = counts.sum() / (mask_id(vocab_size) - FIRST_PIECE_ID)
    assert 0.6 * mean < counts[possible].min() <= counts[possible].max() < 1.4 * mean


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3])
def test_number_of_masks_is_exact_and_follows_from_the_length(rate: float) -> None:
    lengths = np.array([1, 2, 3, 4, 7, 10, 33, 100, 510])
    expected = [max(1, round(length * rate)) for length in lengths.tolist()]
    for seed in range(5):
        chosen = choose_masked(numbers(int(lengths.sum()), seed), lengths, rate)
        assert (np.diff(chosen) > 0).all(), "sorted, and none twice"
        of_sentence = np.searchsorted(np.cumsum(lengths), chosen, side="right")
        assert np.bincount(of_sentence, minlength=len(lengths)).tolist() == expected


def test_the_tokens_with_the_smallest_numbers_are_masked_and_the_first_where_24_bits_are_equal() -> None:
    tokens = [5, 1, 9, 1, 0, 3, 3, 3, 3, 8]
    numbers_T = np.array([n << 40 for n in tokens], np.uint64) + np.arange(10, 0, -1, dtype=np.uint64)
    lengths = np.array([5, 4, 1])
    assert choose_masked(numbers_T, lengths, 0.4).tolist() == [1, 4, 5, 6, 9]
    assert choose_masked(numbers_T, lengths, 0.6).tolist() == [1, 3, 4, 5, 6, 9]


def test_masks_of_a_sentence_do_not_depend_on_its_neighbours() -> None:
    lengths = np.random.default_rng(5).integers(1, 60, 300)
    drawn, starts = numbers(int(lengths.sum()), 5), np.cumsum(lengths) - lengths
    together = choose_masked(drawn, lengths, 0.15)
    alone = [
        start + choose_masked(drawn[start : start + n], np.array([n]), 0.15)
        for start, n in zip(starts, lengths, strict=True)
    ]
    assert np.array_equal(together, np.concatenate(alone))


def test_every_position_is_masked_at_the_rate_and_every_pair_of_them() -> None:
    length, times = 40, 10_000
    chosen = choose_masked(numbers(length * times, 3), np.full(times, length), 0.15).reshape(times, 6) % length
    share = np.bincount(chosen.ravel(), minlength=length) / times
    assert share.mean() == pytest.approx(0.15, abs=1e-9)
    assert np.abs(share - 0.15).max() < 0.015
    shown = np.zeros((times, length))
    np.put_along_axis(shown, chosen, 1.0, axis=1)
    together = (shown.T @ shown)[np.triu_indices(length, 1)] / times
    assert together.mean() == pytest.approx(6 / 40 * 5 / 39, abs=1e-9)
    assert np.abs(together - together.mean()).max() < 0.007, "5 standard deviations"


def test_what_stands_in_a_masks_place_does_not_depend_on_how_it_was_chosen() -> None:
    """One number serves both: its upper half chooses, its lower half replaces."""
    drawn, lengths = numbers(NUM_TOKENS, 4), np.full(NUM_TOKENS // 20, 20)
    masked = choose_masked(drawn, lengths, 0.15)
    shown = replace_80_10_10(drawn[masked], np.full(len(masked), 1234, np.int32), Specials.xlm_r(VOCAB_SIZE))
    assert (shown == mask_id(VOCAB_SIZE)).mean() == pytest.approx(0.8, abs=0.015)
    assert (shown == 1234).mean() == pytest.approx(0.1, abs=0.01)


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

"""Keyed generators, permutations without a table, exact shares."""

from __future__ import annotations

import numpy as np
import pytest

from ernie_m.base.sampling import Mixture, Permutation, apportion, generator, key_of, smoothed


def test_permutation_is_a_bijection_at_every_size() -> None:
    for size in range(1, 301):
        permutation = Permutation(size, "key", size)
        assert sorted(permutation[i] for i in range(size)) == list(range(size))


def test_permutation_mixes_and_follows_its_key() -> None:
    size = 1000
    images = {key: [Permutation(size, key)[i] for i in range(size)] for key in ("a", "b")}
    assert images["a"] == [Permutation(size, "a")[i] for i in range(size)]
    assert images["a"] != images["b"]
    for image in images.values():
        assert abs(np.corrcoef(image, range(size))[0, 1]) < 0.1
        fixed = sum(image[i] == i for i in range(size))
        assert fixed < 10
    firsts = {Permutation(100, "first", key)[0] for key in range(300)}
    assert len(firsts) > 80, "each image must be possible"


def test_permutation_is_entered_anywhere_at_any_size() -> None:
    """No array has room for the larger ones: each image is computed by itself."""
    for size in (10**6, 10**12, 2**40 + 1):
        permutation = Permutation(size, 0)
        indices = [0, 1, size // 2, size - 2, size - 1]
        images = [permutation[i] for i in indices]
        assert len(set(images)) == len(indices)
        assert all(0 <= image < size for image in images)


@pytest.mark.parametrize("index", [-1, 10, 11])
def test_permutation_refuses_indices_outside(index: int) -> None:
    with pytest.raises(IndexError, match=r"outside range\(10\)"):
        Permutation(10, 0)[index]


def test_generators_are_keyed_by_every_part() -> None:
    draws = {parts: generator(*parts).integers(0, 2**62) for parts in ((0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1))}
    assert len(set(draws.values())) == 4
    assert generator(0, "a", 1).integers(0, 2**62) == draws[(0, "a", 1)]
    assert key_of("a", "bc") != key_of("ab", "c"), "parts must not run into one another"
    assert key_of(0, "masks") < 2**128


def test_apportion_splits_exactly_and_as_near_as_can_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        num_shares = int(rng.integers(1, 12))
        shares = (rng.random(num_shares) ** 3).tolist()
        total = int(rng.integers(num_shares, 500))
        counts = apportion(shares, total)
        assert sum(counts) == total
        assert min(counts) >= 1
        quotas = [share * total / sum(shares) for share in shares]
        if min(quotas) >= 1:
            assert all(abs(count - quota) < 1 for count, quota in zip(counts, quotas, strict=True))
        assert all(
            counts[i] >= counts[j] - 1 for i in range(num_shares) for j in range(num_shares) if shares[i] >= shares[j]
        )


def test_apportion_of_known_cases() -> None:
    assert apportion([1, 1, 1], 16) == [6, 5, 5]
    assert apportion([1, 1, 2], 16) == [4, 4, 8]
    assert apportion([0.5, 0.0, 0.5], 4) == [2, 0, 2]
    assert apportion([1e-9, 1.0], 100) == [1, 99]
    assert apportion([1e-9, 1e-9, 1e-9, 1.0], 4) == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="2 cannot be split over 3"):
        apportion([1, 1, 1], 2)


def test_smoothed_follows_the_exponent() -> None:
    counts = [900, 90, 10]
    assert smoothed(counts, 1.0) == pytest.approx([0.9, 0.09, 0.01])
    assert smoothed(counts, 0.0) == pytest.approx([1 / 3] * 3)
    lifted = smoothed(counts, 0.3)
    assert sum(lifted) == pytest.approx(1)
    assert lifted[0] / lifted[2] == pytest.approx((900 / 10) ** 0.3)


def test_mixture_gives_even_the_smallest_stream_a_turn() -> None:
    mixture = Mixture([1.0, 1e-12], 0)
    assert mixture.counts == [8191, 1]
    assert mixture[123_456_789_012] == Mixture([1.0, 1e-12], 0)[123_456_789_012]

"""Randomness and order as pure functions: keyed generators, O(1) permutations, exact shares, smoothed mixtures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ernie_m.base.arrays import ranges

MIXTURE_PERIOD = 8192  # rows over which a mixture's shares are met exactly


def key_of(*parts: object) -> int:
    """A 128-bit key of any printable parts; stable over processes and releases of Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*parts: object) -> np.random.Generator:
    """A counter-based random generator keyed by `parts`, e.g. (seed, "masks", stream, row)."""
    return np.random.Generator(np.random.Philox(key=key_of(*parts)))


class Permutation:
    """A pseudo-random permutation of range(size), evaluated one index at a time (Feistel network, cycle walking).

    There is no table: memory and time are constant at any size, so a data order can be entered anywhere.
    """

    NUM_ROUNDS = 6

    def __init__(self, size: int, *key_parts: object) -> None:
        assert size > 0
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half_mask = (1 << self._half_bits) - 1
        self._round_keys = [key_of(*key_parts, "round", i) & (2**64 - 1) for i in range(self.NUM_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        """Image of `index`; raises IndexError outside range(size)."""
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside range({self.size})")
        value = index
        while True:
            left, right = value >> self._half_bits, value & self._half_mask
            for round_key in self._round_keys:
                left, right = right, left ^ (mix(right ^ round_key) & self._half_mask)
            value = (left << self._half_bits) | right
            if value < self.size:
                return value


def mix(value: Any) -> Any:
    """splitmix64 of an int below 2^64 or of a uint64 array: a bijection in which each output bit depends on every input bit.

    `mix(key + i)` is number i of splitmix64's sequence from `key`; the numbers before it are not needed.
    """
    value = (value * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return value ^ (value >> 31)


def numbers_of(keys_E: np.ndarray, counts_E: np.ndarray) -> np.ndarray:
    """The first `counts_E` random numbers of every key, uint64 [counts_E.sum()]; the i-th of a key is `mix(key + i)`."""
    return mix(ranges(keys_E.view(np.int64), counts_E).view(np.uint64))


def smoothed(counts: Sequence[int], alpha: float) -> list[float]:
    """p_i proportional to counts_i ** alpha (XLM 0.7, XLM-R 0.3); alpha 1 keeps the proportions, 0 makes all equal."""
    powers = [float(count) ** alpha for count in counts]
    return [power / sum(powers) for power in powers]


def apportion(shares: Sequence[float], total: int) -> list[int]:
    """Split `total` into integers as close to `shares` as possible (largest remainders; ties go to the first).

    A positive share gets at least 1; raises ValueError when `total` is smaller than the number of positive shares.
    """
    exact = [Fraction(share) for share in shares]
    positive = [i for i, share in enumerate(exact) if share > 0]
    if total < len(positive):
        raise ValueError(f"{total} cannot be split over {len(positive)} shares of at least 1 each")
    quotas = [share * total / sum(exact) for share in exact]
    counts = [max(int(quota), int(quota > 0)) for quota in quotas]
    by_remainder = sorted(positive, key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: max(0, total - sum(counts))]:
        counts[i] += 1
    while sum(counts) > total:  # the lifted ones took too much: the largest pay
        counts[counts.index(max(counts))] -= 1
    return counts


@dataclass(frozen=True)
class Draw:
    """The `visit`-th row (from 0, over all epochs) of stream number `stream`."""

    stream: int
    visit: int


class Mixture:
    """An endless sequence of draws from streams of given probabilities; draw number j is found in O(1).

    Every `MIXTURE_PERIOD` consecutive draws hold each stream in its exact share, in a keyed order of their own. So the
    number of earlier draws of the same stream is computed; no count is kept.
    """

    def __init__(self, probabilities: Sequence[float], *key_parts: object) -> None:
        self.counts = apportion(probabilities, max(MIXTURE_PERIOD, len(probabilities)))
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._key_parts = key_parts
        self._permutation: tuple[int, Permutation] | None = None

    def __getitem__(self, draw: int) -> Draw:
        size = int(self._starts[-1])
        period, slot = divmod(draw, size)
        if self._permutation is None or self._permutation[0] != period:
            self._permutation = (period, Permutation(size, *self._key_parts, "period", period))
        value = self._permutation[1][slot]
        stream = int(np.searchsorted(self._starts, value, side="right")) - 1
        return Draw(stream, period * self.counts[stream] + value - int(self._starts[stream]))

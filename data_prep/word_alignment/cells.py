"""Pairs in arrays for the aligner: sorted by their lengths, so that pairs of the same lengths are one dense array.

A *cell* is a place (source token i, target token j) of a pair; its *type* is the two ids that stand there. The cells of a
pair of n and m tokens are n * m numbers in the order of i, then j; those of the pairs follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.corpus.ragged import EncodedTexts

CELLS_AT_A_TIME = 1 << 16
"""Most cells of a group: it limits temporary arrays, so that they stay in the cache."""
TEXTS_AT_A_TIME = 1 << 14


class Group(NamedTuple):
    """Pairs [first, last) of the sorted ones, all of `n` source and `m` target tokens."""

    n: int
    m: int
    first: int
    last: int


@dataclass(frozen=True)
class SortedPairs:
    """Pairs ordered by lengths; pair k was number `order[k]` of those given."""

    source: EncodedTexts
    target: EncodedTexts
    order: np.ndarray
    offsets: np.ndarray
    """Where the cells of each pair begin, int64 [pairs + 1]."""

    @staticmethod
    def of(source: EncodedTexts, target: EncodedTexts) -> SortedPairs:
        """Sort; pairs of the same lengths keep their order."""
        n, m = np.diff(source.offsets), np.diff(target.offsets)
        order = np.lexsort((m, n))
        offsets = np.concatenate([[0], np.cumsum((n * m)[order], dtype=np.int64)])
        return SortedPairs(taken(source, order), taken(target, order), order, offsets)

    @property
    def num_cells(self) -> int:
        return int(self.offsets[-1])

    def groups(self) -> Iterator[Group]:
        """Pairs of the same lengths, at most CELLS_AT_A_TIME cells of them at once."""
        n, m = np.diff(self.source.offsets), np.diff(self.target.offsets)
        borders = np.flatnonzero((np.diff(n) != 0) | (np.diff(m) != 0)) + 1
        for first, last in zip([0, *borders.tolist()], [*borders.tolist(), len(n)], strict=True):
            if first < last:
                step = max(1, CELLS_AT_A_TIME // max(1, int(n[first] * m[first])))
                for start in range(first, last, step):
                    yield Group(int(n[first]), int(m[first]), start, min(start + step, last))

    def targets(self, group: Group) -> np.ndarray:
        """Target ids of a group, int32 [pairs, m]."""
        return self.target.values[self.target.offsets[group.first] : self.target.offsets[group.last]].reshape(-1, group.m)

    def sources(self, group: Group) -> np.ndarray:
        """Source ids of a group, int32 [pairs, n]."""
        return self.source.values[self.source.offsets[group.first] : self.source.offsets[group.last]].reshape(-1, group.n)


class Occurrences(NamedTuple):
    """Source tokens ordered by id: the ids, where each one's run begins, and of each token its place and its pair."""

    ids: np.ndarray
    starts: np.ndarray
    place: np.ndarray
    pair: np.ndarray


class Types(NamedTuple):
    """The types of a corpus: those of source id e are targets[starts[e] : starts[e + 1]], ascending."""

    starts: np.ndarray
    targets: np.ndarray

    def sources(self, first: int, last: int) -> np.ndarray:
        """The source ids of some types, int32 [last - first]."""
        lengths = np.diff(self.starts.clip(first, last))
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


CellsOf = Callable[[Group], np.ndarray]
"""The number of each cell's type, or -1 for a type that is not there: int32 [pairs, n, m] of a group."""


def occurrences(pairs: SortedPairs) -> Occurrences:
    """Of the source tokens of the pairs."""
    values, offsets = pairs.source
    place = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    ids = np.flatnonzero(counts).astype(np.int32)
    pair = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))[place]
    return Occurrences(ids, np.concatenate([[0], np.cumsum(counts[ids])]), place, pair)


def taken(texts: EncodedTexts, order: np.ndarray) -> EncodedTexts:
    """The texts of these numbers, in this order."""
    starts, lengths = np.asarray(texts.offsets[:-1], np.int64)[order], np.diff(texts.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = np.empty(offsets[-1], np.int32)
    for first in range(0, len(order), TEXTS_AT_A_TIME):
        part = slice(first, min(first + TEXTS_AT_A_TIME, len(order)))
        values[offsets[part.start] : offsets[part.stop]] = texts.values[ranges(starts[part], lengths[part])]
    return EncodedTexts(values, offsets)

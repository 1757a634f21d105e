"""New pieces for a language: the neighbours of the old segmentation that are most often together, joined.

1. Each word of the new text is cut into old pieces by the tokenizer as it is.
2. The pair of neighbours that is most frequent becomes one symbol, everywhere; and so on (Sennrich et al. 2016, but from
   old pieces instead of characters). A joined pair saves a token wherever it stands, so this order is that of gain.
3. A joined piece that was joined again is seldom used by itself in the end. If the tokenizer does not need it to make the
   longer one (unigram, WordPiece), it is left out, and another piece takes its place.
"""

from __future__ import annotations

import heapq
import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ernie_m.base.console import Progress
from ernie_m.base.ranges import Range

EXTEND = Range(least=1, most=200_000, zero="none")
"""How many pieces may be learned."""
LEAST_USES = 2
"""A piece that stands in the text once would be learned from one place."""
MOST_CHARACTERS = 16  # of a piece, as in SentencePiece's trainer
APOSTROPHES = "'\u2019\u02bc"
SPACE = "\u2581"


@dataclass(frozen=True)
class NewPiece:
    """A piece that joins neighbours of the old segmentation."""

    name: str
    left: str
    """Name of the first of the two pieces, old or new, that were joined last."""
    right: str
    parts: tuple[int, ...]
    """The old pieces that it stands for, by old id, in order."""


def is_word(text: str) -> bool:
    """Whether a piece (U+2581 for a space in front) holds nothing but letters, their marks and apostrophes."""
    inside = text.removeprefix(SPACE)
    kinds = [unicodedata.category(character)[0] for character in inside if character not in APOSTROPHES]
    return "L" in kinds and {*kinds} <= {"L", "M"}


class JoinLearner:
    """Words as runs of symbols, in which the most frequent pair of neighbours is joined, one after the other.

    words: old ids of a word, or of a stretch of it -> how often it stands in the text.
    names: of each old id; joined: (name, name) -> name of the two as one piece, or None where they cannot be one.
    """

    def __init__(
        self, words: Mapping[tuple[int, ...], int], names: Mapping[int, str], joined: Callable[[str, str], str | None]
    ) -> None:
        ordered = sorted(words.items())
        self._runs, self._times = [[*run] for run, _ in ordered], [times for _, times in ordered]
        self._names, self._joined = dict(names), joined
        self._parts: dict[int, tuple[int, ...]] = {i: (i,) for i in names}
        self._old, self._next = {*names.values()}, max(names) + 1
        self._number: dict[str, int] = {}  # of each new name
        self._uses: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for i, run in enumerate(self._runs):
            for symbol in run:
                self._uses[symbol] += self._times[i]
            self._count(i, 1)
        self._heap = [(-count, pair) for pair, count in self._pairs.items()]
        heapq.heapify(self._heap)

    def learn(self, most: int, left_out: Collection[str], with_steps: bool) -> list[NewPiece]:
        """At most `most` pieces, none of them called as one of `left_out`, best first.

        with_steps: all joins are pieces, in the order in which they were made. Then a join of `left_out` is not made, and
        one piece may come out of two pairs. Without: those that are used in the end, by the tokens that they save.
        """
        progress, steps = Progress("learning pieces", most, "pieces"), []
        alive: set[str] = set()
        while len(alive) < most and (pair := self._best()) is not None:
            name = self._joined(*(self._names[symbol] for symbol in pair))
            if name is None or name in self._old or (with_steps and name in left_out):
                continue
            symbol, before = self._symbol(name, pair), len(alive)
            steps.append(NewPiece(name, self._names[pair[0]], self._names[pair[1]], self._parts[symbol]))
            self._join(pair, symbol)
            for changed in (symbol, *pair):
                called = self._names[changed]
                if called in self._number and called not in left_out and (with_steps or self._uses[changed] >= LEAST_USES):
                    alive.add(called)
                elif not with_steps:
                    alive.discard(called)
            progress.advance(max(0, len(alive) - before))
        progress.close()
        return steps if with_steps else self._by_gain(steps, alive)

    def _by_gain(self, steps: list[NewPiece], alive: set[str]) -> list[NewPiece]:
        first = {piece.name: piece for piece in reversed(steps) if piece.name in alive}
        gain = {name: self._uses[self._number[name]] * (len(piece.parts) - 1) for name, piece in first.items()}
        return [first[name] for name in sorted(first, key=lambda name: (-gain[name], name))]

    def _best(self) -> tuple[int, int] | None:
        """The most frequent pair, which is taken off the list."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            now = self._pairs[pair]
            if now != -count:  # an entry of before
                continue
            return pair if now >= LEAST_USES else None
        return None

    def _symbol(self, name: str, pair: tuple[int, int]) -> int:
        if name not in self._number:
            self._number[name], self._next = self._next, self._next + 1
            self._names[self._number[name]] = name
            self._parts[self._number[name]] = self._parts[pair[0]] + self._parts[pair[1]]
        return self._number[name]

    def _count(self, i: int, sign: int) -> set[tuple[int, int]]:
        run, times = self._runs[i], sign * self._times[i]
        pairs = [*itertools.pairwise(run)]
        for pair in pairs:
            self._pairs[pair] += times
            self._where[pair].add(i)
        return {*pairs}

    def _join(self, pair: tuple[int, int], symbol: int) -> None:
        changed: set[tuple[int, int]] = set()
        for i in sorted(self._where.pop(pair)):
            changed |= self._count(i, -1)
            run, joined = self._runs[i], []
            at = 0
            while at < len(run):
                is_pair = run[at : at + 2] == [*pair]
                joined.append(symbol if is_pair else run[at])
                at += 1 + is_pair
            saved = self._times[i] * (len(run) - len(joined))
            for lost in pair:
                self._uses[lost] -= saved
            self._uses[symbol] += saved
            self._runs[i] = joined
            changed |= self._count(i, 1)
        for found in sorted(changed):
            if found != pair and self._pairs[found] >= LEAST_USES:
                heapq.heappush(self._heap, (-self._pairs[found], found))

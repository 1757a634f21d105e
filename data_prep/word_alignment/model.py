"""fast_align's model, and its training by expectation maximisation: a table of translations, and a prior for the diagonal.

Forward, each of m target tokens f_j is the translation of one of n source tokens e_i, or of nothing:

    p(f_j, a_j = i) = t(f_j | e_i) * (1 - p0) * exp(-tension * |i/n - j/m|) / Z_j      i, j from 1
    p(f_j, a_j = 0) = t(f_j | nothing) * p0

Backward is the same with the sides exchanged. The rows of t have a Dirichlet prior of `alpha`; variational Bayes makes
t = exp(digamma(count + alpha) - digamma(sum)). The tension is fitted by gradient, from the second update on.
Source: Dyer, Chahuneau and Smith 2013, "A Simple, Fast, and Effective Reparameterization of IBM Model 2".

Their program has two slips, which are not copied: the gradient's Z exchanges n and m, and the expected distance from the
diagonal counts j from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data_prep.word_alignment.cells import CellsOf, SortedPairs, Types
from data_prep.word_alignment.engines import Engine

FIRST_TENSION, LEAST_TENSION, MOST_TENSION = 4.0, 0.1, 6.0
"""Theirs goes up to 14, where it lands on little text while links get worse (docs/log/word_alignment.md)."""
TENSION_STEPS, TENSION_RATE = 8, 20.0
LEAST_COUNT = 1e-5
"""A type with fewer expected counts in both directions is not kept: it counts as never seen."""
SMALL = 1 << 10  # places of a prior that is kept for later pieces
PIECE = 1 << 16  # numbers at a time, of a long array


@dataclass(frozen=True)
class Settings:
    """What the links depend on, beside the text."""

    iterations: int = 5
    """As fast_align counts: all but the last update the model, the last makes the links."""
    null_prior: float = 0.08
    alpha: float = 0.05
    """Theirs is 0.01, which is too little smoothing for few pairs (docs/log/word_alignment.md)."""


class Direction(NamedTuple):
    """One direction of a trained model."""

    table: np.ndarray
    """t of each type, float32 [types]: a corpus has many. What is computed from it is float64."""
    null: np.ndarray
    """t of each id as the translation of nothing, float64 [vocabulary]."""
    floor: np.ndarray
    """t of what was never seen beside an id, float64 [vocabulary]."""
    tension: float


class Model(NamedTuple):
    """Both directions; `types` are those of both."""

    types: Types
    forward: Direction
    backward: Direction
    null_prior: float
    perplexity: tuple[float, float]
    """Of the last update, forward and backward."""


def distance(n: int, m: int) -> np.ndarray:
    """-|i/n - j/m|, [n, m]."""
    return -np.abs(np.arange(1, n + 1)[:, None] / n - np.arange(1, m + 1)[None] / m)


def prior(n: int, m: int, tension: float, null_prior: float) -> np.ndarray:
    """The prior of linking the j-th of m target tokens to the i-th of n source tokens, [n, m]; not to be written to."""
    return _kept_prior(n, m, tension, null_prior) if n * m <= SMALL else _prior(n, m, tension, null_prior)


def _prior(n: int, m: int, tension: float, null_prior: float) -> np.ndarray:
    weight = np.exp(tension * distance(n, m))
    found = (1 - null_prior) * weight / weight.sum(axis=0)
    found.flags.writeable = False
    return found


_kept_prior = lru_cache(maxsize=1 << 10)(_prior)


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log gamma at x > 0, to 12 digits."""
    x, shift = np.array(x, np.float64), np.zeros(np.shape(x))
    while (small := x < 10).any():
        shift[small] -= 1 / x[small]
        x[small] += 1
    y = 1 / (x * x)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    return shift + np.log(x) - 0.5 / x - series


def train(
    pairs: SortedPairs,
    vocab_size: int,
    settings: Settings,
    engine: Engine,
    advance: Callable[[int], None] = lambda _: None,
) -> Model:
    """Fit both directions to the pairs. `advance` is told of the cells that are done: 2 * (iterations - 1) times all."""
    types = engine.types_of(pairs, vocab_size)
    cells_of, keep = engine.cells_of(pairs, types), np.zeros(len(types.targets), np.bool_)
    found, perplexities = [], []
    for is_turned in (False, True):  # one after the other: the counts of one direction are in memory
        direction = _Direction(pairs, types, cells_of, is_turned, vocab_size, settings, engine, advance)
        for _ in range(settings.iterations - 1):
            direction.update()
        keep |= direction.counts > LEAST_COUNT
        found.append(direction.found())
        perplexities.append(direction.perplexity)
        del direction
    kept = np.flatnonzero(keep)
    forward, backward = (one._replace(table=one.table[kept]) for one in found)
    left = Types(np.searchsorted(kept, types.starts), types.targets[kept])
    return Model(left, forward, backward, settings.null_prior, (perplexities[0], perplexities[1]))


class _Direction:
    """One direction while it is trained."""

    def __init__(
        self,
        pairs: SortedPairs,
        types: Types,
        cells_of: CellsOf,
        is_turned: bool,
        vocab_size: int,
        settings: Settings,
        engine: Engine,
        advance: Callable[[int], None],
    ) -> None:
        self.pairs, self.types, self.cells_of, self.is_turned = pairs, types, cells_of, is_turned
        self.settings, self.engine, self.advance = settings, engine, advance
        texts = pairs.source if is_turned else pairs.target
        self.seen, self.num_tokens = np.zeros(vocab_size, np.bool_), len(texts.values)
        self.seen[texts.values] = True
        self.table, self.null = np.ones(len(types.targets), np.float32), np.ones(vocab_size)
        self.counts, self.floor = np.zeros(len(types.targets)), np.ones(vocab_size)
        self.tension, self.updates, self.perplexity = FIRST_TENSION, 0, float("nan")

    def update(self) -> None:
        """One round of expectation and maximisation."""
        self.counts.fill(0)  # in place: a corpus has many types
        null_counts = np.zeros(len(self.null))
        closeness, log_likelihood = 0.0, 0.0
        places: dict[tuple[int, int], int] = {}
        for group in self.pairs.groups():
            cells, targets = self.cells_of(group), self.pairs.targets(group)
            n, m = group.n, group.m
            if self.is_turned:
                cells, targets, n, m = cells.transpose(0, 2, 1), self.pairs.sources(group), m, n
            posterior_NM, probability_PM = self.engine.expect(
                cells,
                targets,
                self.table,
                self.null,
                prior(n, m, self.tension, self.settings.null_prior),
                self.settings.null_prior,
                self.counts,
                null_counts,
            )
            closeness += float((posterior_NM * distance(n, m)).sum())
            log_likelihood += float(np.log(probability_PM).sum())
            places[n, m] = places.get((n, m), 0) + group.last - group.first
            self.advance(cells.size)
        if self.updates > 0:
            self.tension = self._fitted(closeness / self.num_tokens, places)
        self.updates += 1
        self.perplexity = float(np.exp(-log_likelihood / self.num_tokens))
        self._maximise(null_counts)

    def _maximise(self, null_counts: np.ndarray) -> None:
        alpha, totals = self.settings.alpha, np.zeros(len(self.null))
        for piece, given in self._pieces():
            totals += np.bincount(given, self.counts[piece] + alpha, len(totals))
        log_totals = digamma(np.maximum(totals, 1.0))
        for piece, given in self._pieces():
            self.table[piece] = np.exp(digamma(self.counts[piece] + alpha) - log_totals[given])
        null_total = null_counts.sum() + alpha * self.seen.sum()
        self.null = np.exp(digamma(null_counts + alpha) - digamma(np.array(max(null_total, 1.0))))
        self.floor = np.exp(digamma(np.array(alpha)) - log_totals)

    def _pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The types, some at a time, and the id of each that is translated."""
        for first in range(0, len(self.table), PIECE):
            piece = slice(first, min(first + PIECE, len(self.table)))
            yield piece, self.types.targets[piece] if self.is_turned else self.types.sources(piece.start, piece.stop)

    def _fitted(self, closeness: float, places: dict[tuple[int, int], int]) -> float:
        """The tension after some steps along the gradient: observed minus expected closeness to the diagonal."""
        tension = self.tension
        for _ in range(TENSION_STEPS):
            expected = 0.0
            for (n, m), count in places.items():
                near = distance(n, m)
                weight = np.exp(tension * near)
                expected += count * float(((weight * near).sum(axis=0) / weight.sum(axis=0)).sum())
            tension += TENSION_RATE * (closeness - expected / self.num_tokens)
            tension = float(np.clip(tension, LEAST_TENSION, MOST_TENSION))
        return tension

    def found(self) -> Direction:
        """The trained direction."""
        return Direction(self.table, self.null, self.floor, self.tension)

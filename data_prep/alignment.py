"""Do the two sides of a parallel corpus belong together? Judged by the lengths of lines in a sample.

Translations of long sentences are long. So the log length ratio of true pairs varies much less than that of pairs matched
at random from the same lines, whatever the two languages. The score is 1 - spread(as paired) / spread(at random): 0.5 to 0.8
for translations, about 0 when one side has slipped by a line. A file that slips half-way through shows it chunk by chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAIRS_PER_CHUNK = 2000
FEWEST_PAIRS = 50
LEAST_SCORE = 0.15


@dataclass(frozen=True)
class Alignment:
    """Sums over sampled pairs, to be added up over chunks."""

    pairs: int = 0
    as_paired: float = 0.0
    """Sum of |log length ratio - median|."""
    at_random: float = 0.0
    """The same for pairs matched at random."""

    def __add__(self, other: Alignment) -> Alignment:
        return Alignment(self.pairs + other.pairs, self.as_paired + other.as_paired, self.at_random + other.at_random)

    @property
    def score(self) -> float | None:
        """1: the lengths agree perfectly; 0: no better than chance; None: too few pairs, or all of one length."""
        if self.pairs < FEWEST_PAIRS or self.at_random < 0.05 * self.pairs:
            return None
        return round(1 - self.as_paired / self.at_random, 3)

    @property
    def is_suspicious(self) -> bool:
        return self.score is not None and self.score < LEAST_SCORE


def measure(lengths: np.ndarray) -> Alignment:
    """Measure the pairs of one chunk; `lengths` in characters, int64 [2, pairs]."""
    num_pairs = lengths.shape[1]
    if num_pairs < 2:
        return Alignment()
    chosen = np.arange(0, num_pairs, max(1, num_pairs // PAIRS_PER_CHUNK))
    source, target = (np.log(side[chosen]) for side in lengths)
    partner = np.random.default_rng(0).permutation(len(chosen))  # neighbours may be alike in length
    return Alignment(len(chosen), _spread(source - target), _spread(source - target[partner]))


def _spread(ratios: np.ndarray) -> float:
    return float(np.round(np.abs(ratios - np.median(ratios)).sum(), 6))

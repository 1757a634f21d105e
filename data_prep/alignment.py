"""Do the two sides of a parallel corpus belong together, and from which line on do they not? Judged by the lengths of lines.

Translations of long sentences are long. So the logarithms of the two lengths correlate, line by line, and no longer where a
side has slipped or was shuffled, whatever the two languages.

1. Each chunk is cut into windows of some hundred pairs. A window's correlation is compared with that of its lines with lines
   nearby (`SHIFTS`), because neighbours are alike in length too: in translations it is 0.5 and more above, else near 0.
2. A window of sentences with less than LEAST is reported. Words and short phrases (a dictionary) correlate weakly, so their
   windows are judged some thousand pairs at a time, by whether the difference can be chance.
3. Pairs whose two sides are the same text are counted window by window too.

The score of a whole corpus is 1 - spread(log length ratio as paired) / spread(at random): 0.4 and more for translations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

PAIRS_PER_CHUNK = 2000
FEWEST_PAIRS = 50
WINDOW_PAIRS = 250
LEAST, LEAST_BESIDE = 0.2, 0.3
"""Of a window of sentences; of one beside a window that has less than LEAST."""
MOST_SHOWN = 8
SHIFTS = (-23, -17, -11, -7, -5, -3, -2, -1, 1, 2, 3, 5, 7, 11, 17, 23)
LEAST_SPREAD = 0.2
"""Of the log lengths of both sides: lines of one length tell nothing."""
SHORT_TEXT = 15
"""Mean characters of the longer side below which texts are words and phrases."""
SHORT_PAIRS = 2500
MOST_BY_CHANCE = 3.5
"""Standard errors of a difference that may be chance."""
MOST_SAME = 0.4
"""Share of a window's pairs that may have the same text on both sides."""
MISALIGNED, SAME = "look misaligned", "have the same text on both sides"


class Window(NamedTuple):
    """Some hundred consecutive pairs of a chunk."""

    first: int
    last: int
    """Lines."""
    pairs: int
    difference: float | None
    """Of the correlations, as paired and with lines nearby; None where the lengths tell nothing."""
    same: int
    """Pairs with the same text on both sides."""
    is_short: bool
    """Whether the texts are words and phrases."""


@dataclass(frozen=True)
class Alignment:
    """Of the pairs of a chunk, to be added up over chunks."""

    pairs: int = 0
    """Sampled for the score."""
    as_paired: float = 0.0
    """Sum of |log length ratio - median|."""
    at_random: float = 0.0
    """The same for pairs matched at random."""
    windows: list[Window] = field(default_factory=list)

    def __add__(self, other: Alignment) -> Alignment:
        sums = self.pairs + other.pairs, self.as_paired + other.as_paired, self.at_random + other.at_random
        return Alignment(*sums, _compacted([*self.windows, *other.windows]))

    @staticmethod
    def of(content: dict[str, Any], lines_before: int = 0) -> Alignment:
        """Read from a marker; its lines are counted on from those before the chunk."""
        windows = [Window(*window) for window in content.get("windows", [])]
        moved = [window._replace(first=window.first + lines_before, last=window.last + lines_before) for window in windows]
        return Alignment(**{**content, "windows": moved})

    @property
    def score(self) -> float | None:
        """1: the lengths agree perfectly; 0: no better than chance; None: too few pairs, or all of one length."""
        if self.pairs < FEWEST_PAIRS or self.at_random < 0.05 * self.pairs:
            return None
        return round(1 - self.as_paired / self.at_random, 3)

    def warnings(self) -> list[str]:
        """A line for each stretch of lines whose sides do not belong together, or are the same."""
        found = list(_stretches(_with_neighbours(self._judged())))
        more = [f"and {len(found) - MOST_SHOWN:,} more such stretches"] if len(found) > MOST_SHOWN else []
        return [*found[:MOST_SHOWN], *more]

    def _judged(self) -> list[tuple[Window, str]]:
        """Each window with what is wrong with it ('': nothing); those of words and phrases joined to larger ones."""
        judged: list[tuple[Window, str]] = []
        short: list[Window] = []
        for window in self.windows:
            if window.same > MOST_SAME * window.pairs:
                judged.append((window, SAME))
            elif not window.is_short:
                is_low = window.difference is not None and window.difference < LEAST
                judged.append((window, MISALIGNED if is_low else ""))
            elif window.difference is not None:
                short.append(window)
                if sum(one.pairs for one in short) >= SHORT_PAIRS:
                    judged.append((_joined(short), MISALIGNED if _may_be_chance(short) else ""))
                    short = []
        if short and judged and judged[-1][0].is_short:  # the rest is too few by itself
            window, fault = judged.pop()
            judged.append((window._replace(last=short[-1].last), fault))
        return judged


def measure(lengths: np.ndarray, is_same: np.ndarray, lines: np.ndarray) -> Alignment:
    """Measure the pairs of one chunk.

    lengths: in characters, int64 [2, pairs]; is_same: the same text on both sides, bool [pairs]; lines: int64 [pairs].
    """
    num_pairs = lengths.shape[1]
    if num_pairs < 2:
        return Alignment()
    chosen = np.arange(0, num_pairs, max(1, num_pairs // PAIRS_PER_CHUNK))
    source, target = (np.log(side[chosen]) for side in lengths)
    partner = np.random.default_rng(0).permutation(len(chosen))  # neighbours may be alike in length
    sums = len(chosen), _spread(source - target), _spread(source - target[partner])
    return Alignment(*sums, _compacted(_windows(lengths, is_same, lines)))


def _windows(lengths: np.ndarray, is_same: np.ndarray, lines: np.ndarray) -> Iterator[Window]:
    if len(lines) < FEWEST_PAIRS:
        return
    borders = list(range(0, max(1, len(lines) - WINDOW_PAIRS + 1), WINDOW_PAIRS))
    for first, last in zip(borders, [*borders[1:], len(lines)], strict=True):  # the last has up to twice as many
        part = slice(first, last)
        is_short = bool(lengths[:, part].mean(axis=1).max() < SHORT_TEXT)
        numbers = int(lines[first]), int(lines[last - 1]), last - first
        yield Window(*numbers, _difference(np.log(lengths[:, part])), int(is_same[part].sum()), is_short)


def _compacted(windows: Iterable[Window]) -> list[Window]:
    """The same, with one window in the place of neighbours that are beyond doubt: a corpus has millions."""
    found: list[Window] = []
    for window in windows:
        if found and _is_good(window) and _is_good(found[-1]):
            found[-1] = _joined([found[-1], window])
        else:
            found.append(window)
    return found


def _is_good(window: Window) -> bool:
    is_high = window.difference is not None and window.difference >= LEAST_BESIDE
    return is_high and not window.is_short and window.same <= MOST_SAME * window.pairs


def _difference(logs: np.ndarray) -> float | None:
    """Correlation of log lengths as paired minus the mean of those with lines nearby; float64 [2, pairs]."""
    spread = logs.std(axis=1)
    if spread.min() < LEAST_SPREAD:
        return None
    source, target = (logs - logs.mean(axis=1, keepdims=True)) / spread[:, None]
    nearby = [float(np.mean(source * np.roll(target, shift))) for shift in SHIFTS]
    return round(float(np.mean(source * target)) - sum(nearby) / len(nearby), 3)


def _with_neighbours(judged: list[tuple[Window, str]]) -> list[tuple[Window, str]]:
    """Where a side has slipped some windows come near the limit by chance; they belong to the stretch beside them."""
    for order in (range(1, len(judged)), range(len(judged) - 2, -1, -1)):
        step = -1 if order.step > 0 else 1
        for index in order:
            window, fault = judged[index]
            is_near = window.difference is not None and window.difference < LEAST_BESIDE and not window.is_short
            if not fault and is_near and judged[index + step][1] == MISALIGNED:
                judged[index] = window, MISALIGNED
    return judged


def _may_be_chance(windows: list[Window]) -> bool:
    return bool(_mean(windows) * sum(window.pairs for window in windows) ** 0.5 < MOST_BY_CHANCE)


def _mean(windows: list[Window]) -> float:
    """Mean difference, a pair one vote."""
    known = [window for window in windows if window.difference is not None]
    return sum(window.pairs * (window.difference or 0.0) for window in known) / max(1, sum(one.pairs for one in known))


def _joined(windows: list[Window]) -> Window:
    pairs, same = sum(window.pairs for window in windows), sum(window.same for window in windows)
    return windows[0]._replace(last=windows[-1].last, pairs=pairs, same=same, difference=round(_mean(windows), 3))


def _stretches(judged: Iterable[tuple[Window, str]]) -> Iterator[str]:
    for fault, group in groupby(judged, key=lambda found: found[1]):
        if not fault:
            continue
        windows = [window for window, _ in group]
        span = f"lines {windows[0].first:,} to {windows[-1].last:,} {fault}"
        told = f" (correlation of lengths {_mean(windows):.2f}; translations have 0.5 and more)"
        yield span + told * (fault == MISALIGNED)


def _spread(ratios: np.ndarray) -> float:
    return float(np.round(np.abs(ratios - np.median(ratios)).sum(), 6))

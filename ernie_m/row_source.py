"""Rows of one stream for one objective: row number v of the stream is a pure function of (seed, v), found in O(1).

1. Each shard is cut into windows of whole examples by token offset (two binary searches in the mapped offsets), so that
   one window fills a fixed number of rows; how many rows a shard gives follows from the manifest alone.
2. A window's pairs (or lines) are placed into its rows, best fit decreasing; running text flows through the rows and is
   cut at their ends instead. Plans are cached, never stored.
3. Every epoch visits every row once, in a keyed order of its own. All draws of a row come from one generator keyed by
   (seed, objective, stream, visit): masks, direction of a pair, target language of pseudo tokens.

Every example is used once an epoch; the rare one that no row of its window had room for is cut to the largest gap, and so
is the end of a window's running text (under 0.02 % of the tokens at rows of 128 and more).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from ernie_m.batch import Document, Example
from ernie_m.corpus import Shard, Stream
from ernie_m.objectives import CorruptionConfig, Objective
from ernie_m.packing import place
from ernie_m.sampling import Permutation, generator
from ernie_m.special_tokens import NO_LANGUAGE

WINDOW_POSITIONS = 16_384  # positions planned together: large enough to pack tightly, small enough to plan on the fly
TARGET_FILL = 0.985  # a window's examples take this share of its rows, so that nearly always all find room
PLANS_CACHED = 32  # of a stream of few windows; a plan takes about 100 kB
FEW_WINDOWS = 4 * PLANS_CACHED  # rows are visited in permuted order: a stream of more seldom meets a cached window again
NUM_SPECIAL = 2  # <s> and </s> around a piece of text
MIN_PIECE = 8  # tokens: running text is not cut into shorter pieces


@dataclass(frozen=True)
class Span:
    """A piece of an example: [start, stop) of the flat tokens of each sentence's column."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def num_tokens(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    def cut(self, num_tokens: Sequence[int]) -> Span:
        """The first tokens of each sentence."""
        return Span(self.starts, tuple(start + n for start, n in zip(self.starts, num_tokens, strict=True)))


@dataclass(frozen=True)
class RowLocation:
    """Where the text of a row lies: pieces of one shard. Holds numbers and, of the shard, its name until it is read."""

    shard: Shard
    spans: list[Span]

    def lines(self) -> list[tuple[int, int]]:
        """First and last line (a shard's row, from 0) that each span takes text of."""
        return [(self._line(span.starts, "right"), self._line(span.stops, "left")) for span in self.spans]

    def _line(self, borders: tuple[int, ...], side: Literal["left", "right"]) -> int:
        found = [int(np.searchsorted(o, b, side)) - 1 for o, b in zip(self.shard.offsets, borders, strict=True)]
        return min(found) if side == "right" else max(found)  # a side of a pair may hold no token: the other one knows

    def sentences(self) -> list[tuple[np.ndarray, ...]]:
        """Token ids of each span, int32, a sentence a column: nothing masked, a pair in the stream's direction."""
        return [
            tuple(column[start:stop] for column, start, stop in zip(self.shard.values, span.starts, span.stops, strict=True))
            for span in self.spans
        ]


@dataclass(frozen=True)
class RowSettings:
    """What shapes a row, for all streams alike."""

    sequence_length: int
    vocab_size: int
    corruption: CorruptionConfig
    seed: int


class RowSource:
    """All rows that `objective` makes of `stream`."""

    def __init__(
        self,
        objective: Objective,
        stream: Stream,
        language_ids: dict[str, int],
        settings: RowSettings,
        target_languages: Sequence[int] = (),
    ) -> None:
        self.objective, self.stream, self.settings = objective, stream, settings
        self.languages = tuple(language_ids[language] for language in stream.languages)
        self.target_languages = tuple(target_languages)
        self._rows_per_window = max(1, WINDOW_POSITIONS // settings.sequence_length)
        self._first_rows = np.concatenate([[0], np.cumsum(self._rows_of_shards())])  # int64 [shards + 1]
        self._key = (settings.seed, objective.name, stream.name)
        self._order: tuple[int, Permutation] | None = None
        has_few_windows = self.rows_per_epoch <= FEW_WINDOWS * self._rows_per_window
        self._plan = lru_cache(maxsize=PLANS_CACHED if has_few_windows else 1)(self._plan_window)

    @property
    def rows_per_epoch(self) -> int:
        return int(self._first_rows[-1])

    def row(self, visit: int) -> list[Document]:
        """Documents of the `visit`-th row, counted over all epochs from 0."""
        rng = generator(*self._key, "visit", visit)
        return [self._document(sentences, rng) for sentences in self.locate(visit).sentences()]

    def locate(self, visit: int) -> RowLocation:
        """Where the text of the `visit`-th row lies."""
        epoch, index = divmod(visit, self.rows_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, Permutation(self.rows_per_epoch, *self._key, "epoch", epoch))
        return RowLocation(*self._spans_of_row(self._order[1][index]))

    def _document(self, sentences: tuple[np.ndarray, ...], rng: np.random.Generator) -> Document:
        example = Example(sentences, self.languages)
        if len(sentences) == 2 and rng.random() < 0.5:
            example = Example(sentences[::-1], self.languages[::-1])
        target = NO_LANGUAGE
        if self.objective.is_pseudo_parallel:
            target = int(rng.choice(self.target_languages))
        return self.objective.lay_out(example, self.settings.corruption, self.settings.vocab_size, rng, target)

    def _spans_of_row(self, index: int) -> tuple[Shard, list[Span]]:
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        window, row = divmod(index - int(self._first_rows[number]), self._rows_per_window)
        return self.stream.shards[number], self._plan(number, window)[row]

    def _rows_of_shards(self) -> np.ndarray:
        """How many rows each shard gives, int64 [shards]: from the positions its examples take, by the manifest's totals."""
        entries, longest = self.stream.entries, self.settings.sequence_length - NUM_SPECIAL
        lines, tokens = entries.rows, entries.tokens
        merged = self.objective.merges_lines
        pieces = entries.documents + tokens.sum(axis=1) / longest if merged else lines.astype(np.float64)
        positions, filled = np.zeros(len(lines)), lines > 0
        pieces, tokens = pieces[filled], tokens[filled]
        positions[filled] = pieces * self.objective.expected_length(self.settings.corruption, *(tokens / pieces[:, None]).T)
        return np.ceil(positions / (self.settings.sequence_length * TARGET_FILL)).astype(np.int64)

    def _plan_window(self, number: int, window: int) -> list[list[Span]]:
        shard, num_rows = self.stream.shards[number], int(self._first_rows[number + 1] - self._first_rows[number])
        first, last = window * self._rows_per_window, min((window + 1) * self._rows_per_window, num_rows)
        lines = [_line_at(shard, row / num_rows) for row in (first, last)]
        planned = self._flowing if self.objective.merges_lines else self._fitting
        return planned(shard, lines[0], lines[1], last - first)

    def _fitting(self, shard: Shard, first: int, last: int, num_rows: int) -> list[list[Span]]:
        """One span a line or pair, placed whole."""
        capacity = self.settings.sequence_length
        spans, lengths = self._single(shard, first, last)
        rows, left_over = place(lengths, capacity, num_rows)
        planned = [[spans[i] for i in row] for row in rows]
        room = [capacity - sum(lengths[i] for i in row) for row in rows]
        for item in left_over:
            widest = max(range(num_rows), key=room.__getitem__)
            kept = self.objective.fitted(self.settings.corruption, spans[item].num_tokens, room[widest])
            if kept is not None:
                planned[widest].append(spans[item].cut(kept))
                room[widest] -= self._length(kept)
        return planned

    def _length(self, num_tokens: Sequence[int]) -> int:
        return int(self.objective.length(self.settings.corruption, *num_tokens))

    def _single(self, shard: Shard, first: int, last: int) -> tuple[list[Span], list[int]]:
        """One span a line or pair and the positions it takes; one longer than a row is cut to fit it."""
        borders = [offsets[first : last + 1] for offsets in shard.offsets]
        lengths = self.objective.length(self.settings.corruption, *(np.diff(border) for border in borders)).tolist()
        starts = zip(*(border[:-1].tolist() for border in borders), strict=True)
        stops = zip(*(border[1:].tolist() for border in borders), strict=True)
        spans = list(map(Span, starts, stops))
        for line, length in enumerate(lengths):
            if length > self.settings.sequence_length:
                kept = self.objective.fitted(self.settings.corruption, spans[line].num_tokens, self.settings.sequence_length)
                assert kept is not None, "rows of 16 or more hold a token of each sentence"
                spans[line], lengths[line] = spans[line].cut(kept), self._length(kept)
        return spans, lengths

    def _flowing(self, shard: Shard, first: int, last: int, num_rows: int) -> list[list[Span]]:
        """Lines of a document joined to running text, which fills row after row."""
        borders = shard.offsets[0][first : last + 1].tolist()
        document_starts = [0, *(np.flatnonzero(shard.starts_document[first + 1 : last]) + 1).tolist(), last - first]
        planned: list[list[Span]] = [[]]
        room = self.settings.sequence_length
        for begin, end in itertools.pairwise(document_starts):
            start, stop = borders[begin], borders[end]
            while start < stop:
                if room < NUM_SPECIAL + min(MIN_PIECE, stop - start):
                    if len(planned) == num_rows:
                        return planned
                    planned.append([])
                    room = self.settings.sequence_length
                piece = Span((start,), (min(stop, start + room - NUM_SPECIAL),))
                planned[-1].append(piece)
                room -= NUM_SPECIAL + piece.num_tokens[0]
                start = piece.stops[0]
        return planned + [[] for _ in range(num_rows - len(planned))]


def _line_at(shard: Shard, fraction: float) -> int:
    """First line that starts at or behind this fraction of the shard's tokens (all its sentences together)."""
    target = round(fraction * sum(shard.entry.tokens))
    return bisect.bisect_left(range(shard.entry.rows), target, key=lambda row: sum(int(o[row]) for o in shard.offsets))

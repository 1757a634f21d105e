"""Rows of one stream for one objective: row number v of the stream is a pure function of (seed, v), found in O(1).

1. Each shard is cut into windows of whole examples by token offset (two binary searches in the mapped offsets), so that
   one window fills a fixed number of rows; how many rows a shard gives follows from the manifest alone.
2. A window's pairs (or lines) are placed into its rows, best fit decreasing; running text flows through the rows and is
   cut at their ends instead. Plans are cached, never stored.
3. Every epoch visits every row once, in a keyed order of its own. All draws of an example come from a key of its own, which
   follows from (seed, objective, stream, visit) and its number in the row: direction of a pair, target language, masks.

Every example is used once an epoch; the rare one that no row of its window had room for is cut to the largest gap, and so
is the end of a window's running text (under 0.02 % of the tokens at rows of 128 and more).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from ernie_m.batch import Documents, Examples
from ernie_m.corpus import Shard, Stream
from ernie_m.objectives import CorruptionConfig, Objective
from ernie_m.packing import NO_ROW, place
from ernie_m.sampling import Permutation, key_of, mix
from ernie_m.special_tokens import NO_LANGUAGE

WINDOW_POSITIONS = 16_384  # positions planned together: large enough to pack tightly, small enough to plan on the fly
TARGET_FILL = 0.985  # a window's examples take this share of its rows, so that nearly always all find room
PLANS_CACHED = 32  # of a stream of few windows; a plan takes 10-20 kB
FEW_WINDOWS = 4 * PLANS_CACHED  # rows are visited in permuted order: a stream of more seldom meets a cached window again
NUM_SPECIAL = 2  # <s> and </s> around a piece of text
MIN_PIECE = 8  # tokens: running text is not cut into shorter pieces
NO_TOKENS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class RowLocation:
    """Where the text of a row lies: of each example's sentences, [start, stop) of the flat tokens of a shard's column."""

    shard: Shard
    starts_EC: np.ndarray
    stops_EC: np.ndarray

    def lines(self) -> list[tuple[int, int]]:
        """First and last line (a shard's row, from 0) that each example takes text of."""
        first_EC, last_EC = self._lines(self.starts_EC, "right"), self._lines(self.stops_EC, "left")
        # a side of a pair may hold no token: the other one knows
        return list(zip(first_EC.min(axis=1).tolist(), last_EC.max(axis=1).tolist(), strict=True))

    def _lines(self, borders_EC: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        columns = zip(self.shard.offsets, borders_EC.T, strict=True)
        return np.stack([np.searchsorted(offsets, borders, side) - 1 for offsets, borders in columns], axis=1)

    def sentences(self) -> list[tuple[np.ndarray, ...]]:
        """Token ids of each example, int32, a sentence a column: nothing masked, a pair in the stream's direction."""
        columns = zip(self.shard.values, self.starts_EC.T.tolist(), self.stops_EC.T.tolist(), strict=True)
        sentences = [[values[a:b] for a, b in zip(starts, stops, strict=True)] for values, starts, stops in columns]
        return list(zip(*sentences, strict=True))


class WindowPlan(NamedTuple):
    """The text of a window's rows, as in RowLocation: of row r, examples [first_R1[r], first_R1[r + 1])."""

    starts_EC: np.ndarray
    stops_EC: np.ndarray
    first_R1: np.ndarray


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
        self.target_languages = np.array(target_languages, np.int64)
        self._rows_per_window = max(1, WINDOW_POSITIONS // settings.sequence_length)
        self._first_rows = np.concatenate([[0], np.cumsum(self._rows_of_shards())])  # int64 [shards + 1]
        self._key = (settings.seed, objective.name, stream.name)
        self._draws_key = key_of(*self._key, "draws")
        self._order: tuple[int, Permutation] | None = None
        has_few_windows = self.rows_per_epoch <= FEW_WINDOWS * self._rows_per_window
        self._plan = lru_cache(maxsize=PLANS_CACHED if has_few_windows else 1)(self._plan_window)

    @property
    def rows_per_epoch(self) -> int:
        return int(self._first_rows[-1])

    def row(self, visit: int) -> Documents:
        """Documents of the `visit`-th row, counted over all epochs from 0."""
        return self.objective.lay_out_all(self.examples(visit), self.settings.corruption, self.settings.vocab_size)

    def examples(self, visit: int) -> Examples:
        """The examples of the `visit`-th row, pairs in the direction they are drawn in."""
        location = self.locate(visit)
        lengths_EC = (location.stops_EC - location.starts_EC).astype(np.int64)
        languages_EC = np.tile(np.array(self.languages), (len(lengths_EC), 1))
        keys_E, choices_E = (
            mix(mix(self._draws_key + visit) + np.arange(2 * len(lengths_EC), dtype=np.uint64)).reshape(-1, 2).T
        )
        sentences = location.sentences()
        if len(self.languages) == 2:
            is_turned_E = choices_E >> 63 == 1
            sentences = [
                pair[::-1] if turned else pair for pair, turned in zip(sentences, is_turned_E.tolist(), strict=True)
            ]
            for both_EC in (lengths_EC, languages_EC):
                both_EC[is_turned_E] = both_EC[is_turned_E, ::-1]
        targets_E = np.full(len(lengths_EC), NO_LANGUAGE)
        if self.objective.is_pseudo_parallel:
            targets_E = self.target_languages[(choices_E & 0xFFFFFFFF) * len(self.target_languages) >> 32]
        tokens = itertools.chain.from_iterable(sentences)
        return Examples(np.concatenate([NO_TOKENS, *tokens]), lengths_EC, languages_EC, keys_E, targets_E)

    def locate(self, visit: int) -> RowLocation:
        """Where the text of the `visit`-th row lies."""
        epoch, index = divmod(visit, self.rows_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, Permutation(self.rows_per_epoch, *self._key, "epoch", epoch))
        return self._location(self._order[1][index])

    def _location(self, index: int) -> RowLocation:
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        window, row = divmod(index - int(self._first_rows[number]), self._rows_per_window)
        plan = self._plan(number, window)
        examples = slice(*plan.first_R1[row : row + 2].tolist())
        return RowLocation(self.stream.shards[number], plan.starts_EC[examples], plan.stops_EC[examples])

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

    def _plan_window(self, number: int, window: int) -> WindowPlan:
        shard, num_rows = self.stream.shards[number], int(self._first_rows[number + 1] - self._first_rows[number])
        first, last = window * self._rows_per_window, min((window + 1) * self._rows_per_window, num_rows)
        lines = [_line_at(shard, row / num_rows) for row in (first, last)]
        planned = self._flowing if self.objective.merges_lines else self._fitting
        return planned(shard, lines[0], lines[1], last - first)

    def _fitting(self, shard: Shard, first: int, last: int, num_rows: int) -> WindowPlan:
        """Lines or pairs placed whole; one longer than a row, or without room in any, is cut to fit."""
        capacity = self.settings.sequence_length
        borders = np.stack([offsets[first : last + 1] for offsets in shard.offsets], axis=1)
        starts_EC, num_tokens_EC = borders[:-1], np.diff(borders, axis=0)
        lengths_E = self._lengths(num_tokens_EC)
        for line in np.flatnonzero(lengths_E > capacity).tolist():
            self._cut(num_tokens_EC, lengths_E, line, capacity)
        rows_E = place(lengths_E, capacity, num_rows)
        rows_E[num_tokens_EC.min(axis=1) == 0] = NO_ROW  # a pair with an empty side teaches nothing and is left out
        left_over = np.flatnonzero(rows_E == NO_ROW)
        for line in left_over[np.argsort(-lengths_E[left_over], kind="stable")].tolist():
            room = capacity - np.bincount(rows_E + 1, lengths_E, num_rows + 1)[1:]
            if self._cut(num_tokens_EC, lengths_E, line, int(room.max())):
                rows_E[line] = room.argmax()
        by_row = np.argsort(rows_E, kind="stable")
        first_R1 = np.searchsorted(rows_E[by_row], np.arange(num_rows + 1))
        starts_EC, num_tokens_EC = starts_EC[by_row], num_tokens_EC[by_row]
        return WindowPlan(starts_EC, starts_EC + num_tokens_EC, first_R1)

    def _lengths(self, num_tokens_EC: np.ndarray) -> np.ndarray:
        return np.asarray(self.objective.length(self.settings.corruption, *num_tokens_EC.T), np.int64)

    def _cut(self, num_tokens_EC: np.ndarray, lengths_E: np.ndarray, line: int, room: int) -> bool:
        """Cut this line in place to fit `room` positions; False, and nothing is changed, when not even a token each fits."""
        kept = self.objective.fitted(self.settings.corruption, num_tokens_EC[line].tolist(), room)
        if kept is not None:
            num_tokens_EC[line] = kept
            lengths_E[line] = self._lengths(num_tokens_EC[line : line + 1])[0]
        return kept is not None

    def _flowing(self, shard: Shard, first: int, last: int, num_rows: int) -> WindowPlan:
        """Lines of a document joined to running text, which fills row after row."""
        capacity, borders = self.settings.sequence_length, shard.offsets[0][first : last + 1]
        is_first = np.array(shard.starts_document[first:last], bool)
        is_first[:1] = True
        begins = np.unique(borders[:-1][is_first])
        begins = begins[begins < borders[-1]]  # documents that hold tokens
        needed = np.cumsum(np.diff(begins, append=borders[-1]) + NUM_SPECIAL)
        before, starts = [0, *needed.tolist()], begins.tolist()  # of each document: positions of all before it, first token
        rows: list[int] = []  # the first token of each
        document, read = 0, 0  # the next row begins behind the first `read` tokens of this document
        while document < len(starts) and len(rows) < num_rows:
            rows.append(starts[document] + read)
            behind = bisect.bisect_right(before, before[document] + read + capacity) - 1  # the first that does not fit whole
            if behind == document:
                read += capacity - NUM_SPECIAL
                continue
            room = before[document] + read + capacity - before[behind]
            document, read = behind, room - NUM_SPECIAL if room >= NUM_SPECIAL + MIN_PIECE else 0
        end = starts[document] + read if document < len(starts) else int(borders[-1])
        pieces = np.union1d(begins, rows).astype(np.int32)
        pieces = pieces[pieces < end]
        first_R1 = np.searchsorted(pieces, [*rows, *[end] * (num_rows + 1 - len(rows))])
        return WindowPlan(pieces[:, None], np.append(pieces[1:], end)[: len(pieces), None], first_R1)


def _line_at(shard: Shard, fraction: float) -> int:
    """First line that starts at or behind this fraction of the shard's tokens (all its sentences together)."""
    target = round(fraction * sum(shard.entry.tokens))
    return bisect.bisect_left(range(shard.entry.rows), target, key=lambda row: sum(int(o[row]) for o in shard.offsets))

"""Rows of one stream for one objective: row number v of the stream is a pure function of (seed, v), found in O(1).

1. The number of rows of a shard follows from the manifest: from the number of positions that its text takes, with the
   special tokens that are added where a pair is cut at the end of a row.
2. A shard is cut into windows of whole examples with equal numbers of positions (two binary searches in the mapped offsets),
   so that each window fills a fixed number of rows. A line longer than a row may also be cut at the border of a window.
3. The text of a window is put into its rows (ernie_m.rows.window_plan), so that none is empty. Plans are cached, not stored.
4. Every epoch visits every row once, in its own pseudo-random order. Each example has its own random key, which follows from
   (seed, objective, stream, visit) and its number in the row. From it come the direction of a pair, the target language and
   the masks.

An epoch uses all text once. Only a window whose text takes more positions than estimated leaves some out: under 0.1 % of the
tokens of real text.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ernie_m.base.sampling import Permutation, key_of, mix
from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.corpus.columns import COLUMNS
from ernie_m.corpus.folder import Shard, Stream
from ernie_m.rows.batch import Documents, Examples
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.half_rows import HalfRows, turned
from ernie_m.rows.layout import Layout, Positions
from ernie_m.rows.objective import Objective
from ernie_m.rows.row_location import RowLocation
from ernie_m.rows.window_plan import NUM_SPECIAL, Fitting, WindowPlan, flowing, parted

WINDOW_POSITIONS = 16_384  # positions planned together: enough to pack tightly, few enough to plan during training
LEAST_ROWS = 32  # of a window: its borders are moved to the end of a line, by up to a row
TARGET_FILL = 0.985  # a window's examples take this share of its rows, so that nearly always all have room
PLANS_CACHED = 32  # plans, for a stream of few windows; a plan takes 10-20 kB
FEW_WINDOWS = 4 * PLANS_CACHED  # rows are visited in random order: with more windows, the next row is seldom in a cached one
CUT_FROM, HALF_CUT = 0.3, 0.65  # see _measure
NO_TOKENS = np.zeros(0, np.int32)


class Border(NamedTuple):
    """Where a window begins: its first whole line, and its first token in each column, which may be in the line before."""

    line: int
    token_C: np.ndarray


class Measure(NamedTuple):
    """Positions that the text of shards takes, each array [shards].

    `positions`: in all. `weight`: what each line takes besides its tokens (special tokens, masks), in tokens. In running
    text only documents take these; the manifest knows how many lines a document has on average.
    """

    positions: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class RowSettings:
    """What shapes a row; the same for all streams."""

    sequence_length: int
    specials: Specials
    corruption: CorruptionConfig
    seed: int
    longest_document: int | None = None
    """Positions that one document may take; None: the whole row."""
    positions: Positions = "running"
    begins_word: np.ndarray | None = field(default=None, repr=False, compare=False)
    """Of each id whether a word begins with it; for noise alone."""

    @property
    def document_positions(self) -> int:
        """Positions that one document may take."""
        return min(self.sequence_length, self.longest_document or self.sequence_length)

    def layout(self, objective: Objective) -> Layout:
        """How an objective's examples are laid out in these rows."""
        return Layout(objective, self.corruption, self.specials, self.positions, self.begins_word)

    def holds(self, tokens_T: np.ndarray) -> bool:
        """Whether the vocabulary holds all these tokens of text."""
        return bool(self.specials.are_text(tokens_T).all())


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
        self._rows_per_window = max(LEAST_ROWS, WINDOW_POSITIONS // settings.sequence_length)
        self.layout = settings.layout(objective)
        self._fitting = (Fitting if objective.cuts else HalfRows)(self.layout, settings.sequence_length)
        self._first_rows = np.concatenate([[0], np.cumsum(self._rows_of_shards())])  # int64 [shards + 1]
        self._key = (settings.seed, objective.name, stream.name)
        self._draws_key = key_of(*self._key, "draws")
        self._order: tuple[int, Permutation] | None = None
        has_few_windows = self.rows_per_epoch <= FEW_WINDOWS * self._rows_per_window
        self._plan = lru_cache(maxsize=PLANS_CACHED if has_few_windows else 1)(self._plan_window)

    @property
    def rows_per_epoch(self) -> int:
        """Rows that use all text of the stream once."""
        return int(self._first_rows[-1])

    def without_room(self, most_lines: int) -> float:
        """Share of the first lines that no row takes: of translations, which are not cut, those longer than half a row."""
        if not isinstance(self._fitting, HalfRows):
            return 0.0
        looked_at, taken = 0, 0
        for shard in self.stream.shards:
            lines = min(shard.entry.rows, most_lines - looked_at)
            starts_EC = shard.borders(0, lines)
            sizes_EC = self._none_too_long(starts_EC[:-1], np.diff(starts_EC, axis=0))[1]
            looked_at, taken = looked_at + lines, taken + int(self._fitting.have_room(self.layout.sides(sizes_EC)).sum())
            if looked_at == most_lines:
                break
        return 1 - taken / max(1, looked_at)

    def row(self, visit: int) -> Documents:
        """Documents of the `visit`-th row, counted over all epochs from 0."""
        return self.layout.lay_out_all(self.examples(visit))

    def examples(self, visit: int) -> Examples:
        """Examples of the `visit`-th row; each pair in its drawn direction."""
        location = self.locate(visit)
        lengths_EC = (location.stops_EC - location.starts_EC).astype(np.int64)
        languages_EC = np.tile(np.array(self.languages), (len(lengths_EC), 1))
        keys_E, choices_E = (
            mix(mix(self._draws_key + visit) + np.arange(2 * len(lengths_EC), dtype=np.uint64)).reshape(-1, 2).T
        )
        sentences, is_turned_E = location.sentences(), np.zeros(len(lengths_EC), bool)
        if len(self.languages) == 2:
            is_turned_E = self._turned(choices_E >> 63 == 1, lengths_EC)
            sentences = [
                pair[::-1] if turned else pair for pair, turned in zip(sentences, is_turned_E.tolist(), strict=True)
            ]
            for both_EC in (lengths_EC, languages_EC):
                both_EC[is_turned_E] = both_EC[is_turned_E, ::-1]
        targets_E = np.full(len(lengths_EC), NO_LANGUAGE)
        if self.objective.generates:
            targets_E = self.target_languages[(choices_E & 0xFFFFFFFF) * len(self.target_languages) >> 32]
        tokens = itertools.chain.from_iterable(sentences)
        columns = {name: self._column(name, location, lengths_EC, is_turned_E) for name in self.objective.columns}
        return Examples(np.concatenate([NO_TOKENS, *tokens]), lengths_EC, languages_EC, keys_E, targets_E, columns)

    @staticmethod
    def _column(name: str, location: RowLocation, lengths_EC: np.ndarray, is_turned_E: np.ndarray) -> np.ndarray:
        """The items of a column as indices into the tokens of all examples; `lengths_EC` in the drawn direction."""
        items_IW, example_I = location.items(name)
        begins_EC = (np.cumsum(lengths_EC) - lengths_EC.ravel()).reshape(lengths_EC.shape)
        place_IW = np.array(COLUMNS[name].sentences) ^ is_turned_E[example_I][:, None]
        return items_IW + begins_EC[example_I[:, None], place_IW]

    def _turned(self, drawn_E: np.ndarray, lengths_EC: np.ndarray) -> np.ndarray:
        """Which pairs stand second side first: each as drawn, or where sides have halves, all of the row together."""
        return turned(self.layout.sides(lengths_EC)) ^ drawn_E[:1] if self.objective.halves else drawn_E

    def locate(self, visit: int) -> RowLocation:
        """Where the text of the `visit`-th row is."""
        epoch, index = divmod(visit, self.rows_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, Permutation(self.rows_per_epoch, *self._key, "epoch", epoch))
        return self._location(self._order[1][index])

    def _location(self, index: int) -> RowLocation:
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        row, last = index - int(self._first_rows[number]), self._num_windows(number) - 1
        window = min(row // self._rows_per_window, last)  # the last takes the rest: a short window could be inside a line
        plan = self._plan(number, window)
        row -= window * self._rows_per_window
        examples = slice(*plan.first_R1[row : row + 2].tolist())
        return RowLocation(self.stream.shards[number], plan.starts_EC[examples], plan.stops_EC[examples])

    def _num_rows(self, number: int) -> int:
        return int(self._first_rows[number + 1] - self._first_rows[number])

    def _num_windows(self, number: int) -> int:
        return max(1, self._num_rows(number) // self._rows_per_window)

    def _rows_of_shards(self) -> np.ndarray:
        """Number of rows of each shard, int64 [shards], from the totals in the manifest."""
        entries = self.stream.entries
        positions = self._measure(entries.rows, entries.tokens, entries.documents).positions
        return np.ceil(positions / (self.settings.sequence_length * TARGET_FILL)).astype(np.int64)

    def _measure(self, lines: np.ndarray, tokens: np.ndarray, documents: np.ndarray) -> Measure:
        """The positions that shards with these totals take; `tokens` [shards, languages].

        `cut` is the share of rows at whose end an example is cut. It is near 0 if examples are short against a row, near 1
        if they are many rows long. In between, the formula fits real pairs within 0.1: 0.5 % of the positions at length 128.
        """
        objective, layout, length = self.objective, self.layout, self.settings.sequence_length
        positions, weight, filled = np.zeros(len(lines)), np.zeros(len(lines)), lines > 0
        tokens, text = tokens[filled], tokens[filled].sum(axis=1)
        whole = (documents if objective.merges_lines else lines)[filled].astype(np.float64)
        per_token = layout.positions_per_token
        in_a_row = (length - layout.num_special) / per_token  # tokens
        if objective.merges_lines:
            cut = np.ones(len(text))  # at every row's end
        else:
            of_each = layout.expected_length(*(tokens / whole[:, None]).T)
            above = np.maximum(0, of_each / length - CUT_FROM) * objective.cuts
            cut = above / (above + HALF_CUT)
        pieces = whole + cut * text / in_a_row
        of_piece = layout.expected_length(*(tokens / pieces[:, None]).T)
        beside_tokens = of_piece - per_token * text / pieces
        positions[filled] = pieces * of_piece
        weight[filled] = beside_tokens / (per_token + beside_tokens * cut / in_a_row) * (whole / lines[filled])
        return Measure(positions, weight)

    def _plan_window(self, number: int, window: int) -> WindowPlan:
        shard, num_rows = self.stream.shards[number], self._num_rows(number)
        is_last = window + 1 == self._num_windows(number)
        first = window * self._rows_per_window
        last = num_rows if is_last else first + self._rows_per_window
        begin, end = (self._border(shard, row / num_rows) for row in (first, last))
        borders_EC = np.minimum(shard.borders(begin.line, end.line), end.token_C)
        if is_cut := bool((begin.token_C < borders_EC[0]).any()):
            borders_EC = np.concatenate([begin.token_C[None], borders_EC])
        if not self.objective.merges_lines:
            starts_EC, sizes_EC = self._none_too_long(borders_EC[:-1], np.diff(borders_EC, axis=0))
            return self._fitting.plan(starts_EC, sizes_EC, last - first)
        starts_E, stop = borders_EC[:-1, 0], int(borders_EC[-1, 0])
        is_first = np.concatenate([[True] * is_cut, shard.starts_document[begin.line : end.line]]).astype(bool)
        is_first[:1] = True
        begins = np.unique(starts_E[is_first])
        begins = begins[begins < stop]
        if self.settings.longest_document:
            begins = parted(begins, stop, self.settings.document_positions - NUM_SPECIAL)
        return flowing(begins, stop, self.settings.sequence_length, last - first)

    def _none_too_long(self, starts_EC: np.ndarray, sizes_EC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples as they are, but those longer than a document may be as several, cut on all sides in proportion."""
        lengths_E = np.asarray(self.layout.length(*sizes_EC.T), np.int64)
        too_long = np.flatnonzero((lengths_E > self.settings.document_positions) & (sizes_EC.min(axis=1) > 0))
        if self.settings.longest_document is None or not len(too_long):
            return starts_EC, sizes_EC
        if not self.objective.cuts:
            return np.delete(starts_EC, too_long, axis=0), np.delete(sizes_EC, too_long, axis=0)
        parts = [self._parts(starts_EC[e], sizes_EC[e]) for e in too_long.tolist()]
        starts = np.concatenate([np.delete(starts_EC, too_long, axis=0), *(of_part for of_part, _ in parts)])
        return starts, np.concatenate([np.delete(sizes_EC, too_long, axis=0), *(of_part for _, of_part in parts)])

    def _parts(self, start_C: np.ndarray, size_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One example as pieces that a document has room for; a rest with an empty side teaches nothing."""
        starts, sizes = [], []
        while size_C.min() > 0:
            fitted = self.layout.fitted(size_C.tolist(), self.settings.document_positions)
            if fitted is None:
                break
            starts.append(start_C)
            sizes.append(np.array(fitted))
            start_C, size_C = start_C + sizes[-1], size_C - sizes[-1]
        return np.array(starts).reshape(-1, len(start_C)), np.array(sizes).reshape(-1, len(start_C))

    def _border(self, shard: Shard, fraction: float) -> Border:
        """The border behind this fraction of a shard's positions: at the end of a line, or inside one longer than a row."""
        entry, offsets = shard.entry, shard.offsets
        totals = np.array([entry.rows]), np.array([entry.tokens]), np.array([entry.documents])
        weight = float(self._measure(*totals).weight[0])
        shard.check_mapped()

        def before(line: int) -> float:
            """Positions of all lines before this one; the unit is a token."""
            return sum(int(o[line]) for o in offsets) + line * weight

        target = fraction * before(entry.rows)
        line = entry.rows if fraction == 1 else bisect.bisect_left(range(entry.rows), target, key=before)
        begin_C, end_C = (np.array([int(o[max(0, n)]) for o in offsets]) for n in (line - 1, line))
        tokens_C = end_C - begin_C
        if fraction in (0, 1) or not self.objective.cuts or tokens_C.sum() <= self.settings.sequence_length:
            return Border(line, end_C)
        share = min(int(tokens_C.sum()), max(0, round(target - before(line - 1))))
        return Border(line, begin_C + np.array(self.layout.cut(tokens_C.tolist(), share)))

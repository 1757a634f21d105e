"""Where the text of a row is in its shard, and what is read there: ids, lines, items of optional columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.columns import COLUMNS
from ernie_m.corpus.folder import Shard


@dataclass(frozen=True)
class RowLocation:
    """Where the text of a row is: for each sentence of each example, tokens [start, stop) of a column of the shard."""

    shard: Shard
    starts_EC: np.ndarray
    stops_EC: np.ndarray

    def check_ids(self, specials: Specials) -> None:
        """Raise InputError, naming file and row, if an id of the text is not in this vocabulary."""
        self.shard.check_ids(specials, self.starts_EC, self.stops_EC)

    def lines(self) -> list[tuple[int, int]]:
        """First and last line of each example's text, counted from 0 in the shard."""
        first_EC, last_EC = self._lines(self.starts_EC, "right"), self._lines(self.stops_EC, "left")
        # one side of a pair may have no token; then the other side decides
        return list(zip(first_EC.min(axis=1).tolist(), last_EC.max(axis=1).tolist(), strict=True))

    def items(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Items of an optional column inside the examples: int64 [I, W], and the example of each, int64 [I].

        The k-th integer counts the tokens of its sentence in the example (ernie_m.corpus.columns). An item that points
        outside of the part of a line that the example has is left out.
        """
        sentences, shard = list(COLUMNS[column].sentences), self.shard
        first_E, last_E = np.array(self.lines(), np.int64).reshape(-1, 2).T
        lines = ranges(first_E, last_E - first_E + 1)
        items_IW, counts = shard.items_of(column, lines)
        line_I, example_I = (
            np.repeat(of_line, counts) for of_line in (lines, np.repeat(np.arange(len(first_E)), last_E - first_E + 1))
        )
        tokens_IW = items_IW + np.stack([shard.offsets[sentence][line_I] for sentence in sentences], axis=1).astype(np.int64)
        starts_IW, stops_IW = (borders_EC[example_I][:, sentences] for borders_EC in (self.starts_EC, self.stops_EC))
        inside_I = ((tokens_IW >= starts_IW) & (tokens_IW < stops_IW)).all(axis=1)
        return (tokens_IW - starts_IW)[inside_I], example_I[inside_I]

    def _lines(self, borders_EC: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        columns = zip(self.shard.offsets, borders_EC.T, strict=True)
        return np.stack([np.searchsorted(offsets, borders, side) - 1 for offsets, borders in columns], axis=1)

    def sentences(self) -> list[tuple[np.ndarray, ...]]:
        """Token ids of each example, int32, one sentence per column; nothing masked, pairs in the stream's direction."""
        self.shard.check_mapped()
        columns = zip(self.shard.values, self.starts_EC.T.tolist(), self.stops_EC.T.tolist(), strict=True)
        sentences = [[values[a:b] for a, b in zip(starts, stops, strict=True)] for values, starts, stops in columns]
        return list(zip(*sentences, strict=True))

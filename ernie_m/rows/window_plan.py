"""Puts the text of a window into its rows: every row gets text, and all text that has room is used.

1. `flowing`: running text fills one row after the other and is cut at their ends.
2. `Fitting`: lines or pairs are placed whole, by best fit decreasing. Some have no room or are longer than a row. These are
   packed again, together with the content of the emptiest rows, as few of these as possible. A row takes the longest piece
   that fits. If that leaves too much room, the longest piece of all is cut at the end of the row (a pair on both sides, in
   proportion), and its rest goes on in a later row. So rows are full at any sequence length.
3. If text is scarce and a row would stay empty, it takes half of another row's text.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie_m.rows.layout import Layout
from ernie_m.rows.packing import NO_ROW, place

NUM_SPECIAL = 2  # around a piece of running text
MIN_PIECE = 8  # tokens: no piece that is cut is shorter (in very short rows, see PIECES_PER_ROW)
PIECES_PER_ROW = 16  # a row has room for at least about so many pieces of the least length
TIGHT = 1 / 64  # of a row: if no more room is left at its end, nothing is cut to fill it


class WindowPlan(NamedTuple):
    """Where the text of a window's rows is: for each sentence of each example, tokens [start, stop) of its column.

    Row r has examples [first_R1[r], first_R1[r + 1]).
    """

    starts_EC: np.ndarray
    stops_EC: np.ndarray
    first_R1: np.ndarray


class Piece(NamedTuple):
    """Tokens [begin, begin + size) of each sentence of an example. `length`: positions they take; pieces sort by it."""

    length: int
    example: int
    begin: tuple[int, ...]
    size: tuple[int, ...]


class Fitting:
    """Places examples of one layout into rows of `capacity` positions."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self._layout, self._capacity = layout, capacity
        self._least = max(1, min(MIN_PIECE, capacity // PIECES_PER_ROW))

    def plan(self, starts_EC: np.ndarray, num_tokens_EC: np.ndarray, num_rows: int) -> WindowPlan:
        """Put these examples into rows. An example with an empty sentence teaches nothing and is left out."""
        starts_EC, num_tokens_EC = (a[num_tokens_EC.min(axis=1) > 0] for a in (starts_EC, num_tokens_EC))
        lengths_E = np.asarray(self._layout.length(*num_tokens_EC.T), np.int64)
        rows_E = place(lengths_E, self._capacity, num_rows)
        if (rows_E == NO_ROW).any():
            rows_R, filled = self._with_the_emptiest_rows(num_tokens_EC, lengths_E, rows_E, num_rows)
            rows = [row for row, own in zip(rows_R, filled, strict=True) for _ in own]
            pieces = [piece for own in filled for piece in own]
            stays, of_pieces = ~np.isin(rows_E, [NO_ROW, *rows_R]), [piece.example for piece in pieces]
            rows_E = np.concatenate([rows_E[stays], rows])
            starts_EC = np.concatenate([starts_EC[stays], starts_EC[of_pieces] + [piece.begin for piece in pieces]])
            num_tokens_EC = np.concatenate([num_tokens_EC[stays], [piece.size for piece in pieces]])
        return planned(rows_E, starts_EC, num_tokens_EC, num_rows)

    def _with_the_emptiest_rows(
        self, num_tokens_EC: np.ndarray, lengths_E: np.ndarray, rows_E: np.ndarray, num_rows: int
    ) -> tuple[list[int], list[list[Piece]]]:
        """Pack examples without a row, with the content of the emptiest rows. Returns these rows and their pieces."""
        room_R = self._capacity - np.bincount(rows_E + 1, lengths_E, num_rows + 1)[1:].astype(np.int64)
        emptiest = np.argsort(-room_R, kind="stable")
        room_of_first, needed = np.cumsum(room_R[emptiest]), int(lengths_E[rows_E == NO_ROW].sum())
        best: tuple[int, list[int], list[list[Piece]]] | None = None
        while True:
            chosen = emptiest[: int(np.searchsorted(room_of_first, needed)) + 1]
            examples = np.flatnonzero(np.isin(rows_E, [NO_ROW, *chosen]))
            sizes = zip(lengths_E[examples].tolist(), examples.tolist(), num_tokens_EC[examples].tolist(), strict=True)
            pool = [Piece(length, example, (0,) * len(count), tuple(count)) for length, example, count in sizes]
            filled, left = self._filled(sorted(pool), len(chosen))
            if best is None or left < best[0]:
                best = left, chosen.tolist(), filled
            if left == 0 or left > best[0] or len(chosen) == num_rows:
                return best[1:]
            needed = int(room_of_first[len(chosen) - 1]) + left

    def _filled(self, pool: list[Piece], num_rows: int) -> tuple[list[list[Piece]], int]:
        """Fill rows with these sorted pieces, one row after the other. Returns them, and how many positions had no room."""
        rows: list[list[Piece]] = []
        for _ in range(num_rows):
            rows.append([])
            room = self._capacity
            while pool and room > 0:
                fitting = bisect.bisect_left(pool, (room + 1,)) - 1  # the longest that fits whole
                is_tight = fitting >= 0 and room - pool[fitting].length <= self._capacity * TIGHT
                piece, rest = None, None
                if fitting < len(pool) - 1 and not is_tight:
                    piece, rest = self._cut(pool[-1], room)
                if piece is not None:
                    pool.pop()
                    if rest is not None:
                        bisect.insort(pool, rest)
                elif fitting >= 0:
                    piece = pool.pop(fitting)
                else:
                    break
                rows[-1].append(piece)
                room -= piece.length
        return rows, sum(piece.length for piece in pool)

    def _cut(self, whole: Piece, room: int) -> tuple[Piece | None, Piece | None]:
        """The longest part of the piece that fits, and the rest; (None, None) if one of them would be too short."""
        count = self._layout.fitted(whole.size, room)
        total = sum(whole.size)
        if count is not None and total - sum(count) < self._least:
            count = self._layout.cut(whole.size, max(0, total - self._least))
        if count is None or sum(count) < self._least or min(count) == 0:
            return None, None
        begin = tuple(b + n for b, n in zip(whole.begin, count, strict=True))
        rest = tuple(n - own for n, own in zip(whole.size, count, strict=True))
        of_rest = Piece(self._length(rest), whole.example, begin, rest) if min(rest) > 0 else None  # else it teaches nothing
        return Piece(self._length(count), whole.example, whole.begin, count), of_rest

    def _length(self, tokens: Sequence[int]) -> int:
        return self._layout.length(*tokens)


def parted(starts_E: np.ndarray, end: int, most: int) -> np.ndarray:
    """Where documents of running text begin, so that none has more than `most` tokens; the last one ends at `end`."""
    sizes = np.diff(starts_E, append=end)
    return np.concatenate([np.arange(a, a + n, most) for a, n in zip(starts_E.tolist(), sizes.tolist(), strict=True)])


def flowing(starts_E: np.ndarray, end: int, capacity: int, num_rows: int) -> WindowPlan:
    """Running text that fills one row after the other. Documents start at the tokens `starts_E`; the last stops at `end`."""
    needed = np.cumsum(np.diff(starts_E, append=end) + NUM_SPECIAL)
    before, starts = [0, *needed.tolist()], starts_E.tolist()  # of each document: positions before it, first token
    rows: list[int] = []  # the first token of each row
    document, read = 0, 0  # the next row begins in this document, behind its first `read` tokens
    while document < len(starts) and len(rows) < num_rows:
        rows.append(starts[document] + read)
        behind = bisect.bisect_right(before, before[document] + read + capacity) - 1  # first document that does not fit
        if behind == document:
            read += capacity - NUM_SPECIAL
            continue
        room = before[document] + read + capacity - before[behind]
        document, read = behind, room - NUM_SPECIAL if room >= NUM_SPECIAL + MIN_PIECE else 0
    stop = starts[document] + read if document < len(starts) else end
    pieces = np.union1d(starts_E, rows).astype(np.int32)
    pieces = pieces[pieces < stop]
    rows_E = np.searchsorted(np.array(rows, np.int64), pieces, side="right") - 1
    return planned(rows_E, pieces[:, None], np.diff(pieces, append=stop)[:, None], num_rows)


def planned(
    rows_E: np.ndarray, starts_EC: np.ndarray, num_tokens_EC: np.ndarray, num_rows: int, cuts: bool = True
) -> WindowPlan:
    """The plan, from pieces of text and the row of each. An empty row takes half of the pieces, or of the text, of one."""
    for empty in np.setdiff1d(np.arange(num_rows), rows_E).tolist():
        counts_R = np.bincount(rows_E, minlength=num_rows)
        own = np.flatnonzero(rows_E == counts_R.argmax())
        if len(own) == 1:
            longest = int(num_tokens_EC.min(axis=1).argmax())
            halves_C = num_tokens_EC[longest] // 2
            if halves_C.min() == 0 or not cuts:
                break  # there is almost no text
            starts_EC = np.concatenate([starts_EC, starts_EC[[longest]] + halves_C])
            num_tokens_EC = np.concatenate([num_tokens_EC, num_tokens_EC[[longest]] - halves_C])
            num_tokens_EC[longest] = halves_C
            own, rows_E = np.array([len(rows_E)]), np.append(rows_E, empty)
        rows_E[own[::2]] = empty
    by_row = np.lexsort((starts_EC[:, 0], rows_E))
    starts_EC, num_tokens_EC = starts_EC[by_row], num_tokens_EC[by_row]
    first_R1 = np.searchsorted(rows_E[by_row], np.arange(num_rows + 1))
    return WindowPlan(starts_EC, starts_EC + num_tokens_EC, first_R1)

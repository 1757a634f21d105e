"""Pairs placed into rows of two halves, both full though one language is longer than the other.

1. `HalfRows.plan` places pairs whole. The longest come first; each goes to the row where it fits most tightly, its longer
   side to the half with more room.
2. `turned` finds the sides of a row's pairs again. A row is then drawn as it is or the other way round.
"""

from __future__ import annotations

import bisect

import numpy as np

from ernie_m.rows.layout import Layout
from ernie_m.rows.packing import NO_ROW
from ernie_m.rows.window_plan import WindowPlan, planned


class HalfRows:
    """Places the pairs of one layout into rows of `capacity` positions. Nothing is cut: a cut translation is a wrong one."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self._layout, self._half = layout, capacity // 2

    def plan(self, starts_EC: np.ndarray, num_tokens_EC: np.ndarray, num_rows: int) -> WindowPlan:
        """Put these pairs into rows. Left out: pairs with an empty side, and those that no row has room for."""
        sides_EC = self._layout.sides(num_tokens_EC)
        usable = (num_tokens_EC.min(axis=1) > 0) & self.have_room(sides_EC)
        starts_EC, num_tokens_EC, sides_EC = starts_EC[usable], num_tokens_EC[usable], sides_EC[usable]
        rows_E = place_pairs(sides_EC, self._half, num_rows)
        found = rows_E != NO_ROW
        return planned(rows_E[found], starts_EC[found], num_tokens_EC[found], num_rows, cuts=False)

    def have_room(self, sides_EC: np.ndarray) -> np.ndarray:
        """Whether each pair's sides, of these lengths, are no longer than half a row, bool [E]."""
        return sides_EC.max(axis=1) <= self._half


def place_pairs(sides_EC: np.ndarray, half: int, num_rows: int) -> np.ndarray:
    """The row of each pair with these lengths, int64 [E]; NO_ROW where none has room for both sides in different halves."""
    more, less = [half] * num_rows, [half] * num_rows  # room of each row's halves
    rooms = [(2 * half, row) for row in range(num_rows)]  # of both, sorted: the first row that fits fits most tightly
    rows_E = np.full(len(sides_EC), NO_ROW, np.int64)
    longer, shorter = sides_EC.max(axis=1).tolist(), sides_EC.min(axis=1).tolist()
    for pair in _longest_first(sides_EC):
        long, short = longer[pair], shorter[pair]
        for place in range(bisect.bisect_left(rooms, (long + short, -1)), num_rows):
            row = rooms[place][1]
            if more[row] >= long and less[row] >= short:
                del rooms[place]
                less[row], more[row] = sorted((more[row] - long, less[row] - short))
                bisect.insort(rooms, (more[row] + less[row], row))
                rows_E[pair] = row
                break
    return rows_E


def turned(sides_EC: np.ndarray) -> np.ndarray:
    """Whether each pair of one row stands second side first, bool [E], so that both halves have room for all."""
    used, is_turned_E = [0, 0], np.zeros(len(sides_EC), bool)
    for pair in _longest_first(sides_EC):
        first, second = sides_EC[pair].tolist()
        first_half_has_more = used[0] <= used[1]
        is_turned_E[pair] = (first >= second) != first_half_has_more
        sides = (second, first) if is_turned_E[pair] else (first, second)
        used = [used[0] + sides[0], used[1] + sides[1]]
    return is_turned_E


def _longest_first(sides_EC: np.ndarray) -> list[int]:
    order: list[int] = np.argsort(-sides_EC.sum(axis=1), kind="stable").tolist()
    return order

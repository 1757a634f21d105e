"""Placing documents in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ernie_m.rows.objectives import BTMLM, MMLM
from ernie_m.rows.packing import NO_ROW, PackedRow, pack, place

if TYPE_CHECKING:
    from conftest import DocumentsOf


def slow_place(lengths: list[int], capacity: int, num_rows: int) -> list[int]:
    """The oracle: best fit decreasing, one item at a time, looking at every row."""
    loads, placed = [0] * num_rows, [NO_ROW] * len(lengths)
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [(capacity - load, row) for row, load in enumerate(loads) if load + lengths[item] <= capacity]
        if fitting:
            _, placed[item] = min(fitting)
            loads[placed[item]] += lengths[item]
    return placed


@pytest.mark.parametrize("longest", [9, 40, 120])
def test_items_of_one_length_together_go_where_each_alone_would_go(longest: int) -> None:
    rng, left, placed = np.random.default_rng(longest), 0, 0
    for _ in range(150):
        lengths = rng.integers(1, longest, int(rng.integers(0, 200)))
        num_rows = int(rng.integers(1, 25))
        rows = place(lengths, 100, num_rows)
        assert rows.tolist() == slow_place(lengths.tolist(), 100, num_rows)
        left, placed = left + int((rows == NO_ROW).sum()), placed + int((rows != NO_ROW).sum())
    assert left > 100
    assert placed > 1000


def test_no_row_overflows_and_nothing_is_left_that_would_fit() -> None:
    rng, left = np.random.default_rng(0), 0
    for _ in range(200):
        lengths = rng.integers(1, 120, int(rng.integers(0, 60)))
        num_rows = int(rng.integers(1, 25))
        rows = place(lengths, 100, num_rows)
        assert rows.min(initial=0) >= NO_ROW
        loads = np.bincount(rows + 1, lengths, num_rows + 1)[1:]
        assert len(loads) == num_rows
        assert loads.max() <= 100
        room, left_over = 100 - loads.max(initial=0), lengths[rows == NO_ROW]
        assert (left_over > (100 - loads).max()).all(), f"room for one of {left_over} in a row with {room}"
        left += len(left_over)
    assert left > 100


def test_best_fit_takes_the_tightest_row() -> None:
    assert place(np.array([60, 50, 40, 50]), 100, 2).tolist() == [0, 1, 0, 1]
    assert place(np.array([70, 60, 30]), 100, 2).tolist() == [0, 1, 0]
    assert place(np.array([100, 101]), 100, 1).tolist() == [0, NO_ROW]
    assert place(np.zeros(0, np.int64), 10, 2).tolist() == []


def test_placing_fills_rows_as_real_lengths_let_it() -> None:
    lengths = np.random.default_rng(1).lognormal(np.log(28), 0.5, 2000).astype(int).clip(4, 512)
    rows = place(lengths, 512, int(np.ceil(lengths.sum() / 512 / 0.985)))
    assert (rows != NO_ROW).all()


def test_an_empty_row_is_all_padding() -> None:
    batch = pack([PackedRow([], 0, 0)], 8)
    assert (batch.document_BS == -1).all()
    assert (batch.input_ids_BS == 1).all()
    assert (batch.reads_BS == 0).all()
    assert len(batch.predicted_N) == len(batch.labels_N) == 0


def test_generation_points_at_the_same_tokens_in_both_numberings(documents_of: DocumentsOf) -> None:
    first, second = documents_of(BTMLM)
    rows = [PackedRow(documents_of(MMLM)[0], 0, 0), PackedRow(first, 3, 1), PackedRow([], 0, 0), PackedRow(second, 3, 1)]
    batch = pack(rows, 64, generates=True)
    generation = batch.generation
    assert generation is not None
    assert generation.rows_R.tolist() == [1, 3]
    assert len(generation.placeholders_K) == len(generation.slots_K) == sum(len(d.placeholders) for d in first + second)
    for slot, placeholder in zip(generation.slots_K, generation.placeholders_K, strict=True):
        assert (generation.rows_R[placeholder // 64], placeholder % 64) == (slot // 64, slot % 64)
        assert generation.input_ids_RS.flatten()[placeholder] == 100 == batch.input_ids_BS.flatten()[slot]
    assert pack(rows, 64, generates=False).generation is None


def test_map_reaches_every_array(documents_of: DocumentsOf) -> None:
    batch = pack([PackedRow(row, 3, 0) for row in documents_of(BTMLM)], 64, generates=True)
    seen: list[tuple[int, ...]] = []
    mapped = batch.map(lambda array: (seen.append(array.shape), array + 1)[1])
    assert len(seen) == 11 + 5
    assert mapped.generation is not None
    assert batch.generation is not None
    assert np.array_equal(mapped.generation.slots_K, batch.generation.slots_K + 1)
    assert {array.dtype for array in (batch.input_ids_BS, batch.predicted_N, batch.generation.slots_K)} == {
        np.dtype(np.int32)
    }


def test_num_tokens_leaves_padding_out(documents_of: DocumentsOf) -> None:
    rows = documents_of(MMLM)
    assert [PackedRow(row, 0, 0).num_tokens for row in rows] == [9 + 6 + 3, 14 + 7]
    assert PackedRow([], 0, 0).num_tokens == 0


@pytest.mark.parametrize("sequence_length", [17, 18])
def test_a_row_holds_exactly_its_length(documents_of: DocumentsOf, sequence_length: int) -> None:
    row = PackedRow(documents_of(MMLM)[0], 0, 0)  # 18 tokens
    if sequence_length == 18:
        assert (pack([row], 18).document_BS >= 0).all()
    else:
        with pytest.raises(ValueError, match="could not broadcast"):
            pack([row], 17)

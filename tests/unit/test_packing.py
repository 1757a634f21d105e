"""Placing documents in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ernie_m.objectives import BTMLM, MMLM
from ernie_m.packing import PackedRow, pack, place

if TYPE_CHECKING:
    from conftest import DocumentsOf


def test_everything_is_placed_once_or_left_over_and_no_row_overflows() -> None:
    rng, left = np.random.default_rng(0), 0
    for _ in range(200):
        lengths = rng.integers(1, 120, int(rng.integers(0, 60))).tolist()
        num_rows = int(rng.integers(1, 25))
        rows, left_over = place(lengths, 100, num_rows)
        assert len(rows) == num_rows
        assert sorted([*(i for row in rows for i in row), *left_over]) == list(range(len(lengths)))
        loads = [sum(lengths[i] for i in row) for row in rows]
        assert max(loads) <= 100
        assert all(row == sorted(row) for row in rows)
        assert [lengths[i] for i in left_over] == sorted((lengths[i] for i in left_over), reverse=True)
        for item in left_over:  # the room a left over item would need exists nowhere
            assert all(100 - load < lengths[item] for load in loads)
        left += len(left_over)
    assert left > 100


def test_best_fit_takes_the_tightest_row() -> None:
    assert place([60, 50, 40, 50], 100, 2) == ([[0, 2], [1, 3]], [])
    assert place([70, 60, 30], 100, 2) == ([[0, 2], [1]], [])
    assert place([100, 101], 100, 1) == ([[0]], [1])
    assert place([], 10, 2) == ([[], []], [])


def test_placing_fills_rows_as_real_lengths_let_it() -> None:
    lengths = np.random.default_rng(1).lognormal(np.log(28), 0.5, 2000).astype(int).clip(4, 512)
    num_rows = int(np.ceil(lengths.sum() / 512 / 0.985))
    rows, left_over = place(lengths.tolist(), 512, num_rows)
    assert not left_over
    assert len(rows) == num_rows


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
        with pytest.raises(ValueError, match="broadcast"):
            pack([row], 17)

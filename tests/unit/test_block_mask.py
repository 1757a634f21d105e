"""Blocks judged by their summaries against the dense mask, block by block."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from ernie_m.models import block_mask
from ernie_m.models.attention import attend, build_mask
from ernie_m.models.block_mask import judged_blocks
from ernie_m.rows.attention_rule import attention_rule
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import CLM, MMLM, TLM

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, StagesOf

LENGTHS = (((280, 80),), ((150, 3), (90, 40), (5, 5)), ((4, 3), (7, 9)))  # one long document, some, almost only padding


def of_the_dense_mask(batch: PackedBatch, window: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(somebody reads somebody, everybody reads everybody) of each pair of blocks, bool [B, Q, K]."""
    dense = build_mask("sdpa", batch, window)[:, 0]
    beyond = -dense.shape[-1] % block_mask.BLOCK
    blocks = F.pad(dense, (0, beyond, 0, beyond)).unflatten(2, (-1, block_mask.BLOCK)).unflatten(1, (-1, block_mask.BLOCK))
    return blocks.any(-1).any(2), blocks.all(-1).all(2)


@pytest.fixture(params=[512, 640, 600], ids=lambda length: f"length {length}")
def packed(
    request: pytest.FixtureRequest, objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf
) -> PackedBatch:
    return batch_of(objective, documents_of(objective, LENGTHS), request.param)


def test_blocks_that_somebody_reads_are_kept_and_full_ones_are_full(packed: PackedBatch, stages_of: StagesOf) -> None:
    for stage in stages_of(packed):
        for window in (None, 10, 90, 200):
            partial, full = judged_blocks(stage, window)
            some, everything = of_the_dense_mask(stage, window)
            assert not (partial & full).any()
            assert not (some & ~(partial | full)).any(), "a block is skipped that is read"
            assert not (full & ~everything).any(), "a block is called full that is not"


def test_blocks_beyond_the_window_are_skipped(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(MMLM, documents_of(MMLM, (((500, 5),),)), 512)
    assert torch.equal(torch.stack(judged_blocks(batch, 600)), torch.stack(judged_blocks(batch)))
    partial, full = judged_blocks(batch, 10)
    assert not full.any()
    apart = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    assert torch.equal(partial[0], apart <= 1)
    partial, full = judged_blocks(batch, 255)
    assert torch.equal(full[0, :3, :3], apart[:3, :3] <= 1), "padding is in the last one"
    assert torch.equal((partial | full)[0, :3, :3], apart[:3, :3] <= 2)


def test_any_integers_at_all_are_judged_safely(packed: PackedBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Horizons, groups and documents as no objective has them yet, in blocks so small that every case occurs."""
    monkeypatch.setattr(block_mask, "BLOCK", 4)
    rng = torch.Generator().manual_seed(0)
    shape = (400, 22)

    def drawn(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=rng, dtype=torch.int32)

    document = drawn(0, 8).div(6, rounding_mode="floor").cumsum(1).int()
    document = torch.where(document > drawn(2, 9)[:, :1], -1, document)
    reads = torch.where(drawn(0, 6) > 0, drawn(2, 4), drawn(0, 4)) * (document >= 0)
    horizon = torch.where(drawn(0, 6) > 0, 30, drawn(0, 22))
    batch = replace(packed, document_BS=document, group_BS=drawn(0, 5) // 4, reads_BS=reads, horizon_BS=horizon)
    batch = replace(batch, position_ids_BS=torch.arange(22).expand(shape) // 2 + drawn(0, 3))
    for window in (None, 3, 5):
        partial, full = block_mask.judged_blocks(batch, window)
        some, everything = of_the_dense_mask(batch, window)
        assert not (some & ~(partial | full)).any()
        assert not (full & ~everything).any()
        found = [int(kind.sum()) for kind in (partial, full, ~(partial | full))]
        assert min(found) > 20, found


def test_lists_name_the_blocks_that_were_judged(packed: PackedBatch) -> None:
    """(FlexAttention on CPU asks the rule alone, so attention does not show it there.)"""
    for window in (None, 20):
        partial, full = block_mask.judged_blocks(packed, window)
        blocks = build_mask("flex", packed, window)
        assert torch.equal(blocks.to_dense()[:, 0].bool(), partial | full)
        for row, query in itertools.product(range(3), range(partial.shape[1])):
            number = int(blocks.full_kv_num_blocks[row, 0, query])
            assert blocks.full_kv_indices[row, 0, query, :number].tolist() == full[row, query].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("objective", [MMLM, TLM, CLM], ids=lambda objective: objective.name)
def test_nothing_is_kept_beyond_what_create_block_mask_keeps(
    objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Where documents alone decide, summaries are as good as looking at every pair."""
    batch = batch_of(objective, documents_of(objective, LENGTHS), 512)
    rule = attention_rule(batch.document_BS, batch.group_BS, batch.reads_BS, batch.horizon_BS)
    theirs = create_block_mask(rule, 3, None, 512, 512, device="cpu")
    partial, full = judged_blocks(batch)
    assert torch.equal((partial | full)[:, None], theirs.to_dense().bool())
    assert theirs.full_kv_num_blocks is not None
    assert torch.equal(full.sum(-1, dtype=torch.int32)[:, None], theirs.full_kv_num_blocks)
    assert full.any()
    assert not (partial | full).all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_with_these_blocks_is_sdpa(packed: PackedBatch) -> None:
    length, rng = packed.document_BS.shape[1], torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, length, 16, generator=rng) for _ in range(3))
    for window in (None, 20):
        blocks = build_mask("flex", packed, window)
        assert isinstance(blocks, BlockMask)  # without gradient it would be sdpa's
        with torch.no_grad():
            ours = attend(query, key, value, blocks, 0.0)
            expected = attend(query, key, value, build_mask("sdpa", packed, window), 0.0)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)

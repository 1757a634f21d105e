"""Blocks judged by their summaries against the dense mask, block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

from ernie_m.attention import attend, build_mask
from ernie_m.attention_rule import attention_rule
from ernie_m.batch import PackedBatch
from ernie_m.block_mask import BLOCK, judged_blocks
from ernie_m.objectives import CLM, MMLM, TLM, Objective

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

LENGTHS = (((280, 80),), ((150, 3), (90, 40), (5, 5)), ((4, 3), (7, 9)))  # one long document, some, almost only padding


def of_the_dense_mask(batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(somebody reads somebody, everybody reads everybody) of each pair of blocks, bool [B, Q, K]."""
    dense = build_mask("sdpa", batch)[:, 0]
    beyond = -dense.shape[-1] % BLOCK
    blocks = F.pad(dense, (0, beyond, 0, beyond)).unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    return blocks.any(-1).any(2), blocks.all(-1).all(2)


@pytest.fixture(params=[512, 640, 600], ids=lambda length: f"length {length}")
def packed(
    request: pytest.FixtureRequest, objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf
) -> PackedBatch:
    return batch_of(objective, documents_of(objective, LENGTHS), request.param)


def test_blocks_that_somebody_reads_are_kept_and_full_ones_are_full(packed: PackedBatch) -> None:
    stages = [packed]
    if packed.generation is not None:
        stages.append(replace(packed, reads_BS=packed.generation.reads_RS))
    for stage in stages:
        partial, full = judged_blocks(stage)
        some, everything = of_the_dense_mask(stage)
        assert not (partial & full).any()
        assert not (some & ~(partial | full)).any(), "a block is skipped that is read"
        assert not (full & ~everything).any(), "a block is called full that is not"


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
    with torch.no_grad():
        ours = attend(query, key, value, build_mask("flex", packed), 0.0)
        expected = attend(query, key, value, build_mask("sdpa", packed), 0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)

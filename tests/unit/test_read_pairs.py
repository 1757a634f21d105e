"""The pairs that attention's FLOPs are counted by are those of the dense mask."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ernie_m.models.attention import build_mask
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import CLM, MMLM
from ernie_m.rows.read_pairs import pairs_read

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, StagesOf


def as_numpy(batch: PackedBatch) -> PackedBatch:
    return batch.map(lambda tensor: tensor.numpy())


def test_pairs_are_those_of_the_dense_mask(
    objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf, stages_of: StagesOf
) -> None:
    for stage in stages_of(batch_of(objective, documents_of(objective))):
        dense = build_mask("sdpa", stage)[:, 0] & (stage.document_BS >= 0)[:, :, None]
        assert pairs_read(as_numpy(stage)) == int(dense.sum()) > 0


def test_pairs_counted_by_hand(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    """Two sentences of 7 and 4 tokens with <s> and </s> (9 and 6 positions) in a row of 64, 49 of them padding."""
    for objective, pairs in ((MMLM, 9 * 9 + 6 * 6), (CLM, 9 * 10 // 2 + 6 * 7 // 2)):
        batch = batch_of(objective, documents_of(objective, rows=(((7, 1), (4, 1)),)))
        assert pairs_read(as_numpy(batch)) == pairs


def test_pairs_of_any_groups_reads_and_horizons_are_those_of_the_dense_mask(
    documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Also of rules that no objective has: groups that do not read themselves, horizons before and behind their document."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        batch = batch_of(MMLM, documents_of(MMLM))
        drawn = {
            "group_BS": torch.randint(0, 4, batch.group_BS.shape, generator=rng, dtype=torch.int32),
            "reads_BS": torch.randint(0, 16, batch.group_BS.shape, generator=rng, dtype=torch.int32),
            "horizon_BS": torch.randint(0, 80, batch.group_BS.shape, generator=rng, dtype=torch.int32),
        }
        batch = replace(batch, **drawn)
        dense = build_mask("sdpa", batch)[:, 0] & (batch.document_BS >= 0)[:, :, None]
        assert pairs_read(as_numpy(batch)) == int(dense.sum()) > 0

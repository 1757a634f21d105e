"""Parts of a packed micro-batch, and the same batch with other words there: for tests of leaks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ernie_m.rows.batch import PackedBatch

X, Y, MX, MY = range(4)  # CAMLM's groups


def is_group(batch: PackedBatch, document: int, *groups: int) -> Tensor:
    """Positions of document `document` of row 0 in these groups, bool [B, S]."""
    chosen = (batch.document_BS == document) & torch.isin(batch.group_BS, torch.tensor(groups))
    chosen[1:] = False
    assert chosen.any()
    return chosen


def with_other_ids(batch: PackedBatch, where: Tensor) -> PackedBatch:
    """Each id at `where` replaced by another ordinary piece."""
    changed = 4 + (batch.input_ids_BS + 13) % 90
    assert bool((changed != batch.input_ids_BS)[where].all())
    return replace(batch, input_ids_BS=torch.where(where, changed, batch.input_ids_BS).int())

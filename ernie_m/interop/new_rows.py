"""Tensors with a row a piece, for another vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from ernie_m.corpus.editable import RowSources

AT_A_TIME = 1 << 14  # new rows


def with_rows(old: Tensor, rows: RowSources) -> Tensor:
    """A tensor with a row a piece, for the new vocabulary: kept rows bit for bit, others the mean of their old rows.

    old: [old size or more, ...]; rows behind the tokenizer's last id are left out. A row without sources is the mean of all
    rows that sources may be. Returns [new size, ...] of the same dtype.
    """
    sources, offsets = torch.from_numpy(rows.ids), torch.from_numpy(rows.offsets)
    is_same, counts = torch.from_numpy(rows.is_same), offsets.diff()
    new = torch.empty((len(rows), *old.shape[1:]), dtype=old.dtype)
    new[is_same] = old[sources[offsets[:-1][is_same]]]
    if bool((counts == 0).any()):
        new[counts == 0] = old.float().mean(dim=0).to(old.dtype)
    for places in torch.nonzero(~is_same & (counts > 0)).flatten().split(AT_A_TIME):
        of_place = torch.repeat_interleave(torch.arange(len(places)), counts[places])
        starts = torch.repeat_interleave(offsets[places] - counts[places].cumsum(0) + counts[places], counts[places])
        its_sources = sources[starts + torch.arange(len(of_place))]
        sums = torch.zeros((len(places), *old.shape[1:])).index_add_(0, of_place, old[its_sources].float())
        new[places] = (sums / counts[places].view(-1, *[1] * (old.dim() - 1))).to(old.dtype)
    return new

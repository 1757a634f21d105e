"""FlexAttention's block metadata from summaries of blocks: which blocks of 128 x 128 pairs to skip, and which are full.

torch's create_block_mask evaluates the rule on all S x S pairs. Here each block of positions is summarised first: its first
and last document, its groups, the groups that some and that all of its tokens read, its least and greatest horizon. Pairs of
blocks are then classified by their summaries:

    skipped   no document in common, no group read, or all keys behind the horizons: no query reads any key
    full      the same single document, all groups read by all, all keys within all horizons (and the window, if there is
              one): the kernel does not evaluate the rule
    partial   all others, and the diagonal: the kernel evaluates the rule, so the result is right even for a block that could
              have been skipped
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ernie_m.rows.attention_rule import MaskRule
from ernie_m.rows.batch import PAD_DOCUMENT, PackedBatch

BLOCK = 128
_BITS = 32  # of `reads`
_LAST = 2**31 - 1
_FAR = 2**29  # from any position id


def block_mask(
    rule: MaskRule[Tensor], batch: PackedBatch[Tensor], window: int | None, queries: range, keys: range
) -> BlockMask:
    """The rule of a micro-batch with its metadata for blocks of 128, for B rows and all heads, from part to part of rows.

    `window`, `queries` and `keys`: the rule's.
    """
    partial_Bqk, full_Bqk = judged_blocks(batch, window, queries, keys)
    return BlockMask.from_kv_blocks(
        *_listed(partial_Bqk),
        *_listed(full_Bqk),
        BLOCK_SIZE=BLOCK,
        mask_mod=rule,
        seq_lengths=(len(queries), len(keys)),
    )


class _Summary:
    """What the tokens of each block of a part of the rows have in common, [B, blocks]; bits of groups [B, blocks, 32]."""

    def __init__(self, batch: PackedBatch[Tensor], part: range) -> None:
        def blocks(array_BS: Tensor, beyond: int) -> Tensor:
            return _blocks(array_BS[:, part.start : part.stop], beyond)

        document = blocks(batch.document_BS, PAD_DOCUMENT)
        document = torch.where(document == PAD_DOCUMENT, _LAST, document)  # padding ends a part: it is the greatest
        bit = torch.arange(_BITS, device=document.device)
        reads = (blocks(batch.reads_BS, 0)[..., None] >> bit) & 1
        is_real, horizon, position = document != _LAST, blocks(batch.horizon_BS, 0), blocks(batch.position_ids_BS, 0)
        self.first, self.last = document.amin(-1), document.amax(-1)
        self.begins_real = is_real[..., 0]
        self.read_by_any, self.read_by_all = reads.amax(-2).float(), reads.amin(-2).float()
        self.is_there = ((blocks(batch.group_BS, 0)[..., None] == bit) & is_real[..., None]).any(-2).float()
        self.least_horizon, self.greatest_horizon = horizon.amin(-1), horizon.amax(-1)
        self.nearest = torch.where(is_real, position, _FAR).amin(-1)
        self.farthest = torch.where(is_real, position, -_FAR).amax(-1)
        self.start = part.start + torch.arange(document.shape[1], device=document.device) * BLOCK


def judged_blocks(
    batch: PackedBatch[Tensor], window: int | None = None, queries: range | None = None, keys: range | None = None
) -> tuple[Tensor, Tensor]:
    """(partial, full) pairs of query and key blocks, bool [B, Q / 128, K / 128], lengths rounded up; None: whole rows."""
    whole = range(batch.document_BS.shape[1])
    query, key = _Summary(batch, queries or whole), _Summary(batch, keys or whole)
    first, last = query.first[:, :, None], query.last[:, :, None]
    key_first, key_last = key.first[:, None, :], key.last[:, None, :]

    in_reach = (first <= key_last) & (key_first <= last)
    in_reach &= torch.einsum("bqg,bkg->bqk", query.read_by_any, key.is_there) > 0
    in_reach &= key.start <= query.greatest_horizon[:, :, None]
    is_one = (first == key_last) & (key_first == last)
    unread = torch.einsum("bqg,bkg->bqk", 1 - query.read_by_all, key.is_there) > 0
    full = is_one & key.begins_real[:, None, :] & ~unread
    full &= key.start + BLOCK - 1 <= query.least_horizon[:, :, None]
    if window is not None:
        ahead = query.nearest[:, :, None] - key.farthest[:, None, :]
        behind = key.nearest[:, None, :] - query.farthest[:, :, None]
        in_reach &= (ahead <= window) & (behind <= window)
        full &= (-ahead <= window) & (-behind <= window)
    if queries == keys:
        in_reach = in_reach | torch.eye(len(query.start), dtype=torch.bool, device=full.device)  # everybody reads itself
    else:
        in_reach[:, :, 0] |= query.last == _LAST  # padding reads the first key
    return in_reach & ~full, full


def _blocks(array_BS: Tensor, beyond: int) -> Tensor:
    """[B, S] -> [B, S / 128, 128], padded with `beyond`."""
    return F.pad(array_BS, (0, -array_BS.shape[1] % BLOCK), value=beyond).unflatten(1, (-1, BLOCK))


def _listed(chosen_Bqk: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, int32 [B, 1, Q], and which come first, int32 [B, 1, Q, K]."""
    numbers = chosen_Bqk.sum(-1, dtype=torch.int32)
    indices = chosen_Bqk.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return numbers[:, None].contiguous(), indices[:, None].contiguous()

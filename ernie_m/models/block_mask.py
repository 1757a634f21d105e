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


def block_mask(rule: MaskRule[Tensor], batch: PackedBatch[Tensor], window: int | None = None) -> BlockMask:
    """The rule of a micro-batch with its metadata for blocks of 128, for B rows and all heads. `window`: the rule's."""
    partial_Bqk, full_Bqk = judged_blocks(batch, window)
    length = batch.document_BS.shape[1]
    return BlockMask.from_kv_blocks(
        *_listed(partial_Bqk), *_listed(full_Bqk), BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(length, length)
    )


def judged_blocks(batch: PackedBatch[Tensor], window: int | None = None) -> tuple[Tensor, Tensor]:
    """(partial, full) pairs of query and key blocks, bool [B, S / 128, S / 128], S rounded up."""
    document = _blocks(batch.document_BS, PAD_DOCUMENT)
    document = torch.where(document == PAD_DOCUMENT, _LAST, document)  # padding ends a row: it is the greatest
    first, last = document.amin(-1), document.amax(-1)
    bit = torch.arange(_BITS, device=document.device)
    reads = (_blocks(batch.reads_BS, 0)[..., None] >> bit) & 1
    is_real = document != _LAST
    is_there = ((_blocks(batch.group_BS, 0)[..., None] == bit) & is_real[..., None]).any(-2).float()
    read_by_any, read_by_all = reads.amax(-2).float(), reads.amin(-2).float()
    horizon = _blocks(batch.horizon_BS, 0)
    start = torch.arange(document.shape[1], device=document.device) * BLOCK

    in_reach = (first[:, :, None] <= last[:, None, :]) & (first[:, None, :] <= last[:, :, None])
    in_reach &= torch.einsum("bqg,bkg->bqk", read_by_any, is_there) > 0
    in_reach &= start <= horizon.amax(-1)[:, :, None]
    is_one = (first[:, :, None] == last[:, None, :]) & (first[:, None, :] == last[:, :, None])
    unread = torch.einsum("bqg,bkg->bqk", 1 - read_by_all, is_there) > 0
    full = is_one & is_real[:, None, :, 0] & ~unread & (start + BLOCK - 1 <= horizon.amin(-1)[:, :, None])
    if window is not None:
        position = _blocks(batch.position_ids_BS, 0)
        nearest = torch.where(is_real, position, _FAR).amin(-1)
        farthest = torch.where(is_real, position, -_FAR).amax(-1)
        ahead, behind = nearest[:, :, None] - farthest[:, None, :], nearest[:, None, :] - farthest[:, :, None]
        in_reach &= (ahead <= window) & (behind <= window)
        full &= (-ahead <= window) & (-behind <= window)
    itself = torch.eye(len(start), dtype=torch.bool, device=document.device)
    return (in_reach | itself) & ~full, full


def _blocks(array_BS: Tensor, beyond: int) -> Tensor:
    """[B, S] -> [B, S / 128, 128], padded with `beyond`."""
    return F.pad(array_BS, (0, -array_BS.shape[1] % BLOCK), value=beyond).unflatten(1, (-1, BLOCK))


def _listed(chosen_Bqk: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, int32 [B, 1, Q], and which come first, int32 [B, 1, Q, K]."""
    numbers = chosen_Bqk.sum(-1, dtype=torch.int32)
    indices = chosen_Bqk.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return numbers[:, None].contiguous(), indices[:, None].contiguous()

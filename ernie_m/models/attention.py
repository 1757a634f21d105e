"""Attention backends. Each takes the attention rule in the form that it needs; all compute the same function.

sdpa    torch's scaled_dot_product_attention with the dense boolean mask: CPU and every GPU
pieces  the same, on documents gathered in short pieces: CPU
flex    FlexAttention with the rule as its `mask_mod`, skipping empty blocks: CUDA, sm80 and later
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ernie_m.base.console import Choice, InputError
from ernie_m.models.block_mask import block_mask
from ernie_m.models.row_pieces import RowPieces, attend_in_pieces, row_pieces
from ernie_m.models.shape import SMALLEST_FLEX_HEAD
from ernie_m.rows.attention_rule import attention_rule, dense_mask, from_part_to_part, within_window
from ernie_m.rows.batch import PackedBatch


def choose_attention(requested: str, device: torch.device, attention_dropout: float = 0.0, head_size: int = 64) -> Choice:
    """The backend for `device`, with the reason. Raises InputError if the `requested` one cannot run there."""
    obstacles = {
        "flex": _obstacle_to_flex(device, attention_dropout, head_size),
        "pieces": ""
        if device.type == "cpu"
        else f"{device.type} device; to find the documents, the host would have to wait for it",
        "sdpa": "",
    }
    if requested == "auto":
        chosen = next(name for name, obstacle in obstacles.items() if not obstacle)
        return Choice("attention", chosen, obstacles["flex"] or "CUDA, sm80 or later")
    if obstacles[requested]:
        raise InputError(f"model.attention={requested}: not possible here ({obstacles[requested]}); use auto or sdpa")
    return Choice("attention", requested, "asked for")


def _obstacle_to_flex(device: torch.device, attention_dropout: float, head_size: int) -> str:
    if device.type != "cuda":
        return f"{device.type} device; flex trains on CUDA only"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"{torch.cuda.get_device_name(device)} is sm{major}{minor}; flex needs sm80"
    if attention_dropout > 0:
        return f"attention_dropout is {attention_dropout:g}; flex has none"
    return "" if head_size >= SMALLEST_FLEX_HEAD else f"heads of {head_size}; flex needs {SMALLEST_FLEX_HEAD} or more"


def build_mask(
    backend: str,
    batch: PackedBatch[Tensor],
    window: int | None = None,
    queries: range | None = None,
    keys: range | None = None,
) -> Any:
    """The mask of a micro-batch, once per forward: bool [B, 1, Q, K] for sdpa, a BlockMask for flex, RowPieces for pieces.

    `window`: how far a token reads, in position ids; None: its whole document. `queries` and `keys`: the positions that read
    and those that are read, a part of the rows each; None: all.

    sdpa is also used in place of pieces when nothing can be cut, and in place of flex when there is no gradient: flex
    compiles its kernel for each number of rows and each length, which takes minutes, and generation, probes and evaluations
    have many of these.
    """
    rule = attention_rule(batch.document_BS, batch.group_BS, batch.reads_BS, batch.horizon_BS)
    if window is not None:
        rule = within_window(rule, batch.position_ids_BS, window)
    num_rows, sequence_length = batch.document_BS.shape
    queries, keys = queries or range(sequence_length), keys or range(sequence_length)
    if (queries, keys) != (range(sequence_length), range(sequence_length)):
        rule = from_part_to_part(rule, batch.document_BS, queries.start, keys.start)
    if backend == "flex" and torch.is_grad_enabled():
        return block_mask(rule, batch, window, queries, keys)
    if backend == "pieces":
        pieces = row_pieces(rule, *(batch.document_BS[:, part.start : part.stop] for part in (queries, keys)))
        if pieces is not None:
            return pieces
    rows, *parts = (torch.arange(n, device=batch.document_BS.device) for n in (num_rows, len(queries), len(keys)))
    return dense_mask(rule, rows, *parts)


def attend(query_BHSE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, mask: Any, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(E)) v under `mask`; [B, H, S, E] with E the size of a head."""
    if isinstance(mask, BlockMask):
        assert dropout == 0.0, "flex has no attention dropout; choose_attention knows"
        kernel = _compiled_flex() if query_BHSE.is_cuda else flex_attention
        with few_shapes():
            return kernel(query_BHSE, key_BHSE, value_BHSE, block_mask=mask)
    if _is_slow_backwards(query_BHSE):
        return attend(query_BHSE.float(), key_BHSE.float(), value_BHSE.float(), mask, dropout).to(query_BHSE.dtype)
    if isinstance(mask, RowPieces):
        return attend_in_pieces(query_BHSE, key_BHSE, value_BHSE, mask, dropout)
    return F.scaled_dot_product_attention(query_BHSE, key_BHSE, value_BHSE, attn_mask=mask, dropout_p=dropout)


def _is_slow_backwards(query_BHSE: Tensor) -> bool:
    """On a CPU the backward of torch's attention takes three to four times as long in 16 bits as in 32."""
    needs_gradient = query_BHSE.requires_grad and torch.is_grad_enabled()
    return needs_gradient and query_BHSE.device.type == "cpu" and query_BHSE.dtype in (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def few_shapes() -> Iterator[None]:
    """Raises InputError where torch refuses to compile a kernel for one more shape."""
    from torch._dynamo.exc import FailOnRecompileLimitHit  # here: it would add two seconds to each start of a process

    try:
        yield
    except FailOnRecompileLimitHit as error:
        limit = torch._dynamo.config.recompile_limit
        raise InputError(
            f"model.attention: torch compiles flex for {limit} shapes of micro-batches, and this is one more; keep to one "
            "batch.micro_batch_rows and data.sequence_length in a process, or set model.attention=sdpa"
        ) from error


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    """`fullgraph`: after `recompile_limit` shapes torch raises. Without it, torch would go on with an unfused kernel."""
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def compile_attention(
    mask: Any, num_heads: int, head_size: int, dtype: torch.dtype, projections: tuple[int, ...] = (3,)
) -> None:
    """Compile the forward and backward kernels for a training mask. Only flex has kernels to compile.

    A kernel is for one layout in memory. `projections`: how many of query, key and value lie in one tensor: all three where
    a row reads itself (3,), the query alone where it reads across (1, 2).
    """
    if not isinstance(mask, BlockMask):
        return
    (num_rows, *_), (num_queries, num_keys), device = mask.shape, mask.seq_lengths, mask.kv_num_blocks.device
    inputs: list[Tensor] = []
    for count in projections:
        length = num_keys if inputs else num_queries
        shape = (num_rows, length, count, num_heads, head_size)  # as in ernie_m.models.model.Layer, and in DecoderLayer
        inputs += torch.zeros(shape, dtype=dtype, device=device, requires_grad=True).permute(2, 0, 3, 1, 4)
    query, key, value = inputs
    attend(query, key, value, mask, 0.0).sum().backward()

"""How the attention rule gets into a model of transformers: through an attention function in its registry, and a keyword.

1. transformers has no mask builder for our function's name. So models build no mask and give None to their layers.
2. A model passes unknown keywords to every layer, and a layer passes them to the attention function. KEYWORD is such a one.
3. A layer with a sliding window tells the function its size. Its mask is the rule within that window of position ids.

transformers' own functions cannot be used: the eager one adds a boolean mask to the scores, as +1, and in some models a mask
of four dimensions replaces the windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from ernie_m.models.attention import attend, build_mask
from ernie_m.rows.batch import PackedBatch

NAME = "ernie_m_attention_rule"
KEYWORD = "ernie_m_rows"


@dataclass
class RowsRead:
    """Who reads whom in a micro-batch; every layer gets it. One mask is built for each distinct window."""

    batch: PackedBatch[Tensor]
    backend: str
    attention_dropout: float
    wanted_N: Tensor | None = None
    """Flat positions in B x S whose states are wanted after the last layer; int64. None: all."""
    is_cut: bool = False
    """Whether the last layer has returned only these, as one row."""
    num_calls: int = 0
    """Calls of the attention function; recomputed layers call again."""
    _masks: dict[int | None, Any] = field(default_factory=dict)

    def mask(self, window: int | None) -> Any:
        """The mask, in the form that the backend needs (ernie_m.models.attention.build_mask)."""
        if window not in self._masks:
            self._masks[window] = build_mask(self.backend, self.batch, window)
        return self._masks[window]


class OtherAttentionError(ValueError):
    """A layer needs something that the attention rule does not provide; the message says what."""


def attend_by_rule(
    module: nn.Module,
    query_BHSE: Tensor,
    key_BHSE: Tensor,
    value_BHSE: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    ernie_m_rows: RowsRead | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function with transformers' signature. Returns attended values [B, S, H, E], and no weights.

    `sliding_window`: as transformers counts it for encoders, one more than the positions read to each side.
    Raises OtherAttentionError if the keyword is missing, or if a layer gives more than queries, keys and values.
    """
    if ernie_m_rows is None:
        raise OtherAttentionError(f"the keyword {KEYWORD} does not reach its layers")
    unknown = sorted(key for key in ("position_bias", "softcap", "s_aux") if others.get(key) is not None)
    if attention_mask is not None or unknown or query_BHSE.shape[2] != key_BHSE.shape[2]:
        raise OtherAttentionError(f"its layers bring {unknown[0] if unknown else 'a mask or keys of their own'}")
    ernie_m_rows.num_calls += 1
    mask = ernie_m_rows.mask(None if sliding_window is None else sliding_window - 1)
    size, groups = query_BHSE.shape[-1], query_BHSE.shape[1] // key_BHSE.shape[1]
    if scaling is not None and scaling != size**-0.5:
        query_BHSE = query_BHSE * (scaling * size**0.5)
    if groups > 1:
        key_BHSE, value_BHSE = (tensor.repeat_interleave(groups, dim=1) for tensor in (key_BHSE, value_BHSE))
    dropout = ernie_m_rows.attention_dropout if module.training else 0.0
    return attend(query_BHSE, key_BHSE, value_BHSE, mask, dropout).transpose(1, 2), None


AttentionInterface.register(NAME, attend_by_rule)

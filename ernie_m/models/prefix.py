"""A prefix language model: one stack of layers that translates, without a decoder and without attention across.

It is an encoder that was trained on MT: who reads whom is the same, but a target reads its source's states of each layer,
not the last ones, and in the same attention as its own past. Source and target share all weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.base.special_tokens import Specials
from ernie_m.models.model import Encoder, Layer
from ernie_m.models.translation import Past, let_end


class PrefixModel(nn.Module):
    """An encoder, as ernie_m.models.decoding and ernie_m.models.beams take a TranslationModel."""

    def __init__(self, encoder: Encoder, specials: Specials) -> None:
        super().__init__()
        self.encoder, self.config, self.specials = encoder, encoder.config, specials
        self.token_head = encoder.token_head
        let_end(self.token_head, specials)

    def begun(
        self, ids_BS: Tensor, position_BS: Tensor, language_BS: Tensor, mask: Tensor, room: int, beams: int
    ) -> list[Past]:
        """As of a TranslationModel. What stands for attention across are the source's keys and values in the same layer."""
        hidden_BSD, past = self.encoder.embeddings(ids_BS, position_BS, language_BS), []
        for layer in self.encoder.layers:
            _, key, value = _split(layer, hidden_BSD)  # type: ignore[arg-type]
            past.append(Past.empty((key, value), room, beams))
            hidden_BSD = layer(hidden_BSD, mask)
        return past

    def stepped(
        self, token_R1: Tensor, position_R1: Tensor, language_R1: Tensor, past: list[Past], place: int, mask: Tensor
    ) -> Tensor:
        """As of a TranslationModel."""
        hidden_R1D: Tensor = self.encoder.embeddings(token_R1, position_R1, language_R1)
        for layer, of_layer in zip(self.encoder.layers, past, strict=True):
            hidden_R1D = _step(layer, hidden_R1D, of_layer, place, mask)  # type: ignore[arg-type]
        return hidden_R1D[:, 0]


def _split(layer: Layer, hidden_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, [B, H, S, E] each."""
    (B, S, D), num_heads = hidden_BSD.shape, layer.config.num_heads
    query, key, value = layer.qkv(hidden_BSD).view(B, S, 3, num_heads, D // num_heads).permute(2, 0, 3, 1, 4)
    return query, key, value


def _step(layer: Layer, hidden_R1D: Tensor, past: Past, place: int, mask_B11S: Tensor) -> Tensor:
    """The target tokens at this place: each reads its whole source, its past and itself."""
    query, key, value = _split(layer, hidden_R1D)
    own, beams = past.with_place(place, key, value), len(hidden_R1D) // len(mask_B11S)
    keys, values = (
        torch.cat([of_source.repeat_interleave(beams, dim=0), of_target], dim=2)
        for of_source, of_target in zip(past.across, own, strict=True)
    )
    mask = F.pad(mask_B11S.repeat_interleave(beams, dim=0), (0, place + 1), value=True)
    attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return layer._fed(layer._added(hidden_R1D, attended.transpose(1, 2).reshape(hidden_R1D.shape), None))

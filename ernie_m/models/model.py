"""The encoder: XLM-R's architecture (post-LN) with a language embedding.

Embedding = token + position + language. By default (`language_embedding: masked`) only <mask> gets the language embedding.
It tells masks and placeholders which language is wanted. Other tokens do not use it, so the exported model, which has none,
loses nothing.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ernie_m.base.console import Choice
from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.models.attention import attend, build_mask, choose_attention, compile_attention
from ernie_m.models.gelu_linear import GeluLinear
from ernie_m.models.heads import Norm, heads_for
from ernie_m.models.layer_norm import choose_layer_norm, layer_norm
from ernie_m.models.past import Grid, LayerPast
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import ModelConfig
from ernie_m.models.tied_gradient import TiedGradient, embedding_rows
from ernie_m.rows.batch import PackedBatch


class Embeddings(nn.Module):
    """Token + position (+ language at masks), layer norm, dropout: ids [B, S] -> hidden [B, S, D]."""

    def __init__(self, config: ModelConfig, specials: Specials, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.config, self.specials = config, specials
        behind_padding = specials.first_position - 1 if specials.first_position else None
        self.word = nn.Embedding(config.vocab, config.hidden_size, padding_idx=specials.pad)
        self.position = nn.Embedding(config.max_positions, config.hidden_size, padding_idx=behind_padding)
        self.language = nn.Embedding(1 + (config.num_languages or 0), config.hidden_size, padding_idx=NO_LANGUAGE)
        self.norm = norm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, input_ids_BS: Tensor, position_ids_BS: Tensor, language_BS: Tensor, tied: TiedGradient | None = None
    ) -> Tensor:
        hidden_BSD = embedding_rows(input_ids_BS, self.word.weight, self.specials.pad, tied) + self.position(position_ids_BS)
        if self.config.language_embedding == "masked":
            language_BS = language_BS * (input_ids_BS == self.specials.mask)
        if self.config.language_embedding != "none":
            hidden_BSD = hidden_BSD + self.language(language_BS)
        return F.dropout(self.norm(hidden_BSD), self.config.dropout, self.training)


class Layer(nn.Module):
    """One post-LN transformer layer: hidden [B, S, D] -> hidden [B, S, D], or [N, D] at the positions `wanted_N`."""

    def __init__(self, config: ModelConfig, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attention_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn_in = nn.Linear(config.hidden_size, config.ffn_size)
        self.ffn_out = GeluLinear(config.ffn_size, config.hidden_size)
        self.ffn_norm = norm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_BSD: Tensor, mask: Any, wanted_N: Tensor | None = None) -> Tensor:
        return self._fed(self._added(hidden_BSD, self._attended(hidden_BSD, mask), wanted_N))

    def _attended(self, hidden_BSD: Tensor, mask: Any) -> Tensor:
        """What the positions read of one another, [B, S, D]."""
        B, S, D = hidden_BSD.shape
        split = (B, S, 3, self.config.num_heads, D // self.config.num_heads)
        query, key, value = self.qkv(hidden_BSD).view(split).permute(2, 0, 3, 1, 4)
        return attend(query, key, value, mask, self._attention_dropout).transpose(1, 2).reshape(B, S, D)

    def read(self, hidden_RD: Tensor, grid: Grid, mask: Tensor, past: LayerPast | None = None, first: int = 0) -> Tensor:
        """Forward up to the feed-forward of the rows of a grid, [R, D]. They read one another and the past.

        `mask`: added to attention's logits, [B, 1, 1 or K, slots]. `first`: their first slot in the past.
        """
        (B, K), D, num_heads = grid.shape, hidden_RD.shape[1], self.config.num_heads
        split = grid.places(self.qkv(hidden_RD)).view(B, K, 3, num_heads, D // num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.with_slots(first, key, value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape(B, K, D)
        return self._added(hidden_RD, grid.rows(attended), None)

    def step(self, hidden_RD: Tensor, grid: Grid, mask: Tensor, past: LayerPast | None = None, first: int = 0) -> Tensor:
        """Forward without gradient of the rows of a grid, [R, D]; see `read`."""
        return self._fed(self.read(hidden_RD, grid, mask, past, first))

    def _added(self, hidden_BSD: Tensor, attended_BSD: Tensor, wanted_N: Tensor | None) -> Tensor:
        """What was read, added to the states; of wanted positions alone, since behind attention none needs another."""
        hidden, attended = hidden_BSD, attended_BSD
        if wanted_N is not None:
            attended, hidden = attended.flatten(0, 1)[wanted_N], hidden.flatten(0, 1)[wanted_N]
        states: Tensor = self.attention_norm(hidden + self._dropped(self.attention_out(attended)))
        return states

    def _fed(self, hidden: Tensor) -> Tensor:
        states: Tensor = self.ffn_norm(hidden + self._dropped(self.ffn_out(self.ffn_in(hidden))))
        return states

    @property
    def _attention_dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _dropped(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.config.dropout, self.training)


class Encoder(PretrainingModel):
    """Our own backbone: embeddings and layers, with the heads that `config` names."""

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu", specials: Specials | None = None) -> None:
        """`device`: where it will run; kernels are chosen for it. `specials`: of the data's vocabulary; None: XLM-R's."""
        super().__init__()
        self.config = self.shape = config
        specials = specials or Specials.xlm_r(config.vocab)
        head_size = config.hidden_size // config.num_heads
        self.attention_choice = choose_attention(config.attention, torch.device(device), config.attention_dropout, head_size)
        self.layer_norm_choice = choose_layer_norm(torch.device(device))
        norm = layer_norm(self.layer_norm_choice.value)
        self.embeddings = Embeddings(config, specials, norm)
        self.layers = nn.ModuleList(Layer(config, norm) for _ in range(config.num_layers))
        words = cast(nn.Parameter, self.embeddings.word.weight)
        self.heads = heads_for(config.head_names, config, words, norm, specials)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def initialise(self, seed: int) -> Encoder:
        """Draw all weights from `seed`."""
        draw_weights(self, self.config.initializer_range, seed)
        return self

    @property
    def choices(self) -> tuple[Choice, ...]:
        return self.attention_choice, self.layer_norm_choice

    def compile_for(self, batch: PackedBatch[Tensor]) -> None:
        """As in PretrainingModel."""
        heads, dtype = self.config.num_heads, self.embeddings.word.weight.dtype
        mask = build_mask(self.attention_choice.value, batch)
        compile_attention(mask, heads, self.config.hidden_size // heads, dtype)

    def hidden_states(
        self,
        batch: PackedBatch[Tensor],
        layer: int | None = None,
        wanted_N: Tensor | None = None,
        tied: TiedGradient | None = None,
    ) -> Tensor:
        """As in PretrainingModel. The last layer's feed-forward runs only at `wanted_N`."""
        mask = build_mask(self.attention_choice.value, batch)
        hidden = self.embeddings(batch.input_ids_BS, batch.position_ids_BS, batch.language_BS, tied)
        wanted_N = None if wanted_N is None else wanted_N.long()
        return through_layers(self.layers, self.config, hidden, (mask,), layer, wanted_N)


def through_layers(
    layers: nn.ModuleList,
    config: ModelConfig,
    hidden: Tensor,
    reading: tuple[Any, ...],
    layer: int | None = None,
    wanted_N: Tensor | None = None,
) -> Tensor:
    """States behind `layer` (default: the last); of the last one those that are wanted. `reading`: what each layer takes."""
    for number, block in enumerate(list(layers)[:layer], start=1):
        of_block = wanted_N if number == len(layers) else None
        if config.activation_checkpointing and torch.is_grad_enabled():
            hidden = checkpoint(block, hidden, *reading, of_block, use_reentrant=False)
        else:
            hidden = block(hidden, *reading, of_block)
    return hidden


def draw_weights(model: nn.Module, spread: float, seed: int) -> None:
    """Draw all weights from `seed`: normal(0, spread), biases 0, norms 1, language embeddings and rows of padding 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm." in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif parameter.dim() == 1 or name.endswith("embeddings.language.weight"):
                parameter.zero_()
            else:
                parameter.copy_(torch.empty(parameter.shape).normal_(0, spread, generator=rng))
        for table in model.modules():
            if isinstance(table, nn.Embedding) and table.padding_idx is not None:
                table.weight[table.padding_idx].zero_()

"""Encoder and decoder: a model that translates, from rows of two halves (ernie_m.rows.halves).

1. The encoder reads the sources, in the first half of each row.
2. The decoder reads the targets, in the second half: each token its own past, then (across) the encoder's states of its
   source. Layers are post-LN: attention, attention across, feed-forward.
3. The token head predicts each target's next token. Its output matrix is the decoder's word embedding.

One attention rule says who reads whom in all three, from part to part of the rows.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ernie_m.base.console import Choice
from ernie_m.base.special_tokens import Specials
from ernie_m.models.attention import attend, build_mask, choose_attention, compile_attention
from ernie_m.models.heads import Norm, TokenHead, heads_for
from ernie_m.models.layer_norm import choose_layer_norm, layer_norm
from ernie_m.models.model import Embeddings, Encoder, Layer, draw_weights, through_layers
from ernie_m.models.past import Grid, LayerPast, Past
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.shape import SHARED, ModelConfig
from ernie_m.models.tied_gradient import TiedGradient
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.halves import halves_of


class DecoderLayer(Layer):
    """A layer that also reads across: targets [B, T, D], sources [B, S, D] -> targets, or [N, D] of the wanted positions."""

    def __init__(self, config: ModelConfig, norm: Norm = nn.LayerNorm) -> None:
        super().__init__(config, norm)
        self.across_query = nn.Linear(config.hidden_size, config.hidden_size)
        self.across_key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.across_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.across_norm = norm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(  # type: ignore[override]
        self, hidden_BTD: Tensor, mask: Any, source_BSD: Tensor, mask_across: Any, wanted_N: Tensor | None = None
    ) -> Tensor:
        hidden_BTD = self._added(hidden_BTD, self._attended(hidden_BTD, mask), None)
        return self._with_source(hidden_BTD, self.keys_across(source_BSD), mask_across, wanted_N)

    def keys_across(self, source_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the sources, [B, H, S, E]: the same for every target token."""
        return self._split_across(self.across_key_value(source_BSD))

    def past(self, source_RD: Tensor, grid: Grid, room: int) -> LayerPast:
        """Of so many slots a source, whose states are these rows."""
        past = LayerPast.empty(grid.shape[0], room, self.config.num_heads, source_RD)
        past.across = self._split_across(grid.places(self.across_key_value(source_RD)))
        return past

    def write(self, hidden_RD: Tensor, grid: Grid, past: Past, layer: LayerPast) -> Tensor:
        """The states behind this layer of target tokens, rows of a grid; they read and become part of the past."""
        hidden_RD = self.read(hidden_RD, grid, past.reads, layer, past.newest)
        assert layer.across is not None
        query_BKD = grid.places(self.across_query(hidden_RD))
        attended_RD = grid.rows(self._attended_across(query_BKD, layer.across, past.across_B11S))
        return self._fed(self.across_norm(hidden_RD + self.across_out(attended_RD)))

    def _split_across(self, of_sources_BS2D: Tensor) -> tuple[Tensor, Tensor]:
        (B, S, _), D, num_heads = of_sources_BS2D.shape, self.config.hidden_size, self.config.num_heads
        key_BHSE, value_BHSE = of_sources_BS2D.view(B, S, 2, num_heads, D // num_heads).permute(2, 0, 3, 1, 4)
        return key_BHSE, value_BHSE

    def _attended_across(self, query_BTD: Tensor, across: tuple[Tensor, Tensor], mask: Any) -> Tensor:
        (B, T, D), num_heads = query_BTD.shape, self.config.num_heads
        query_BHTE = query_BTD.view(B, T, num_heads, D // num_heads).transpose(1, 2)
        return attend(query_BHTE, *across, mask, self._attention_dropout).transpose(1, 2).reshape(B, T, D)

    def _with_source(self, hidden_BTD: Tensor, across: tuple[Tensor, Tensor], mask: Any, wanted_N: Tensor | None) -> Tensor:
        """The states with what they read of the sources, and behind the feed-forward."""
        attended, hidden = self._attended_across(self.across_query(hidden_BTD), across, mask), hidden_BTD
        if wanted_N is not None:
            attended, hidden = attended.flatten(0, 1)[wanted_N], hidden.flatten(0, 1)[wanted_N]
        return self._fed(self.across_norm(hidden + self._dropped(self.across_out(attended))))


class Side(nn.Module):
    """Embeddings and layers: the encoder's, or the decoder's."""

    def __init__(self, embeddings: Embeddings, layers: list[Layer]) -> None:
        super().__init__()
        self.embeddings, self.layers = embeddings, nn.ModuleList(layers)


class TranslationModel(PretrainingModel):
    """An encoder and a decoder of one shape, with the token head."""

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu", specials: Specials | None = None) -> None:
        """`device`: where it will run, which decides on kernels. `specials`: the vocabulary's; None: those of XLM-R."""
        super().__init__()
        self.config = self.shape = config
        self.specials = specials or Specials.xlm_r(config.vocab)
        specials = self.specials
        head_size = config.hidden_size // config.num_heads
        self.attention_choice = choose_attention(config.attention, torch.device(device), config.attention_dropout, head_size)
        self.layer_norm_choice = choose_layer_norm(torch.device(device))
        norm, numbers = layer_norm(self.layer_norm_choice.value), range(config.num_layers)
        self.encoder = Side(Embeddings(config, specials, norm), [Layer(config, norm) for _ in numbers])
        own = self.encoder.embeddings if config.decoder == SHARED else Embeddings(config, specials, norm)
        self.decoder = Side(own, [DecoderLayer(config, norm) for _ in numbers])
        words = cast(nn.Parameter, self.decoder.embeddings.word.weight)
        self.heads = heads_for(config.head_names, config, words, norm, specials)
        let_end(self.token_head, specials)

    @property
    def num_layers(self) -> int:
        return len(self.encoder.layers)

    @property
    def choices(self) -> tuple[Choice, ...]:
        return self.attention_choice, self.layer_norm_choice

    def initialise(self, seed: int) -> TranslationModel:
        """Draw all weights from `seed`."""
        draw_weights(self, self.config.initializer_range, seed)
        return self

    def masks(self, batch: PackedBatch[Tensor]) -> tuple[Any, Any, Any]:
        """Who reads whom: sources one another, targets one another, targets the sources."""
        source, target = halves_of(batch.input_ids_BS.shape[1])
        parts = ((source, source), (target, target), (target, source))
        of_sources, of_targets, across = (
            build_mask(self.attention_choice.value, batch, queries=queries, keys=keys) for queries, keys in parts
        )
        return of_sources, of_targets, across

    def compile_for(self, batch: PackedBatch[Tensor]) -> None:
        """Compile what training on micro-batches of this shape needs; takes minutes if anything is compiled at all."""
        heads, dtype = self.config.num_heads, self.decoder.embeddings.word.weight.dtype
        of_sources, of_targets, across = self.masks(batch)
        for mask, projections in ((of_sources, (3,)), (of_targets, (3,)), (across, (1, 2))):
            compile_attention(mask, heads, self.config.hidden_size // heads, dtype, projections)

    def hidden_states(
        self,
        batch: PackedBatch[Tensor],
        layer: int | None = None,
        wanted_N: Tensor | None = None,
        tied: TiedGradient | None = None,
    ) -> Tensor:
        """As in PretrainingModel: the encoder's states in the first half of each row, the decoder's in the second.

        Wanted positions are the decoder's. Behind `layer` of the decoder the encoder has gone through all its layers.
        """
        source, target = halves_of(batch.input_ids_BS.shape[1])
        of_sources, of_targets, across = self.masks(batch)
        source_BSD = self._embedded(self.encoder, batch, source, None)
        whole_BSD = through_layers(self.encoder.layers, self.config, source_BSD, (of_sources,))
        hidden = self._embedded(self.decoder, batch, target, tied)
        of_half_N = None if wanted_N is None else _in_part(wanted_N.long(), batch.input_ids_BS.shape[1], target)
        reading = (of_targets, whole_BSD, across)
        hidden = through_layers(self.decoder.layers, self.config, hidden, reading, layer, of_half_N)
        if hidden.dim() == 2:
            return hidden
        if layer is not None:
            whole_BSD = through_layers(self.encoder.layers, self.config, source_BSD, (of_sources,), layer)
        return torch.cat([whole_BSD, hidden], dim=1)

    def begun(
        self, ids_R: Tensor, position_R: Tensor, language_R: Tensor, grid: Grid, mask_B11S: Tensor, beams: int, most: int
    ) -> Past:
        """What is remembered before targets of up to `most` tokens are written, so many of each source.

        Sources are rows of a grid [B, S]; `mask_B11S`, added to attention's logits, says which of its places are read.
        """
        hidden_RD = self.encoder.embeddings(ids_R, position_R, language_R)
        for layer in self.encoder.layers:
            hidden_RD = layer.step(hidden_RD, grid, mask_B11S)  # type: ignore[operator]
        layers = [layer.past(hidden_RD, grid, beams * most) for layer in self.decoder.layers]  # type: ignore[operator]
        return Past(layers, mask_B11S, beams)

    def stepped(self, token_R: Tensor, position_R: Tensor, language_R: Tensor, grid: Grid, past: Past) -> Tensor:
        """States [R, D] of the tokens in the newest slots of the past, rows of a grid [B, K]."""
        hidden_RD: Tensor = self.decoder.embeddings(token_R, position_R, language_R)
        for layer, of_layer in zip(self.decoder.layers, past.layers, strict=True):
            hidden_RD = layer.write(hidden_RD, grid, past, of_layer)  # type: ignore[operator]
        return hidden_RD

    @staticmethod
    def _embedded(side: Side, batch: PackedBatch[Tensor], part: range, tied: TiedGradient | None) -> Tensor:
        columns = (batch.input_ids_BS, batch.position_ids_BS, batch.language_BS)
        embedded: Tensor = side.embeddings(*(column[:, part.start : part.stop] for column in columns), tied)
        return embedded


def let_end(head: TokenHead, specials: Specials) -> None:
    """Let the head write the end token too: a target ends."""
    head.pieces = sorted([*specials.replaceable, (specials.end, specials.end + 1)])


def _in_part(positions_N: Tensor, row_length: int, part: range) -> Tensor:
    """Flat positions of rows as flat positions of a part of them."""
    return positions_N // row_length * len(part) + positions_N % row_length - part.start


OwnModel = Encoder | TranslationModel


def model_of(config: ModelConfig, device: torch.device | str = "cpu", specials: Specials | None = None) -> OwnModel:
    """The model of that shape: an encoder, or with a decoder one that translates."""
    return (TranslationModel if config.decoder else Encoder)(config, device, specials)

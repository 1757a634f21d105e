"""A prefix language model: one stack of layers that translates, without a decoder and without attention across.

It is an encoder that was trained on MT: who reads whom is the same, but a target reads its source's states of each layer,
not the last ones, and in the same attention as its own past. Source and target share all weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from ernie_m.base.special_tokens import Specials
from ernie_m.models.model import Encoder
from ernie_m.models.past import Grid, LayerPast, Past
from ernie_m.models.translation import let_end


class PrefixModel(nn.Module):
    """An encoder, as ernie_m.models.decoding and ernie_m.models.beams take a TranslationModel."""

    def __init__(self, encoder: Encoder, specials: Specials) -> None:
        super().__init__()
        self.encoder, self.config, self.specials = encoder, encoder.config, specials
        self.token_head = encoder.token_head
        let_end(self.token_head, specials)

    def begun(
        self, ids_R: Tensor, position_R: Tensor, language_R: Tensor, grid: Grid, mask_B11S: Tensor, beams: int, most: int
    ) -> Past:
        """As of a TranslationModel. The first slots of each layer are the source's tokens."""
        hidden_RD, (B, S) = self.encoder.embeddings(ids_R, position_R, language_R), grid.shape
        layers = [LayerPast.empty(B, S + beams * most, self.config.num_heads, hidden_RD) for _ in self.encoder.layers]
        for layer, of_layer in zip(self.encoder.layers, layers, strict=True):
            hidden_RD = layer.step(hidden_RD, grid, mask_B11S, of_layer)  # type: ignore[operator]
        past = Past(layers, mask_B11S, beams)
        past.begin_with_sources()
        return past

    def stepped(self, token_R: Tensor, position_R: Tensor, language_R: Tensor, grid: Grid, past: Past) -> Tensor:
        """As of a TranslationModel: each token reads its whole source, its past and itself."""
        hidden_RD: Tensor = self.encoder.embeddings(token_R, position_R, language_R)
        for layer, of_layer in zip(self.encoder.layers, past.layers, strict=True):
            hidden_RD = layer.step(hidden_RD, grid, past.reads, of_layer, past.newest)  # type: ignore[operator]
        return hidden_RD

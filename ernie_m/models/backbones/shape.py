"""The shape of a model of transformers, in the terms in which ernie_m.models.flops counts."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from ernie_m.models.parts import layer_by_name
from ernie_m.models.shape import ModelConfig


class Counted(Protocol):
    """What is counted of ernie_m.models.backbones.encoder.ForeignEncoder."""

    encoder: Any
    heads: nn.ModuleDict
    attention_dropout: float

    @property
    def width(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


def shape_of(backbone: Counted) -> ModelConfig:
    """The shape of ours that computes as much: its feed-forward is as wide as gives layers their number of weights.

    So a gated feed-forward counts as one and a half, and grouped keys count as what they are.
    """
    width, layers = backbone.width, backbone.num_layers
    ffn_size = round((_layer_weights(backbone) / layers - 4 * width**2) / (2 * width))
    return ModelConfig(
        num_layers=layers,
        hidden_size=width,
        num_heads=max(1, width // backbone.head_size),
        ffn_size=max(1, ffn_size),
        vocab_size=backbone.vocab_size,
        num_languages=1,
        heads=tuple(backbone.heads),
        attention_dropout=backbone.attention_dropout,
    )


def _layer_weights(backbone: Counted) -> int:
    """Weights of the matrices that a token passes in all layers; if layers share a matrix, each counts it."""
    layer_of = layer_by_name(backbone.encoder, "", backbone.num_layers)
    matrices = [(name, p.numel()) for name, p in backbone.encoder.named_parameters() if p.dim() > 1]
    if layer_of is None:
        return backbone.num_layers * sum(size for name, size in matrices if "emb" not in name)
    layers = ((layer_of(name), size) for name, size in matrices)
    return sum(size for layer, size in layers if layer is not None and layer >= 0)

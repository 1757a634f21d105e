"""FLOPs of the encoder, forward and backward: of a token, of a (query, key) pair in attention, of a predicted token."""

from __future__ import annotations

from collections.abc import Mapping

from ernie_m.models.shape import ModelConfig
from ernie_m.models.size import HEAD_SIZES
from ernie_m.rows.objective import TOKEN


def matrix_weights(model: ModelConfig) -> float:
    """N: number of weights in the matrices of all layers, that a token passes.

    With a decoder, source tokens pass the encoder's and give keys and values across to each layer; target tokens pass the
    decoder's and ask across: as many.
    """
    across = 2 * model.hidden_size**2 if model.decoder else 0
    return float(model.num_layers * (4 * model.hidden_size**2 + 2 * model.hidden_size * model.ffn_size + across))


def trunk_flops(model: ModelConfig, keys: float) -> float:
    """FLOPs of a token that reads `keys` keys, forward and backward, through all layers: 6 N + 12 L D keys."""
    return 6.0 * matrix_weights(model) + 12.0 * model.num_layers * model.hidden_size * keys


def head_flops(model: ModelConfig, head: str = TOKEN) -> float:
    """FLOPs of one prediction of a head, forward and backward; the token head's: 6 (V D + D^2)."""
    return HEAD_SIZES[head].flops(model)


def needed_flops(model: ModelConfig, tokens: float, pairs: float, predicted: Mapping[str, float]) -> float:
    """FLOPs that real tokens need, forward and backward: without padding and without recomputation.

    `tokens`: real tokens. `pairs`: (query, key) pairs that are read (ernie_m.rows.read_pairs). `predicted`: number of
    predictions of each head.
    """
    attention = pairs * 12.0 * model.num_layers * model.hidden_size
    of_heads = sum(count * head_flops(model, head) for head, count in predicted.items())
    return tokens * trunk_flops(model, 0) + attention + of_heads


def behind_attention(model: ModelConfig) -> float:
    """FLOPs of a token, forward and backward, in one layer's output projection and feed-forward."""
    return 6.0 * model.hidden_size * (model.hidden_size + 2 * model.ffn_size)

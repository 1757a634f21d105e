"""How large a model is, by arithmetic: no torch, no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ernie_m.models.shape import ModelConfig
from ernie_m.rows.objectives import SENTENCE, TOKEN


@dataclass(frozen=True)
class HeadSize:
    """What a head says of itself: `parameters` of its own, and weights of the `matrices` that each prediction passes."""

    parameters: Callable[[ModelConfig], int]
    matrices: Callable[[ModelConfig], int]

    def flops(self, config: ModelConfig) -> float:
        """FLOPs of a prediction, forward and backward."""
        return 6.0 * self.matrices(config)


def _square(config: ModelConfig) -> int:
    return config.hidden_size**2


HEAD_SIZES = {
    TOKEN: HeadSize(  # its output matrix is the word embedding
        parameters=lambda config: _square(config) + 3 * config.hidden_size + config.vocab,
        matrices=lambda config: _square(config) + config.vocab * config.hidden_size,
    ),
    SENTENCE: HeadSize(
        parameters=lambda config: _square(config) + config.hidden_size,
        matrices=_square,  # beside it a cosine for each other sentence of the row: nothing
    ),
}
"""Of each head of ernie_m.models.heads (a test compares them)."""


def parameter_count(config: ModelConfig) -> int:
    """Parameters of the encoder and the heads of that shape; XLM-R's vocabulary where it leaves that to the data."""
    D, F = config.hidden_size, config.ffn_size
    norm = 2 * D
    embeddings = (config.vocab + config.max_positions + 1 + (config.num_languages or 0)) * D + norm
    layer = 4 * D * D + 4 * D + norm + 2 * D * F + F + D + norm
    return embeddings + config.num_layers * layer + sum(HEAD_SIZES[name].parameters(config) for name in config.head_names)

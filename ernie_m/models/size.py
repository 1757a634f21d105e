"""How large a model is, computed from its shape: without torch, without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ernie_m.models.shape import SHARED, ModelConfig
from ernie_m.rows.objective import ALIGNED, SENTENCE, TOKEN


@dataclass(frozen=True)
class HeadSize:
    """`parameters`: number of the head's own parameters. `matrices`: weights of the matrices that a prediction passes."""

    parameters: Callable[[ModelConfig], int]
    matrices: Callable[[ModelConfig], int]

    def flops(self, config: ModelConfig) -> float:
        """FLOPs of a prediction, forward and backward."""
        return 6.0 * self.matrices(config)


def _square(config: ModelConfig) -> int:
    return config.hidden_size**2


def _projection(config: ModelConfig) -> int:
    return 0 if config.pooling else _square(config)


HEAD_SIZES = {
    TOKEN: HeadSize(  # its output matrix is the word embedding
        parameters=lambda config: _square(config) + 3 * config.hidden_size + config.vocab,
        matrices=lambda config: _square(config) + config.vocab * config.hidden_size,
    ),
    SENTENCE: HeadSize(
        parameters=lambda config: _projection(config) + config.hidden_size * (config.pooling is None),
        matrices=_projection,  # and a cosine for each other sentence of the row, which is too little to count
    ),
    ALIGNED: HeadSize(  # as the token head, behind one more matrix
        parameters=lambda config: 2 * _square(config) + 4 * config.hidden_size + config.vocab,
        matrices=lambda config: 2 * _square(config) + config.vocab * config.hidden_size,
    ),
}
"""The size of each head of ernie_m.models.heads (a test compares them)."""


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters of the encoder and its heads. If the shape has no `vocab_size`, XLM-R's is taken."""
    D, F = config.hidden_size, config.ffn_size
    norm = 2 * D
    embeddings = (config.vocab + config.max_positions + 1 + (config.num_languages or 0)) * D + norm
    layer = 4 * D * D + 4 * D + norm + 2 * D * F + F + D + norm
    if config.decoder:
        across = 4 * D * D + 4 * D + norm
        embeddings *= 1 if config.decoder == SHARED else 2
        layer = 2 * layer + across
    return embeddings + config.num_layers * layer + sum(HEAD_SIZES[name].parameters(config) for name in config.head_names)


def told_size(config: ModelConfig) -> str:
    """'560 M parameters'; with a digit behind the point for a small model."""
    millions = parameter_count(config) / 1e6
    return f"{millions:,.{0 if millions >= 10 else 1}f} M parameters"

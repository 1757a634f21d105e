"""The layers of any encoder (ernie_m.interop.encoder opens it): its size, the one to pool, and the learning rate of each.

Layers are found by structure, not by a model's name: lists of modules of length `num_hidden_layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ernie_m.base.console import InputError
from ernie_m.models.parts import layer_by_name

Size = Literal["base", "large"]
LARGE_HIDDEN_SIZE = 1024


def size_of(config: Any) -> Size:
    """Which column of the paper's fine-tuning table fits: large from a width of 1024 on."""
    return "large" if config.hidden_size >= LARGE_HIDDEN_SIZE else "base"


def layer_of(config: Any, asked: int) -> int:
    """Number of the layer that sentences are pooled from: `asked`, or XTREME's middle one for 0 (7 of 12, 13 of 24).

    Counted as in transformers' `hidden_states`, whose 0 are the embeddings. Raises InputError for one that is not there.
    """
    num_layers = int(config.num_hidden_layers)
    if not 0 <= asked <= num_layers:
        raise InputError(f"layer: {asked}; expected 1 .. {num_layers}, or 0 for the middle one")
    return asked or num_layers // 2 + 1


def learning_rate_shares(model: Any, decay: float) -> dict[str, float]:
    """Parameter name -> its share of the learning rate: layer i of L decay^(L-i), embeddings decay^(L+1), all else 1.

    All else is the heads, a pooler, and a norm after the last layer. Raises InputError for an encoder whose layers cannot be
    told apart (ALBERT shares them).
    """
    if decay == 1.0:
        return dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    place = place_of(model)
    num_layers = int(model.config.num_hidden_layers)
    shares = {}
    for name, _ in model.named_parameters():
        layer = place(name)
        shares[name] = 1.0 if layer is None else decay ** (num_layers - layer)
    return shares


def place_of(model: Any) -> Callable[[str], int | None]:
    """Parameter name -> number of its layer from 0, -1 for embeddings, None for what is above the layers."""
    num_layers = int(model.config.num_hidden_layers)
    place = layer_by_name(model, f"{model.base_model_prefix}.", num_layers)
    if place is None:
        kind = model.config.model_type
        raise InputError(f"layer_decay: {kind} has no list of {num_layers} layers; expected one, or give layer_decay=1")
    return place

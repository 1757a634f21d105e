"""Which part and which layer of a model a parameter belongs to: found by structure and name, for any encoder.

Layers are the module lists of length `num_layers`. Embeddings are parameters outside of them with "emb" in their names.
Heads are in `heads`. The word embedding belongs to the embeddings, also if a head's output matrix is the same Parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ernie_m.base.console import InputError
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.schedule import EMBEDDINGS, ENCODER, HEADS_PART

EMBEDDED = -1
"""The layer number of embeddings."""


@dataclass(frozen=True)
class Place:
    """A part (one of ernie_m.rows.schedule.PARTS) and a layer, from 0; None above the layers or if none are found."""

    part: str
    layer: int | None = None


def layer_by_name(model: nn.Module, prefix: str, num_layers: int) -> Callable[[str], int | None] | None:
    """A function: parameter name -> its layer, from 0; EMBEDDED for embeddings, None for parameters above the layers.

    Only names that begin with `prefix` count. Returns None if there is no list of layers (ALBERT shares one layer).
    """
    lists = [
        re.escape(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and name.startswith(prefix)
    ]
    if not lists:
        return None
    in_layer = re.compile(rf"(?:{'|'.join(lists)})\.(\d+)\.")

    def layer_of(name: str) -> int | None:
        if match := in_layer.match(name):
            return int(match[1])
        return EMBEDDED if is_embedding(name, prefix) else None

    return layer_of


def is_embedding(name: str, prefix: str) -> bool:
    """Whether a parameter outside of the layers is an embedding or in an embedding module, by its name."""
    return re.match(rf"{re.escape(prefix)}(?:.*[._])?emb(?:ed\w*)?(?:[._]|$)", name) is not None


def places_of(model: PretrainingModel) -> dict[str, Place]:
    """The place of each parameter of a backbone with heads, by name."""
    layer_of = layer_by_name(model, model.backbone_prefix, model.num_layers)
    return {name: _place(name, model.backbone_prefix, layer_of) for name, _ in model.named_parameters()}


def _place(name: str, prefix: str, layer_of: Callable[[str], int | None] | None) -> Place:
    if name.startswith("heads."):
        return Place(HEADS_PART)
    layer = layer_of(name) if layer_of else (EMBEDDED if is_embedding(name, prefix) else None)
    return Place(EMBEDDINGS) if layer == EMBEDDED else Place(ENCODER, layer)


def rate_factors_of(
    model: PretrainingModel, factors: Mapping[str, float] | None, layer_decay: float | None
) -> dict[str, float]:
    """Parameter name -> factor of the learning rate: that of its part, times decay^(L-i) for layer i of L, from 0, or
    decay^(L+1) for embeddings. Raises InputError if `layer_decay` is given and there is no list of layers."""
    places, decay = places_of(model), 1.0 if layer_decay is None else layer_decay
    if decay != 1.0 and not any(place.layer is not None for place in places.values()):
        raise InputError(
            f"optimizer.layer_decay: {layer_decay}; the model has no list of {model.num_layers} layers (it may share them); "
            "expected null"
        )

    def factor(place: Place) -> float:
        layer = EMBEDDED if place.part == EMBEDDINGS else place.layer
        by_depth = 1.0 if layer is None else decay ** (model.num_layers - layer)
        return (factors or {}).get(place.part, 1.0) * by_depth

    return {name: factor(place) for name, place in places.items()}

"""What is changed in a model of transformers before it is trained, and what it says of itself."""

from __future__ import annotations

from typing import Any

from torch import nn

from ernie_m.base.console import InputError
from ernie_m.models.backbones.rule import KEYWORD, RowsRead


def set_dropout(encoder: Any, dropout: float, name: str) -> None:
    """Raises InputError for a class without dropout of hidden states, if it is to have some."""
    places = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    if dropout and not places:
        raise InputError(f"model.dropout: {dropout:g}; {name} has no dropout of hidden states; expected null or 0")
    for place in places:
        place.p = dropout


def computed_buffers(encoder: Any) -> list[tuple[nn.Module, str]]:
    """Buffers that are computed, not stored: (module, name)."""
    return [
        (module, name)
        for module in encoder.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and buffer.is_floating_point()
    ]


def keep_wanted(module: nn.Module, inputs: Any, keywords: dict[str, Any], output: Any) -> Any:
    """A forward hook on the last layer's attention. After it positions are independent, so only the wanted ones go on.

    If none is wanted, all go on: some classes look at the first position of what is left.
    """
    rows: RowsRead | None = keywords.get(KEYWORD)
    if rows is None or rows.wanted_N is None or not len(rows.wanted_N):
        return None
    rows.is_cut = True
    return (output[0].flatten(0, 1)[rows.wanted_N][None], *output[1:])


def take_out_pooler(encoder: Any) -> tuple[str, ...]:
    """Make the pooler's parameters buffers, and leave it out of the forward: no loss reaches it. Their names in the encoder.

    DeepSpeed casts parameters alone: in bf16 the pooler would not fit the states.
    """
    pooler, names = getattr(encoder, "pooler", None), []
    if isinstance(pooler, nn.Module):
        pooler.forward = lambda states, *others: states
    for prefix, module in pooler.named_modules(prefix="pooler") if isinstance(pooler, nn.Module) else ():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
            names.append(f"{prefix}.{name}")
    return tuple(names)


def attention_dropout_of(config: Any) -> float:
    said = (getattr(config, key, None) for key in ("attention_probs_dropout_prob", "attention_dropout"))
    return float(next((value for value in said if value is not None), 0.0))

"""Averaging weights with those that a run started from. Languages that training made worse mostly recover.

`keep` is the share of the start: trained + keep x (start - trained), 0 the trained weights, 1 the start's. Parameters that
the start lacked (a head drawn from the seed) are not averaged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ernie_m.base.console import InputError


def averaged(
    trained: Mapping[str, Tensor], start: Mapping[str, Tensor], keep: float, fresh: Collection[str] = ()
) -> dict[str, Tensor]:
    """New fp32 weights of one model, of both its state dicts; those of names in `fresh` are the trained ones.

    Raises InputError where names or shapes differ: these are not two states of one model.
    """
    assert 0 <= keep <= 1, keep
    differing = sorted(name for name in trained.keys() | start.keys() if _shape(trained, name) != _shape(start, name))
    if differing:
        name = differing[0]
        there, before = (_shape(weights, name) or "missing" for weights in (trained, start))
        raise InputError(
            f"{name}: {there} in the trained weights, {before} in the start's; expected two states of one model"
        )
    return {
        name: tensor if name in fresh or not tensor.is_floating_point() else _between(tensor, start[name], keep)
        for name, tensor in trained.items()
    }


def _between(trained: Tensor, start: Tensor, keep: float) -> Tensor:
    return torch.lerp(trained.float(), start.float(), keep)  # exact at both ends


def _shape(weights: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(weights[name].shape) if name in weights else None

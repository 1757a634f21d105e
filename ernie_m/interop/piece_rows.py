"""The tensors of a model that have a row for each piece.

The model's class shows which these are: it is built twice, without memory, for two sizes of the vocabulary. Tensors whose
shapes differ have a row for each piece. So word embedding, output matrix and output bias are found under any name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import transformers
from torch import nn

from ernie_m.base.console import InputError
from ernie_m.interop.opening import one_line, skeleton_of


def names_of_rows(config: Any, stored: Mapping[str, tuple[int, ...]], where: str) -> list[str]:
    """The stored tensors that have a row a piece; `config` is transformers' configuration, of a class that it knows.

    Raises InputError where the word embedding is not among them, or one is stored that the class does not have.
    """
    known: set[str] = set()
    of_pieces: set[str] = set()
    for build in _classes(config, where):
        small, large = (_shapes(build, config, more, where) for more in (0, 1))
        known |= small.keys()
        of_pieces |= {name for name in small if small[name] != large[name]}
        if wrong := [name for name in of_pieces & small.keys() if small[name][1:] != large[name][1:]]:
            raise InputError(f"{where}: {wrong[0]} has its pieces in another dimension than the first; expected rows")
    found = sorted(name for name in stored if _is_among(name, of_pieces))
    if not any(len(stored[name]) == 2 for name in found):
        raise InputError(f"{where}: no word embedding among the stored tensors, expected {' or '.join(sorted(of_pieces))}")
    sizes = {stored[name][0] for name in found}
    strange = [name for name, shape in stored.items() if shape[:1] in {(n,) for n in sizes} and not _is_among(name, known)]
    if strange:
        raise InputError(f"{where}: {strange[0]} has a row a piece, but its class has no such tensor; take it out first")
    return found


def _classes(config: Any, where: str) -> Iterable[Callable[[Any], nn.Module]]:
    """The classes that config.json names, and the one with an MLM head, whose tensors may be stored too."""
    named = [getattr(transformers, str(name), None) for name in config.architectures or ()]
    yield from (build for build in named if isinstance(build, type) and issubclass(build, transformers.PreTrainedModel))
    yield lambda sized: skeleton_of(transformers.AutoModel, sized, where, trust_remote_code=False)
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        yield lambda sized: skeleton_of(transformers.AutoModelForMaskedLM, sized, where, trust_remote_code=False)


def _shapes(build: Callable[[Any], nn.Module], config: Any, more: int, where: str) -> dict[str, tuple[int, ...]]:
    config = copy.deepcopy(config)
    config.vocab_size += more
    with one_line(f"{where}: its class cannot be built"), torch.random.fork_rng(devices=[]), torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}


def _is_among(name: str, names: set[str]) -> bool:
    """Whether the tensor is there, with or without the name of the part that a head stands on in front."""
    return name in names or name.partition(".")[2] in names or any(other.partition(".")[2] == name for other in names)

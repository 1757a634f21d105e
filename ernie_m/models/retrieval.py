"""Retrieval: is a sentence's nearest neighbour, by cosine of mean-pooled hidden states, its translation?

`mean_pooled` makes the vectors, `accuracy_at_1` compares them in both directions. Works with any Hugging Face encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ernie_m.base.console import InputError, Progress
from ernie_m.models.tokenized import Tokenized

Pool = Callable[[Tensor, Tensor], Tensor]
"""(states [..., B, S, D], mask [B, S]: 1 at real tokens) -> a vector for each text, [..., B, D]."""


def accuracy_at_1(source_ND: Tensor, target_ND: Tensor, piece: int = 2048) -> tuple[float, float]:
    """Share of sentences whose nearest neighbour by cosine is their translation: source -> target, target -> source."""
    found = []
    for queries, keys in ((source_ND, target_ND), (target_ND, source_ND)):
        neighbours = nearest(queries, keys, piece)
        found.append((neighbours == torch.arange(len(queries), device=neighbours.device)).float().mean().item())
    return found[0], found[1]


def nearest(queries_ND: Tensor, keys_KD: Tensor, piece: int = 2048) -> Tensor:
    """Number of the nearest key by cosine for each query: int64 [N]."""
    queries_ND, keys_KD = (nn.functional.normalize(side.float(), dim=1) for side in (queries_ND, keys_KD))
    return torch.cat([(part @ keys_KD.T).argmax(dim=1) for part in queries_ND.split(piece)])


def states_of_layers(model: nn.Module, inputs: Mapping[str, Tensor], needed_by: str) -> tuple[Tensor, ...]:
    """States [B, S, D] of each layer of a Hugging Face encoder, embeddings first.

    Raises InputError where they are of another shape; `needed_by` names what needs them.
    """
    layers: tuple[Tensor, ...] = model(**inputs, output_hidden_states=True).hidden_states
    if not layers or {layer.shape[:2] for layer in layers} != {inputs["attention_mask"].shape}:
        raise InputError(f"{type(model).__name__}: its layers do not give a state a token, which {needed_by} needs")
    return layers


def mean_over_tokens(states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean of the states of real tokens (mask 1), special tokens included; axes before B are kept: [..., B, D]."""
    weights = mask_BS[:, :, None].to(states_BSD.dtype)
    return (states_BSD * weights).sum(-2) / weights.sum(-2)


def first_token(states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """The state of each text's first token; axes in front of B are kept: [..., B, D]."""
    return states_BSD[..., 0, :]


def mean_pooled(model: nn.Module, texts: Tokenized, device: torch.device, note: str) -> Tensor:
    """Each text's mean hidden state in every layer of a Hugging Face encoder: fp32 [layers + 1, N, D], on the CPU."""
    return _pooled(model, texts.characters, lambda chosen: texts.batch(chosen).to(device), mean_over_tokens, device, note)


def pooled_ids(
    model: nn.Module, texts: Sequence[np.ndarray], pad: int, pool: Pool, device: torch.device, note: str
) -> Tensor:
    """As `mean_pooled`, of texts as ids with their special tokens, and pooled by `pool`."""

    def inputs_of(chosen: Sequence[int]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(texts[i]) for i in chosen])
        mask_BS = torch.arange(int(lengths.max())) < lengths[:, None]
        ids_BS = torch.full(mask_BS.shape, pad)
        ids_BS[mask_BS] = torch.from_numpy(np.concatenate([texts[i] for i in chosen])).long()
        return {"input_ids": ids_BS.to(device), "attention_mask": mask_BS.long().to(device)}

    return _pooled(model, list(map(len, texts)), inputs_of, pool, device, note)


def _pooled(
    model: nn.Module,
    lengths: Sequence[int],
    inputs_of: Callable[[Sequence[int]], Any],
    pool: Pool,
    device: torch.device,
    note: str,
) -> Tensor:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    pooled: list[Tensor] = [torch.empty(0)] * len(lengths)
    progress = Progress(f"encoding {note}", len(lengths), "sentences")
    model.eval().to(device)
    with torch.no_grad():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            inputs = inputs_of(chosen)
            layers = states_of_layers(model, inputs, "pooling")
            vectors = pool(torch.stack(layers), inputs["attention_mask"]).float().cpu()
            for column, i in enumerate(chosen):
                pooled[i] = vectors[:, column]
            progress.advance(len(chosen))
    progress.close()
    return torch.stack(pooled, dim=1)

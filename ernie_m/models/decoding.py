"""Greedy translation: the likeliest next token, again and again, each computed once.

1. The sources of a batch are encoded, and each decoder layer makes its keys and values of them.
2. A step writes one token of every target: it reads the keys and values that each layer has kept of the target so far.
3. A target ends with the end token, or at its longest length. A batch ends with its last target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ernie_m.models.pretraining import without_training
from ernie_m.models.translation import Past, TranslationModel

TOKENS_MORE, TIMES_LONGER = 10, 1.5
"""A target has at most 1.5 n + 10 tokens, n of its source (XLM's evaluation)."""


def longest_target(num_tokens: int) -> int:
    """Most tokens of a target whose source has so many, both without special tokens."""
    return int(TIMES_LONGER * num_tokens) + TOKENS_MORE


def translated(
    model: TranslationModel, sources: Sequence[np.ndarray], languages: tuple[int, int], longest: int
) -> list[np.ndarray]:
    """Targets of these sources, int32 ids without special tokens; all sources in one batch.

    `languages`: of sources and of targets. `longest`: positions that the model has for a sentence with its special tokens.
    """
    limits = [min(longest_target(len(source)), longest - 2) for source in sources]
    with without_training(model):
        return _written(model, sources, languages, limits)


def _written(
    model: TranslationModel, sources: Sequence[np.ndarray], languages: tuple[int, int], limits: list[int]
) -> list[np.ndarray]:
    device, specials = model.decoder.embeddings.word.weight.device, model.specials
    states_BSD, mask_across = _encoded(model, sources, languages[0])
    past = _empty_past(model, states_BSD, 1 + max(limits))
    limit_B = torch.tensor(limits, device=device)
    forbidden_V = torch.ones(model.config.vocab, dtype=torch.bool, device=device)
    for first, last in (*specials.replaceable, (specials.end, specials.end + 1)):
        forbidden_V[first:last] = False
    begin = specials.end if specials.begin is None else specials.begin
    token_B1 = torch.full((len(sources), 1), begin, dtype=torch.long, device=device)
    language_B1 = torch.full_like(token_B1, languages[1])
    is_open_B = torch.ones(len(sources), dtype=torch.bool, device=device)
    written: list[Tensor] = []
    while bool(is_open_B.any()):
        position_B1 = torch.full_like(token_B1, specials.first_position + len(written))
        hidden = model.decoder.embeddings(token_B1, position_B1, language_B1)
        for layer, of_layer in zip(model.decoder.layers, past, strict=True):
            hidden = layer.step(hidden, of_layer, mask_across)  # type: ignore[operator]
        logits_BV = model.token_head.logits(hidden[:, 0]).float().masked_fill(forbidden_V, -torch.inf)
        token_B = logits_BV.argmax(-1)
        token_B = torch.where(is_open_B & (limit_B > len(written)), token_B, specials.end)
        is_open_B = is_open_B & (token_B != specials.end)
        written.append(token_B)
        token_B1 = token_B[:, None]
    found_BT = torch.stack(written, dim=1).cpu().numpy().astype(np.int32)
    return [row[: int((row == specials.end).argmax())] for row in found_BT]


def _encoded(model: TranslationModel, sources: Sequence[np.ndarray], language: int) -> tuple[Tensor, Tensor]:
    """States of the sources, [B, S, D], and which of them are real, bool [B, 1, 1, S]."""
    device, specials = model.encoder.embeddings.word.weight.device, model.specials
    begin = [] if specials.begin is None else [specials.begin]
    rows = [torch.tensor([*begin, *source.tolist(), specials.end]) for source in sources]
    ids_BS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=specials.pad).to(device)
    lengths_B = torch.tensor([len(row) for row in rows], device=device)
    places_S = torch.arange(ids_BS.shape[1], device=device)
    real_BS = places_S < lengths_B[:, None]
    position_BS = torch.where(real_BS, places_S + specials.first_position, max(0, specials.first_position - 1))
    mask = real_BS[:, None, None, :]
    return model.encoded(ids_BS, position_BS, torch.where(real_BS, language, 0), mask), mask


def _empty_past(model: TranslationModel, states_BSD: Tensor, room: int) -> list[Past]:
    shape = (len(states_BSD), model.config.num_heads, room, model.config.head_size)
    return [
        Past(layer.keys_across(states_BSD), states_BSD.new_empty(shape), states_BSD.new_empty(shape))  # type: ignore[operator]
        for layer in model.decoder.layers
    ]

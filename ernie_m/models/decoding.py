"""Greedy translation: the likeliest next token, again and again, each computed once.

1. The sources of a batch are encoded, and each decoder layer makes its keys and values of them.
2. A step writes one token of every target: it reads the keys and values that each layer has kept of the target so far.
3. A target ends with the end token, or at its longest length. A batch ends with its last target; where several ranks write
   together (ZeRO-3 gathers weights for each step), with the last of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ernie_m.base.special_tokens import Specials
from ernie_m.models.past import Grid, Past
from ernie_m.models.prefix import PrefixModel
from ernie_m.models.pretraining import AllAgree, alone, without_training
from ernie_m.models.translation import TranslationModel

Translates = TranslationModel | PrefixModel

TOKENS_MORE, TIMES_LONGER = 10, 1.5
"""A target has at most 1.5 n + 10 tokens, n of its source (XLM's evaluation)."""


def longest_target(num_tokens: int) -> int:
    """Most tokens of a target whose source has so many, both without special tokens."""
    return int(TIMES_LONGER * num_tokens) + TOKENS_MORE


@dataclass(frozen=True)
class Order:
    """What is to be translated, on the model's device: `ids_BS`, sources with their special tokens, and their `lengths_B`.

    `from_B` and `to_B`: languages. `limit_B`: most tokens of each target without special tokens; `longest`: of all of them.
    """

    ids_BS: Tensor
    lengths_B: Tensor
    from_B: Tensor
    to_B: Tensor
    limit_B: Tensor
    longest: int


def translated(
    model: Translates, sources: Sequence[np.ndarray], languages: tuple[int, int], longest: int
) -> list[np.ndarray]:
    """Targets of these sources, int32 ids without special tokens; all sources in one batch.

    `languages`: of sources and of targets. `longest`: positions that the model has for a sentence with its special tokens.
    """
    limits = [min(longest_target(len(source)), longest - 2) for source in sources]
    with without_training(model):
        found_BT = written(model, ordered(model, sources, languages, limits)).cpu().numpy().astype(np.int32)
    return [row[: int((row == model.specials.end).argmax())] for row in found_BT]


def written(model: Translates, order: Order, all_agree: AllAgree = alone) -> Tensor:
    """Targets, int64 [B, T]: behind its last token each holds the end token to the end of the tensor.

    `all_agree`: asked, after each step, whether all sentences of all ranks have ended. So all make the same number of steps;
    one whose own have ended repeats its last one.
    """
    device, specials, B = order.ids_BS.device, model.specials, len(order.ids_BS)
    past, grid = begun(model, order), Grid((B, 1))
    token_B = torch.full((B,), first_token(specials), device=device)
    is_open_B = torch.ones(B, dtype=torch.bool, device=device)
    found_BT = torch.full((B, order.longest + 1), specials.end, dtype=torch.long, device=device)
    num_steps, first = 0, past.end
    while not all_agree(not bool(is_open_B.any())):
        place = min(num_steps, order.longest)
        past.end = first + place
        past.add(token_B[:, None])
        position_B = torch.full_like(token_B, specials.first_position + place)
        states_BD = model.stepped(token_B, position_B, order.to_B, grid, past)
        token_B = model.token_head(states_BD).long()
        token_B = torch.where(is_open_B & (order.limit_B > num_steps), token_B, specials.end)
        is_open_B = is_open_B & (token_B != specials.end)
        found_BT[:, place] = token_B
        num_steps += 1
    return found_BT[:, :num_steps]


def ordered(model: Translates, sources: Sequence[np.ndarray], languages: tuple[int, int], limits: list[int]) -> Order:
    """Sources, int32 ids without special tokens, as one batch; `limits`: most tokens of each target."""
    device, specials = model.encoder.embeddings.word.weight.device, model.specials
    begin = [] if specials.begin is None else [specials.begin]
    rows = [torch.tensor([*begin, *source.tolist(), specials.end]) for source in sources]
    ids_BS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=specials.pad)
    columns = [len(row) for row in rows], [languages[0]] * len(rows), [languages[1]] * len(rows), limits
    lengths_B, from_B, to_B, limit_B = (torch.tensor(column, device=device) for column in columns)
    return Order(ids_BS.to(device), lengths_B, from_B, to_B, limit_B, max(limits))


def begun(model: Translates, order: Order, beams: int = 1) -> Past:
    """What is remembered of the sources before the first token, for `beams` targets of each. Padding is not computed."""
    places_S = torch.arange(order.ids_BS.shape[1], device=order.ids_BS.device)
    is_real_BS = places_S < order.lengths_B[:, None]
    position_BS = torch.where(
        is_real_BS, places_S + model.specials.first_position, max(0, model.specials.first_position - 1)
    )
    language_BS = torch.where(is_real_BS, order.from_B[:, None], 0)
    mask_BS = torch.zeros(is_real_BS.shape, dtype=model.token_head.decoder_weight.dtype, device=places_S.device)
    mask_BS = mask_BS.masked_fill(~is_real_BS, -torch.inf)
    grid = Grid.of(is_real_BS)
    ids_R, position_R, language_R = (grid.rows(column) for column in (order.ids_BS, position_BS, language_BS))
    return model.begun(ids_R, position_R, language_R, grid, mask_BS[:, None, None], beams, 1 + order.longest)


def first_token(specials: Specials) -> int:
    """What stands before the first token of a target."""
    return specials.end if specials.begin is None else specials.begin

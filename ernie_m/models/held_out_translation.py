"""How well a model translates text that it is not trained on: the loss of held-out pairs, and of round trips without pairs.

1. `pair_rows`: MT rows of each pair in both directions. `held_out_loss/MT/en-fr` is the mean nll of a French token.
2. `round_trip_rows`: BT rows of texts. `round_trip_loss/en-fr` is the mean nll of a token of English text, given what the
   model makes of it in French. So a run without pairs can choose its checkpoint (arXiv 1711.00043 takes BLEU for that).
3. `copied`: the share of the tokens it wrote that stand in the text at the same place. A model that copies has a low round
   trip loss, and translates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ernie_m.base.sampling import key_of
from ernie_m.models.pretraining import AllAgree, alone, shares, without_training
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import Document, Example, LossRequest, PackedBatch
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.halves import halves_of, least_length
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BT, LOSS_INDEX, MT, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings

Direction = tuple[int, int]
"""Languages of source and target."""


@dataclass(frozen=True)
class Rows:
    """Rows of one objective; each row holds one direction, and its metric is the direction's number in `directions`."""

    objective: Objective
    rows: list[PackedRow]
    directions: list[Direction]


@dataclass(frozen=True)
class Measured:
    """Mean nll in nats a token: in all, and of each direction. `copied`: share of the tokens that the model wrote."""

    loss: float
    losses: dict[Direction, float]
    copied: float | None


def pair_rows(pairs: Sequence[Example], settings: RowSettings) -> Rows:
    """Every pair in both directions, without those that have a side longer than half a row."""
    layout = settings.layout(MT)
    documents: dict[Direction, list[Document]] = {}
    for pair in pairs:
        for turn in (1, -1):
            example = Example(pair.sentences[::turn], pair.languages[::turn])
            documents.setdefault((example.languages[0], example.languages[1]), []).append(layout.lay_out(example, 0))
    return _rows(MT, documents, settings)


def round_trip_rows(texts: Sequence[Example], languages: Sequence[int], settings: RowSettings) -> Rows:
    """Each text once, into one of the other languages in turn; without those that are longer than a row has room for."""
    layout = settings.layout(BT)
    documents: dict[Direction, list[Document]] = {}
    for number, text in enumerate(texts):
        (own,) = text.languages
        others = [language for language in languages if language != own]
        to = others[number % len(others)]
        documents.setdefault((own, to), []).append(layout.lay_out(text, key_of(settings.seed, "round trip", number), to))
    return _rows(BT, documents, settings)


def _rows(objective: Objective, documents: Mapping[Direction, Sequence[Document]], settings: RowSettings) -> Rows:
    length, number = settings.sequence_length, OBJECTIVE_INDEX[objective.name]
    half = len(halves_of(length)[0])
    rows: list[PackedRow] = []
    directions: list[Direction] = []
    for direction, found in sorted(documents.items()):
        usable = [document for document in found if least_length(document) <= length]
        if not usable:
            continue
        sides_E2 = np.array([[int((document.group == group).sum()) for group in (0, 1)] for document in usable])
        own: list[Document] = []
        used = np.zeros(2, np.int64)
        for document, sides in zip(usable, sides_E2, strict=True):
            if (used + sides > half).any():
                rows.append(PackedRow(own, number, len(directions)))
                own, used = [], np.zeros(2, np.int64)
            own, used = [*own, document], used + sides
        rows.append(PackedRow(own, number, len(directions)))
        directions.append(direction)
    return Rows(objective, rows, directions)


def measured(
    model: nn.Module,
    held_out: Rows,
    settings: RowSettings,
    device: torch.device,
    rows_at_a_time: int = 8,
    rank: int = 0,
    world_size: int = 1,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    poll: Callable[[], None] = lambda: None,
    all_agree: AllAgree = alone,
) -> Measured:
    """The losses. Each rank takes its share; all do the same number of forwards. `poll` is called before each."""
    num_directions = len(held_out.directions)
    padding = PackedRow([], OBJECTIVE_INDEX[held_out.objective.name], 0)
    request = LossRequest(torch.zeros(len(LOSS_INDEX), device=device), num_directions)
    sums = torch.zeros(3, num_directions, dtype=torch.float64, device=device)
    written = torch.zeros(2, dtype=torch.float64, device=device)
    for own in shares(held_out.rows, padding, rows_at_a_time, rank, world_size, poll):
        batch = to_device(pack(own, settings.sequence_length, held_out.objective.generates, settings.specials), device)
        full = fill_placeholders(model, batch, all_agree)
        with without_training(model):
            _, nll_M = model(full, request)
        sums[0] += nll_M
        sums[1] += torch.bincount(full.metric_N, minlength=num_directions)
        written += _copied(full, settings)
    nll_M, count_M, _ = sum_over_ranks(sums).tolist()
    copied, num_written = sum_over_ranks(written).tolist()
    losses = {direction: nll / count for direction, nll, count in zip(held_out.directions, nll_M, count_M, strict=True)}
    share = copied / max(1.0, num_written) if held_out.objective.generates else None
    return Measured(sum(nll_M) / sum(count_M), losses, share)


def _copied(batch: PackedBatch[Tensor], settings: RowSettings) -> Tensor:
    """How many tokens of translations are those of the text at the same place, and how many there are."""
    back = batch.back_translation
    if back is None:
        return torch.zeros(2, device=batch.input_ids_BS.device)
    slots_GK = back.slots_GK.long()
    ids_GK, document_GK = (column.flatten()[slots_GK.clamp(min=0)] for column in (batch.input_ids_BS, batch.document_BS))
    is_token_GK = (slots_GK >= 0) & (document_GK >= 0) & (ids_GK != settings.specials.end)
    is_token_GK[:, : int(settings.specials.begin is not None)] = False
    width = min(ids_GK.shape[1], back.text_ids_GT.shape[1])
    is_same = (ids_GK[:, :width] == back.text_ids_GT[:, :width]) & is_token_GK[:, :width]
    return torch.stack([is_same.sum(), is_token_GK.sum()]).double()

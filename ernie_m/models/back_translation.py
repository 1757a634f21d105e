"""BT's generation: the model translates the texts of its own batch, and learns to give them back.

Greedy, without gradient and without dropout (ernie_m.models.decoding). A translation is written into the slots that its row
kept free, on the device; slots behind its end become padding. Then the completed row is trained on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.models.decoding import Order, written
from ernie_m.models.pretraining import AllAgree
from ernie_m.rows.back_translation import NO_SLOT
from ernie_m.rows.batch import PAD_DOCUMENT, BackTranslation, PackedBatch

if TYPE_CHECKING:
    from ernie_m.models.translation import TranslationModel


def back_translated(model: TranslationModel, batch: PackedBatch[Tensor], all_agree: AllAgree) -> Tensor:
    """A translation of each text of a batch, int64 [G, T]: behind its last token each holds the end token."""
    texts = batch.back_translation
    assert texts is not None
    num_special = 1 + (model.specials.begin is not None)
    room_G = (texts.slots_GK != NO_SLOT).sum(dim=1)
    languages = texts.from_G.long(), texts.to_G.long()
    longest = max(0, texts.slots_GK.shape[1] - num_special)
    order = Order(texts.text_ids_GT, texts.lengths_G, *languages, room_G - num_special, longest)
    return written(model, order, all_agree)


def filled(
    batch: PackedBatch[Tensor], texts: BackTranslation[Tensor], targets_GT: Tensor, specials: Specials
) -> PackedBatch[Tensor]:
    """The batch with these translations in the slots of its texts."""
    begin = [] if specials.begin is None else [specials.begin]
    sentence_GT = F.pad(targets_GT, (len(begin), 1), value=specials.end)
    for place, token in enumerate(begin):
        sentence_GT[:, place] = token
    is_slot_GK = texts.slots_GK != NO_SLOT
    num_slots = texts.slots_GK.shape[1]
    sentence_GK = F.pad(sentence_GT, (0, max(0, num_slots - sentence_GT.shape[1])), value=specials.end)[:, :num_slots]
    length_G = (targets_GT != specials.end).sum(dim=1) + len(begin) + 1
    is_used_GK = torch.arange(num_slots, device=length_G.device) < length_G[:, None]
    # How many slots there are the host would wait to learn: what is no slot is written behind the end, and cut off.
    place_GK = torch.where(is_slot_GK, texts.slots_GK.long(), batch.input_ids_BS.numel())

    def put(column_BS: Tensor, used_GK: Tensor, otherwise: int) -> Tensor:
        flat = F.pad(column_BS.flatten(), (0, 1))
        written_GK = torch.where(is_used_GK, used_GK, otherwise).to(flat.dtype)
        return flat.index_copy(0, place_GK.flatten(), written_GK.flatten())[:-1].view_as(column_BS)

    def cut(column_BS: Tensor, otherwise: int) -> Tensor:
        return put(column_BS, F.pad(column_BS.flatten(), (0, 1))[place_GK], otherwise)

    return replace(
        batch,
        input_ids_BS=put(batch.input_ids_BS, sentence_GK, specials.pad),
        position_ids_BS=cut(batch.position_ids_BS, max(0, specials.first_position - 1)),
        language_BS=cut(batch.language_BS, NO_LANGUAGE),
        document_BS=cut(batch.document_BS, PAD_DOCUMENT),
        reads_BS=cut(batch.reads_BS, 0),
    )

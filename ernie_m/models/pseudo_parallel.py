"""BTMLM's generation (the paper's stage 1): the model writes pseudo tokens into the placeholders of its own batch.

All placeholders of a document are predicted at once, from the uncorrupted sentence and their target language, without
gradient and without dropout. The ids are written into the placeholders on the device. Then the completed row is trained on.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ernie_m.models.pretraining import without_training
from ernie_m.rows.batch import PackedBatch


def fill_placeholders(model: nn.Module, batch: PackedBatch[Tensor]) -> PackedBatch[Tensor]:
    """The batch with the pseudo tokens of `model` in its placeholders; unchanged if it has no generation.

    Under ZeRO-3 all ranks must call this for the same micro-batches; `pack(generates=True)` makes sure of it.
    """
    if batch.generation is None:
        return batch
    with without_training(model):
        pseudo_tokens_K: Tensor = model(batch)
    input_ids_BS = batch.input_ids_BS
    slots_K = batch.generation.slots_K.long()
    filled = input_ids_BS.flatten().index_copy(0, slots_K, pseudo_tokens_K.to(input_ids_BS.dtype))
    return replace(batch, input_ids_BS=filled.view_as(input_ids_BS))

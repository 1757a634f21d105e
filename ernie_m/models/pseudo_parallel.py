"""What the model writes into its own batch before the loss, without gradient and without dropout.

1. BTMLM (the paper's stage 1): pseudo tokens into placeholders. All of a document are predicted at once, from the
   uncorrupted sentence and their target language.
2. BT: translations into slots (ernie_m.models.back_translation).

The ids are written on the device. Then the completed row is trained on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from ernie_m.models.back_translation import back_translated, filled
from ernie_m.models.pretraining import AllAgree, alone, without_training
from ernie_m.rows.batch import PackedBatch


def fill_placeholders(model: nn.Module, batch: PackedBatch[Tensor], all_agree: AllAgree = alone) -> PackedBatch[Tensor]:
    """The batch with what `model` writes in its placeholders or slots; unchanged if it has no generation.

    Under ZeRO-3 all ranks must call this for the same micro-batches; `pack(generates=True)` makes sure of it. `all_agree`:
    how they agree that all is written.
    """
    if not batch.generates:
        return batch
    generate = partial(back_translated, all_agree=all_agree) if batch.back_translation is not None else None
    with without_training(model):
        found: Tensor = model(batch, generate=generate)
    if batch.back_translation is not None:
        return filled(batch, batch.back_translation, found, model.specials)  # type: ignore[arg-type]
    assert batch.generation is not None
    input_ids_BS = batch.input_ids_BS
    input_ids = input_ids_BS.flatten().index_copy(0, batch.generation.slots_K.long(), found.to(input_ids_BS.dtype))
    return replace(batch, input_ids_BS=input_ids.view_as(input_ids_BS))

"""Which models of transformers can use the attention rule: first by what their class says, then by a trial.

A list of classes would not be enough: what a class does with masks, windows and positions may change with any release of
transformers. So each model is tried on a row of two short documents, and three things must hold:

1. Each layer calls our attention function, once.
2. The states of one document are bit-equal when the words of the other one change.
3. They are the states that the class itself computes for that document alone, with its own attention and windows, in any
   order of its tokens in the row.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.models.backbones.rule import NAME, OtherAttentionError, RowsRead
from ernie_m.rows.batch import NO_HORIZON, PAD_DOCUMENT, PackedBatch

SHORT = 7
PADDING = 3
MOST = 600
"""Most tokens of the longer document; it should be longer than any window."""
TOLERANCE = 1e-3
"""Largest difference, as a share of the greatest state, in fp32. Rounding gives 1e-6, an error of one position 1e-2."""
LIBRARY = "transformers."


class Backbone(Protocol):
    """The part of ernie_m.models.backbones.encoder.ForeignEncoder that the trial needs."""

    encoder: Any
    batch_first_position: int

    @property
    def whole(self) -> Any: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def windows(self) -> tuple[int, ...]: ...
    @property
    def longest_document(self) -> int | None: ...
    def rows_read(self, batch: PackedBatch[Tensor]) -> RowsRead: ...
    def states(self, rows: RowsRead) -> Tensor: ...


def check_class(model: Any, name: str) -> None:
    """Raise InputError unless it is an encoder of transformers whose layers take their attention from its registry."""
    kind = model.config.model_type
    if not type(model).__module__.startswith(LIBRARY):
        what = "its Python code is not transformers' own, and may treat masks in any way"
    elif getattr(model.config, "is_encoder_decoder", False):
        what = "an encoder with a decoder behind it"
    elif getattr(model.config, "is_decoder", False) or any(getattr(m, "is_causal", False) for m in model.modules()):
        what = "a decoder, whose tokens read only what stands before them"
    elif not getattr(model, "_supports_attention_backend", False):
        what = "its layers compute attention by themselves, as those with relative positions do"
    else:
        return
    raise _refused(name, kind, what)


def check_rule_is_carried(backbone: Backbone, name: str) -> None:
    """Switch the model to our attention. Raises InputError if one of the three things does not hold.

    A model on the meta device is not tried.
    """
    model = backbone.whole
    if any(parameter.is_meta for parameter in model.parameters()):
        model.set_attn_implementation(NAME)
        return
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            what = _what_is_wrong(backbone)
    except (OtherAttentionError, TypeError, ValueError, KeyError, IndexError) as error:
        what = " ".join(str(error).split())
    finally:
        model.train(was_training)
    if what:
        raise _refused(name, model.config.model_type, what)


def _what_is_wrong(backbone: Backbone) -> str:
    model, longest = backbone.whole, backbone.longest_document or MOST
    length = min(MOST, longest, max(backbone.windows, default=0) + 2 * SHORT)
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(length, generator=rng).to(device)
    first, other_first, second, other_second = (
        _ids(backbone, num_tokens, rng).to(device) for num_tokens in (SHORT, SHORT, length, length)
    )
    model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    alone = backbone.encoder(input_ids=second[None], attention_mask=torch.ones_like(second)[None]).last_hidden_state[0]
    model.set_attn_implementation(NAME)
    rows = backbone.rows_read(_side_by_side(backbone, first, second, order))
    states = backbone.states(rows)[0]
    if rows.num_calls != backbone.num_layers:
        return f"{rows.num_calls} of its {backbone.num_layers} layers call our attention function"
    of_first, of_second = slice(0, SHORT), slice(SHORT, SHORT + length)
    for ids, kept in (((other_first, second), of_second), ((first, other_second), of_first)):
        changed = backbone.states(backbone.rows_read(_side_by_side(backbone, *ids, order)))[0]
        if not torch.equal(changed[kept], states[kept]):
            return "documents of one row read each other in it"
    distance = float((states[of_second] - alone[order]).abs().max() / alone.abs().max().clamp(min=1e-6))
    if not distance < TOLERANCE:
        return f"the states of a document change when another stands before it, by {distance:.1g} of the greatest state"
    return ""


def _ids(backbone: Backbone, num_tokens: int, rng: torch.Generator) -> Tensor:
    """Random ids, but no padding: some classes count positions from it."""
    ids = torch.randint(0, backbone.vocab_size - 1, (num_tokens,), generator=rng)
    padding = backbone.whole.config.pad_token_id
    return ids if padding is None else ids + (ids >= padding)


def _side_by_side(backbone: Backbone, first: Tensor, second: Tensor, order: Tensor) -> PackedBatch[Tensor]:
    """A row of two documents, where all tokens of a document read each other, and padding.

    The tokens of the second document are shuffled, but keep their position ids. So a model that ignores position ids, and
    would place inserted masks wrongly, is found out. In order, one with rotary positions would pass without them.
    """
    lengths = torch.tensor([len(first), len(second), PADDING])
    document = torch.tensor([0, 1, PAD_DOCUMENT]).repeat_interleave(lengths)
    position = torch.cat([torch.arange(len(first)), order.cpu(), torch.arange(PADDING)]) + backbone.batch_first_position
    ids, none = torch.cat([first, second[order], first[:PADDING]])[None], torch.zeros(0, dtype=torch.long)
    real, zeros = (document >= 0).long(), torch.zeros_like(document)
    columns = (position, zeros, document, zeros, real, torch.full_like(document, NO_HORIZON))
    arrays: list[Any] = [ids, *(column[None].to(ids.device) for column in columns), none, none, none, none]
    return PackedBatch(*arrays)


def _refused(name: str, kind: str, what: str) -> InputError:
    return InputError(
        f"{name}: model type {kind}: {what}; expected an encoder whose attention can be replaced, such as bert, "
        "xlm-roberta, modernbert, eurobert or gte"
    )

"""What flex compiles before the first step is all that a step needs; a kernel is for a layout, not for a size alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_m.models import attention
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, MT
from tests.backbone_fixtures import backbone_of, random_model
from tests.properties.test_halves import translation_model

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

SHORT = (((7, 5), (4, 9), (1, 1)), ((12, 3), (5, 5)))
Compiled = tuple[Any, ...]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Compiled]:
    """What torch.compile would make a kernel of, at each call of flex: what its guards look at."""
    found: list[Compiled] = []

    def flex(query: Tensor, key: Tensor, value: Tensor, block_mask: Any) -> Tensor:
        inputs = [(x.shape, x.stride(), x.dtype, x.requires_grad) for x in (query, key, value)]
        found.append((*inputs, block_mask.seq_lengths, block_mask.kv_indices.shape, _constants(block_mask.mask_mod)))
        return F.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr(attention, "flex_attention", flex)
    return found


def _constants(rule: Callable[..., Any]) -> tuple[Any, ...]:
    """The code of a rule and the numbers that it holds, and of those that it calls: torch compiles them in."""
    held = [cell.cell_contents for cell in rule.__closure__ or ()]
    inner = [_constants(value) for value in held if callable(value) and not isinstance(value, Tensor)]
    return (rule.__code__.co_name, *(value for value in held if isinstance(value, int)), *inner)


def with_flex(model: PretrainingModel) -> PretrainingModel:
    """As if it were made for a GPU that has it."""
    model.attention_choice = replace(model.attention_choice, value="flex")  # type: ignore[assignment, arg-type]
    return model.train()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
@pytest.mark.parametrize("length", [64, 65])
@pytest.mark.parametrize("kind", ["encoder", "separate", "shared", "ModernBert", "EuroBert", "XLMRoberta"])
def test_a_step_needs_no_kernel_that_was_not_compiled_before_it(
    kind: str,
    length: int,
    checkpointing: bool,
    compiled: list[Compiled],
    encoder_of: EncoderOf,
    documents_of: DocumentsOf,
    batch_of: BatchOf,
) -> None:
    objective: Objective = CAMLM
    if kind == "encoder":
        model: PretrainingModel = encoder_of(activation_checkpointing=checkpointing)
    elif kind in ("separate", "shared"):
        model, objective = translation_model(kind, activation_checkpointing=checkpointing, max_positions=70), MT
    else:
        model = backbone_of(random_model(kind), attention_dropout=0.0, activation_checkpointing=checkpointing)
    batch = batch_of(objective, documents_of(objective, SHORT), length)
    model = with_flex(model)
    model.compile_for(batch_of(objective, [[], []], length))
    before = set(compiled)
    compiled.clear()
    loss, _ = model(batch, LossRequest(torch.ones(len(LOSS_INDEX)), 1))
    loss.backward()
    assert set(compiled) == before, "neither more, which would wait in the first step, nor fewer"
    with torch.no_grad():
        compiled.clear()
        model(batch, LossRequest(torch.ones(len(LOSS_INDEX)), 1))
        assert compiled == [], "without gradient nothing is compiled"

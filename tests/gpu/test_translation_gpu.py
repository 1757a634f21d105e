"""A model that translates: on a GPU as on the CPU, with flex as with sdpa, and nothing compiled within a step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.models.attention import choose_attention
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target, translated
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.objectives import LOSS_INDEX, MT
from tests.properties.test_halves import translation_model
from tests.unit.test_decoding import ending, sources_of

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
DEVICE = "cuda"
S, LONGEST = 512, 64
SHAPE = {"max_positions": 270, "hidden_size": 128, "attention": "sdpa", "language_embedding": "all"}
ROWS = (((90, 60), (40, 90), (5, 5)), ((4, 3), (7, 9)))
Losses = tuple[float, torch.Tensor]


@pytest.fixture
def batch(documents_of: DocumentsOf, batch_of: BatchOf) -> PackedBatch:
    return batch_of(MT, documents_of(MT, ROWS), S)


@pytest.fixture(params=["separate", "shared"])
def model(request: pytest.FixtureRequest) -> TranslationModel:
    return ending(translation_model(request.param, **SHAPE), 1.0)


def loss_and_gradient(model: TranslationModel, batch: PackedBatch) -> Losses:
    device = model.encoder.embeddings.word.weight.device
    model.zero_grad()
    request = LossRequest(torch.ones(len(LOSS_INDEX), device=device), 1)
    loss, _ = model(batch.map(lambda tensor: tensor.to(device)), request)
    loss.backward()
    gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def assert_alike(found: Losses, expected: Losses) -> None:
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert torch.nn.functional.cosine_similarity(found[1], expected[1], dim=0) > 0.999


def test_loss_gradient_and_translations_on_a_gpu_are_those_on_the_cpu(model: TranslationModel, batch: PackedBatch) -> None:
    sources = sources_of(9, 1, 17, 5, 12, 30, 2, 3)
    limits = [longest_target(len(source)) for source in sources]
    there = copy.deepcopy(model).to(DEVICE)
    assert_alike(loss_and_gradient(there, batch), loss_and_gradient(model, batch))
    for of_gpu, of_cpu in (
        (translated(there, sources, (1, 2), LONGEST), translated(model, sources, (1, 2), LONGEST)),
        *((searched(m, sources, (1, 2), limits, Search(4)) for m in (there, model)),),
    ):
        same = [ours.tolist() == theirs.tolist() for ours, theirs in zip(of_gpu, of_cpu, strict=True)]
        assert sum(same) >= len(same) - 1, "a tie may fall the other way"


@pytest.fixture
def with_flex(model: TranslationModel) -> Iterator[TranslationModel]:
    if (choice := choose_attention("auto", torch.device("cuda", 0))).value != "flex":
        pytest.skip(str(choice))
    torch._dynamo.reset()
    chosen = copy.deepcopy(model).to(DEVICE)
    chosen.attention_choice = replace(chosen.attention_choice, value="flex")
    yield chosen
    torch._dynamo.reset()


def test_flex_is_sdpa_and_compiles_nothing_within_a_step(
    with_flex: TranslationModel, model: TranslationModel, batch: PackedBatch
) -> None:
    """Attention across reads queries and keys of another layout than attention within a half."""
    counters = torch._dynamo.utils.counters
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        with_flex.compile_for(batch.map(lambda tensor: tensor.to(DEVICE)))
        before = counters["stats"]["unique_graphs"]
        found = loss_and_gradient(with_flex, batch)
    assert before > 0
    assert counters["stats"]["unique_graphs"] == before, "compile_for had made what a step needs"
    assert_alike(found, loss_and_gradient(model, batch))

"""What only a GPU can show: FlexAttention against SDPA, forward and gradient, and steps in half precision."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.models.attention import attend, build_mask, choose_attention
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, CAMLM, LOSS_INDEX

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf, StagesOf

    from ernie_m.runs.ranks import Ranks
    from ernie_m.training.engine import Precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
S = 256
DS_CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"


@pytest.fixture
def needs_flex() -> None:
    choice = choose_attention("auto", torch.device("cuda", 0))
    if choice.value != "flex":
        pytest.skip(str(choice))


@pytest.mark.usefixtures("needs_flex")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_flex_is_sdpa_forward_and_gradient(
    objective: Objective, dtype: torch.dtype, documents_of: DocumentsOf, batch_of: BatchOf, stages_of: StagesOf
) -> None:
    batch = batch_of(objective, documents_of(objective), S).map(lambda tensor: tensor.cuda())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-3  # flex multiplies fp32 in TF32
    real = (batch.document_BS >= 0)[:, None, :, None]
    for stage in stages_of(batch):
        rng = torch.Generator("cuda").manual_seed(0)
        inputs = [torch.randn(2, 4, S, 64, generator=rng, device="cuda").to(dtype) for _ in range(3)]
        weight = torch.randn(2, 4, S, 64, generator=rng, device="cuda").to(dtype)
        results = []
        for backend in ("sdpa", "flex"):
            leaves = [tensor.clone().requires_grad_() for tensor in inputs]
            out = attend(*leaves, build_mask(backend, stage), 0.0)
            (out * weight * real).sum().backward()
            results.append([out * real, *(leaf.grad for leaf in leaves)])
        for expected, found in zip(*results, strict=True):
            assert bool(found.isfinite().all())
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert results[0][1].abs().max() > 0.05


@pytest.mark.usefixtures("needs_flex")
def test_loss_and_gradient_of_the_model_are_the_same_with_flex(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(CAMLM, documents_of(CAMLM), S).map(lambda tensor: tensor.cuda())
    request = LossRequest(torch.ones(len(LOSS_INDEX), device="cuda"), 1)
    losses, gradients = [], []
    for backend in ("sdpa", "flex"):
        model = encoder_of(num_layers=4, hidden_size=128, attention="sdpa", max_positions=S + 2).cuda()
        model.attention_choice = replace(model.attention_choice, value=backend)
        loss, _ = model(batch, request)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    from ernie_m.training.engine import start_ranks

    before = dict(os.environ)
    alone = start_ranks()
    yield alone
    alone.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(("precision", "stage"), [("bf16", 0), *itertools.product(("bf16", "fp16"), (1, 2, 3))])
def test_a_step_in_half_precision_ends_finite_and_learns(
    precision: Precision, stage: int, ranks: Ranks, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    from ernie_m.training.engine import BatchConfig, Engine, EngineConfig
    from ernie_m.training.optimizer import OptimizerConfig

    model = encoder_of(num_layers=4, hidden_size=128, max_positions=S + 2)
    model.initialise(0)
    engine = Engine(
        model,
        ranks,
        DS_CONFIGS,
        EngineConfig(zero_stage=stage, precision=precision),
        OptimizerConfig(peak_learning_rate=1e-3, warmup_steps=0),
        BatchConfig(rows_per_step=2, micro_batch_rows=2),
    )
    batch = batch_of(BTMLM, documents_of(BTMLM), S).map(lambda tensor: tensor.cuda())
    num_predicted = len(batch.predicted_N)
    request = LossRequest(torch.full((len(LOSS_INDEX),), 1 / num_predicted, device=ranks.device), 1)
    losses = []
    for _ in range(40):  # fp16 spends its first ones on finding the loss scale
        filled = fill_placeholders(engine.module, batch)
        losses.append(engine.forward_backward(filled, request).item() / num_predicted)
        engine.update(1e-3)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < 0.5 * losses[0]
    assert all(bool(fragment.weight.isfinite().all()) for fragment in engine.fragments())
    assert (engine.loss_scale is not None) == (precision == "fp16")


def test_generation_under_zero_3_is_that_of_the_whole_model(
    ranks: Ranks, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Its weights are gathered module by module; the pseudo tokens are the same to the last one."""
    from ernie_m.training.engine import BatchConfig, Engine, EngineConfig
    from ernie_m.training.optimizer import OptimizerConfig

    shape = {"num_layers": 4, "hidden_size": 128, "max_positions": S + 2}
    batch = batch_of(BTMLM, documents_of(BTMLM), S).map(lambda tensor: tensor.cuda())
    whole = encoder_of(torch.bfloat16, **shape).cuda()
    expected = fill_placeholders(whole, batch).input_ids_BS
    engine = Engine(
        encoder_of(torch.bfloat16, **shape),
        ranks,
        DS_CONFIGS,
        EngineConfig(zero_stage=3, precision="bf16"),
        OptimizerConfig(),
        BatchConfig(rows_per_step=2, micro_batch_rows=2),
    )
    found = fill_placeholders(engine.module, batch).input_ids_BS
    assert torch.equal(found, expected)
    assert batch.generation is not None
    assert len(found.flatten()[batch.generation.slots_K.long()].unique()) > 3

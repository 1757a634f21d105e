"""What was made fast, against what it stands for, where it is to run: head, GELU, checkpointed and compiled layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ernie_m.models import loss
from ernie_m.models.gelu_linear import GeluLinear
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objectives import BTMLM, CAMLM, LOSS_INDEX

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
DEVICE = "cuda"
S = 256
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of the logits; fp32 may be multiplied in TF32


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_the_head_at_the_full_vocabulary_is_cross_entropy_in_float64(
    dtype: torch.dtype, num_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLM-R's 250,002 words, in one piece and in pieces whose logits are made again."""
    num_positions, vocab_size, width = 300, 250_002, 64
    monkeypatch.setattr(loss, "MAX_LOGITS", num_positions // num_chunks * vocab_size)
    rng = torch.Generator(DEVICE).manual_seed(0)
    sizes = ((num_positions, width), (vocab_size, width), (vocab_size,))
    exact = [
        torch.randn(size, generator=rng, device=DEVICE) * scale for size, scale in zip(sizes, (1, 0.2, 0.1), strict=True)
    ]
    labels = torch.randint(0, vocab_size, (num_positions,), generator=rng, device=DEVICE)
    factor = torch.linspace(0.5, 2, num_positions, device=DEVICE)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in exact]
    nll = loss.predicted_nll(*leaves, labels)  # type: ignore[call-arg]
    (nll * factor).sum().backward()
    oracle = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = F.cross_entropy(F.linear(*oracle), labels, reduction="none")
    (expected * factor).sum().backward()
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    for mine, theirs in zip(leaves, oracle, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < ROUNDING[dtype], (tuple(mine.shape), float(error))


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_linear_layer_behind_a_gelu_is_torchs_pair(dtype: torch.dtype) -> None:
    results = []
    for layer_class in (GeluLinear, nn.Linear):
        torch.manual_seed(0)
        layer = layer_class(512, 128, device=DEVICE, dtype=dtype)
        hidden = (3 * torch.randn(300, 512, device=DEVICE)).to(dtype).requires_grad_()
        output = layer(hidden) if layer_class is GeluLinear else layer(F.gelu(hidden))
        output.backward(torch.linspace(-1, 2, output.numel(), device=DEVICE).view_as(output).to(dtype))
        assert hidden.grad is not None
        results.append([output.detach(), hidden.grad, layer.weight.grad, layer.bias.grad])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * float(theirs.abs().max()))


def test_checkpointed_layers_draw_the_same_dropout_again(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """The forward that backward makes again must drop what the first one dropped."""
    batch = batch_of(CAMLM, documents_of(CAMLM), S).map(lambda tensor: tensor.to(DEVICE))
    request = LossRequest(torch.ones(len(LOSS_INDEX), device=DEVICE), 1)
    gradients = []
    for checkpointing, seed in ((False, 1), (True, 1), (True, 2)):
        shape = {"num_layers": 4, "hidden_size": 128, "max_positions": S + 2, "attention": "sdpa"}
        model = encoder_of(dropout=0.3, activation_checkpointing=checkpointing, **shape).to(DEVICE).train()
        torch.manual_seed(seed)
        model(batch, request)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))
    assert F.cosine_similarity(gradients[2], gradients[0], dim=0) < 0.99


@pytest.mark.parametrize("attention", ["sdpa", "auto"])
def test_compiled_layers_change_no_number_with_gradient_and_without(
    attention: str, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Training compiles one graph and BTMLM's generation another; neither is made anew for the next batch."""
    batches = [batch_of(BTMLM, documents_of(BTMLM, seed=seed), S).map(lambda tensor: tensor.to(DEVICE)) for seed in range(3)]
    request = LossRequest(torch.ones(len(LOSS_INDEX), device=DEVICE), 1)
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = encoder_of(num_layers=4, hidden_size=128, max_positions=S + 2, attention=attention).to(DEVICE).train()
        if compiled:
            for layer in list(model.layers)[:-1]:
                layer.compile(dynamic=False)
        results, graphs = [], []
        for batch in batches:
            filled = fill_placeholders(model, batch)
            model.zero_grad()
            value = model(filled, request)[0]
            value.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            results.append((filled.input_ids_BS, value.detach(), gradient))
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert graphs[-1] == graphs[0]
        assert not compiled or graphs[0] > 0
        found.append(results)
    for (ids, value, gradient), (plain_ids, plain_value, plain_gradient) in zip(found[1], found[0], strict=True):
        assert (ids != plain_ids).float().mean() < 0.01  # a tie may fall the other way
        assert float(value) == pytest.approx(float(plain_value), rel=2e-3)
        assert F.cosine_similarity(gradient, plain_gradient, dim=0) > 0.999

"""Products of laid out weights are those of the model's own, and a model is what it was behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target
from ernie_m.models.packed import LEAST, packed
from ernie_m.models.translation import TranslationModel
from tests.properties.test_halves import translation_model

WORDS = 9000  # more than a slice


@pytest.fixture(scope="module")
def model() -> TranslationModel:
    return translation_model(vocab_size=WORDS, language_embedding="all", hidden_size=256, ffn_size=512)


def products(model: TranslationModel) -> list[torch.Tensor]:
    """Of every linear layer and of the output matrix, on the same rows."""
    rng, found = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                found.append(module(torch.randn(5, module.in_features, generator=rng)))
        hidden_ND = torch.randn(5, 256, generator=rng)
        firsts, slices = zip(*model.token_head.logit_slices(hidden_ND), strict=True)
        assert firsts == tuple(sum(part.shape[1] for part in slices[:i]) for i in range(len(slices)))
        return [*found, torch.cat(slices, dim=1), model.token_head.logits(torch.randn(2, 256, generator=rng))]


def test_products_of_laid_out_weights_are_those_of_the_models_own(model: TranslationModel) -> None:
    plain = products(model)
    with packed(model):
        laid_out = products(model)
        assert "forward" in vars(model.encoder.layers[0].ffn_out), "laid out at all"
        assert "logit_slices" in vars(model.token_head)
    for a, b in zip(plain, laid_out, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    assert not any({"forward", "logit_slices"} & vars(module).keys() for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(plain, products(model), strict=True))


def test_small_matrices_and_16_bits_are_left_alone() -> None:
    small = nn.Linear(LEAST // 256 - 1, 256)
    for model in (small, nn.Linear(LEAST // 256, 256).bfloat16()):
        with packed(model):
            assert "forward" not in vars(model)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_tokens_are_written(beams: int, model: TranslationModel) -> None:
    rng = np.random.default_rng(1)
    sources = [rng.integers(4, WORDS - 1, n, dtype=np.int32) for n in (9, 1, 17)]
    limits = [longest_target(len(source)) for source in sources]
    plain = searched(model, sources, (1, 2), limits, Search(beams))
    with packed(model):
        found = searched(model, sources, (1, 2), limits, Search(beams))
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in plain]
    assert len({int(token) for ids in plain for token in ids}) > 1

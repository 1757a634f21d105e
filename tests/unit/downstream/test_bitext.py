"""Hardest-negative fine-tuning: the loss is what its definition says, pair by pair, and only lower layers learn."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.downstream.bitext_tuning import BitextTuning, SentencePair, hardest_negative_loss, negatives, sides_of
from ernie_m.downstream.task import Setup
from ernie_m.interop.encoder import open_encoder
from ernie_m.models.retrieval import mean_over_tokens


def test_the_loss_is_the_cross_entropy_of_each_pair_and_its_hardest_negative() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    is_negative = ~torch.eye(5, dtype=torch.bool)
    is_negative[0, 3] = is_negative[3, 0] = False
    expected = 0.0
    for matrix, allowed in ((logits, is_negative), (logits.T, is_negative.T)):
        for i in range(5):
            hardest = max(matrix[i, j].item() for j in range(5) if allowed[i, j])
            right, wrong = 1 / (1 + math.exp(-matrix[i, i])), 1 / (1 + math.exp(-hardest))
            expected -= (math.log(right) + math.log(1 - wrong)) / (2 * 5)
    assert hardest_negative_loss(logits, is_negative).item() == pytest.approx(expected)


def test_a_pair_alone_has_no_negatives_and_a_finite_gradient() -> None:
    logits = torch.zeros(1, 1, requires_grad=True)
    loss = hardest_negative_loss(logits, torch.zeros(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-0.5)


def test_pairs_that_share_a_sentence_are_no_negatives() -> None:
    pairs = [([1], [9]), ([2], [8]), ([1], [7]), ([3], [8])]
    expected = [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert negatives(pairs).int().tolist() == expected


def test_the_other_side_is_told_by_the_name() -> None:
    assert sides_of(Path("a/tatoeba.fra-eng.fra")) == ("fra", Path("a/tatoeba.fra-eng.eng"))
    assert sides_of(Path("fr-en.en")) == ("en", Path("fr-en.fr"))
    for name in ("corpus.fr", "fr-en.de", "fr"):
        with pytest.raises(InputError, match="the name does not tell its other side"):
            sides_of(Path(name))


def test_only_what_lies_below_the_pooled_layer_learns_and_the_encoder_alone_is_saved(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    hyperparameters: Any = BitextTuning().defaults("hardest-negative", "base")
    hyperparameters = type(hyperparameters)(**{**vars(hyperparameters), "layer": 1, "max_length": 20})
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    setup = Setup(tokenizer, hyperparameters, (), "hardest-negative")
    model = BitextTuning().model(open_encoder(tiny_encoder), setup).train()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("encoder.embeddings.", "encoder.encoder.layer.0.")) for name in learning)
    assert len(learning) == 5 + 16
    texts = [SentencePair(f"{i} one two", "three " * (i + 1)) for i in range(3)]
    features = list(BitextTuning().features(texts, setup, True))
    batch = BitextTuning().collator(setup)(features)
    found = model(**batch)
    found["loss"].backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name in learning)
    assert "loss" not in model.eval()(**batch)

    model.save_pretrained(tmp_path, {name: value.detach() for name, value in model.state_dict().items()})
    again = AutoModel.from_pretrained(tmp_path).eval()
    inputs = tokenizer(texts[0].target, return_tensors="pt", truncation=True, max_length=20)
    states = again(**inputs, output_hidden_states=True).hidden_states
    alone = mean_over_tokens(states[1], inputs["attention_mask"])
    assert torch.allclose(model(**batch)["target"][0], alone[0], atol=1e-5), "padding does not count"


def test_scores_are_the_nearest_neighbours_both_ways() -> None:
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]).numpy()
    target = torch.tensor([[2.0, 0.0], [0.5, 0.6], [0.0, 3.0]]).numpy()
    pairs = [SentencePair("a", "b")] * 3
    setup: Any = SimpleNamespace()
    scored = BitextTuning().score(pairs, [], (source, target), setup, "fra")
    assert scored.predictions == [0, 2, 0]
    assert scored.metrics == {"accuracy": pytest.approx(100 / 3), "accuracy_from_english": pytest.approx(200 / 3)}

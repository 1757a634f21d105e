"""Layers of any encoder are found by structure, whatever its class."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
import transformers as t
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from ernie_m.base.console import InputError
from ernie_m.downstream import encoders
from ernie_m.downstream.task import Hyperparameters
from ernie_m.downstream.training import batching, parameter_groups

L, DECAY = 3, 0.5
SHAPE = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": L, "num_attention_heads": 2, "intermediate_size": 8}
ENCODERS = {
    "xlm-roberta": t.XLMRobertaConfig(**SHAPE),
    "mbert": t.BertConfig(**SHAPE),
    "distilbert": t.DistilBertConfig(vocab_size=40, dim=8, n_layers=L, n_heads=2, hidden_dim=8),
    "electra": t.ElectraConfig(**SHAPE, embedding_size=4),
    "mdeberta": t.DebertaV2Config(**SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4),
    "rembert": t.RemBertConfig(**SHAPE, input_embedding_size=4),
    "xlm": t.XLMConfig(vocab_size=40, emb_dim=8, n_layers=L, n_heads=2),
    "modernbert": t.ModernBertConfig(**SHAPE, pad_token_id=0),
}
HEADS = re.compile(r"^(classifier|pre_classifier|pooler|sequence_summary|head)\.|\.pooler\.|encoder\.LayerNorm|final_norm")
ABOVE_EMBEDDINGS = re.compile(r"\.(\d+)\.")


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_learns_by_its_depth(name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(ENCODERS[name])
    shares = encoders.learning_rate_shares(model, DECAY)
    assert shares.keys() == dict(model.named_parameters()).keys()
    for parameter, share in shares.items():
        layer = ABOVE_EMBEDDINGS.search(parameter)
        if layer:
            assert share == DECAY ** (L - int(layer[1])), parameter
        elif HEADS.search(parameter):
            assert share == 1, parameter
        else:
            assert "emb" in parameter, parameter
            assert share == DECAY ** (L + 1), parameter
    assert len(set(shares.values())) == L + 2


def test_shared_layers_have_no_rates_of_their_own() -> None:
    model = AutoModelForTokenClassification.from_config(t.AlbertConfig(**SHAPE, embedding_size=4))
    with pytest.raises(InputError, match="layer_decay: albert has no list of 3 layers"):
        encoders.learning_rate_shares(model, DECAY)
    assert set(encoders.learning_rate_shares(model, 1.0).values()) == {1.0}


def test_optimizer_groups_hold_each_parameter_once_with_its_rate_and_decay() -> None:
    model = AutoModelForSequenceClassification.from_config(ENCODERS["xlm-roberta"])
    model.classifier.dense.weight.requires_grad_(False)
    hyperparameters = Hyperparameters(
        learning_rate=1e-3, batch_size=1, epochs=1, max_length=8, layer_decay=DECAY, weight_decay=0.01
    )
    decaying = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    groups = parameter_groups(model, hyperparameters, decaying)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of) == len(list(model.parameters())) - 1
    parameters = dict(model.named_parameters())

    def found(name: str) -> tuple[float, float]:
        group = of[id(parameters[name])]
        return group["lr"], group["weight_decay"]

    assert found("roberta.embeddings.word_embeddings.weight") == (pytest.approx(1e-3 / 16), 0.01)
    assert found("roberta.encoder.layer.0.output.dense.bias") == (pytest.approx(1e-3 / 8), 0.0)
    assert found("roberta.encoder.layer.2.output.dense.weight") == (pytest.approx(1e-3 / 2), 0.01)
    assert found("classifier.out_proj.weight") == (1e-3, 0.01)


@pytest.mark.parametrize(
    ("batch", "micro", "world", "expected"),
    [(32, 0, 1, (32, 1)), (128, 0, 1, (32, 4)), (128, 0, 8, (16, 1)), (8, 2, 2, (2, 2)), (96, 0, 2, (24, 2))],
)
def test_the_batch_is_the_same_on_any_number_of_ranks(batch: int, micro: int, world: int, expected: tuple[int, int]) -> None:
    found = batching(SimpleNamespace(batch_size=batch, micro_batch=micro), world)  # type: ignore[arg-type]
    assert found == expected
    assert found[0] * found[1] * world == batch


def test_a_batch_that_does_not_divide_is_refused_with_its_numbers() -> None:
    for batch, micro, world in ((32, 0, 3), (32, 5, 2)):
        with pytest.raises(InputError, match=f"batch_size 32 does not divide over {world} ranks"):
            batching(SimpleNamespace(batch_size=batch, micro_batch=micro), world)  # type: ignore[arg-type]


def test_the_middle_layer_is_xtremes_and_others_must_exist() -> None:
    of = {layers: encoders.layer_of(SimpleNamespace(num_hidden_layers=layers), 0) for layers in (12, 24)}
    assert of == {12: 7, 24: 13}
    assert encoders.layer_of(SimpleNamespace(num_hidden_layers=12), 10) == 10
    with pytest.raises(InputError, match=r"layer: 13; expected 1 \.\. 12"):
        encoders.layer_of(SimpleNamespace(num_hidden_layers=12), 13)
    assert encoders.size_of(SimpleNamespace(hidden_size=768)) == "base"
    assert encoders.size_of(SimpleNamespace(hidden_size=1024)) == "large"

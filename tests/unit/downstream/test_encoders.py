"""Layers of any encoder are found by structure; folders that do not fit are refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from ernie_m.console import InputError
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


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_a_folder_without_all_weights_of_the_encoder_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights of the encoder are missing, first roberta\.encoder\.layer\.1\.output"):
        encoders.load_model(AutoModelForSequenceClassification, folder, ("a", "b"))


def test_a_new_head_is_drawn_from_the_seed_and_named(tiny_encoder: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model: Any = encoders.load_model(AutoModelForSequenceClassification, tiny_encoder, ("no", "yes", "?"))
        drawn.append(model.classifier.out_proj.weight)
    assert model.config.id2label == {0: "no", 1: "yes", 2: "?"}
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_head_of_the_same_classes_goes_on_in_its_own_order(tiny_encoder: Path, tmp_path: Path) -> None:
    theirs = ("neutral", "contradiction", "entailment")
    torch.manual_seed(0)
    model: Any = encoders.load_model(AutoModelForSequenceClassification, tiny_encoder, theirs)
    model.save_pretrained(tmp_path)
    ours = ("entailment", "neutral", "contradiction")
    assert encoders.class_order(encoders.read_config(tmp_path), ours) == theirs
    assert encoders.class_order(encoders.read_config(tiny_encoder), ours) == ours
    again: Any = encoders.load_model(AutoModelForSequenceClassification, tmp_path, theirs)
    assert torch.equal(again.classifier.out_proj.weight, model.classifier.out_proj.weight)


def test_inputs_are_no_longer_than_positions_and_tokenizer_allow(tiny_encoder: Path) -> None:
    config, tokenizer = encoders.read_config(tiny_encoder), AutoTokenizer.from_pretrained(tiny_encoder)
    assert encoders.longest_input(config, tokenizer) == 128
    tokenizer.model_max_length = 10**30
    longest = encoders.longest_input(config, tokenizer)
    assert longest == 128, "130 positions, of which RoBERTa's padding takes two"
    model: Any = encoders.load_model(AutoModelForSequenceClassification, tiny_encoder, ())
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))
    tokenizer.model_max_length = 20
    assert encoders.longest_input(config, tokenizer) == 20
    assert encoders.longest_input(t.BertConfig(max_position_embeddings=64), SimpleNamespace(model_max_length=999)) == 64


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, "no config.json there; expected a Hugging Face folder"),
        ({"model_type": "ernie_m"}, "not an encoder that transformers knows"),
        (t.MT5Config().to_dict(), "model type mt5; expected an encoder"),
        ({"num_hidden_layers": "two"}, "not an encoder that transformers knows"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    change: dict[str, Any] | None, expected: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder, tmp_path)
    if change is None:
        (folder / "config.json").unlink()
    else:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        encoders.read_config(folder)
    assert expected in str(caught.value)


def test_the_middle_layer_is_xtremes_and_others_must_exist() -> None:
    of = {layers: encoders.layer_of(SimpleNamespace(num_hidden_layers=layers), 0) for layers in (12, 24)}
    assert of == {12: 7, 24: 13}
    assert encoders.layer_of(SimpleNamespace(num_hidden_layers=12), 10) == 10
    with pytest.raises(InputError, match=r"layer: 13; expected 1 \.\. 12"):
        encoders.layer_of(SimpleNamespace(num_hidden_layers=12), 13)
    assert encoders.size_of(SimpleNamespace(hidden_size=768)) == "base"
    assert encoders.size_of(SimpleNamespace(hidden_size=1024)) == "large"

"""An encoder of transformers, out of training: its class, or the one that holds a new head; what nothing trained stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.interop.export import export_model
from ernie_m.interop.foreign import Foreign, foreign_of, foreign_of_run
from ernie_m.interop.start_weights import Target
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.backbones.heads import HEADS
from ernie_m.models.shape import BackboneConfig
from ernie_m.rows.objective import SENTENCE, TOKEN
from ernie_m.runs.ranks import Voters
from tests.backbone_fixtures import FAMILIES, backbone_of, random_model, saved_encoder

LINES = ["nine years of rivers and stones", "houses in the winter 2019", "a small green letter, 4 km"]
HELD = ("Bert", "XLMRoberta", "ModernBert", "Gte")  # classes whose head has a transform


def opened(folder: Path, *heads: str) -> Foreign:
    config = BackboneConfig(backbone=str(folder), heads=heads, pooling="mean")
    return foreign_of(config, open_vocabulary(folder).specials, None)


def as_trained(foreign: Foreign, run: Path) -> tuple[Foreign, ForeignEncoder]:
    """What a run keeps, and its model: each parameter is another than at the start."""
    tokenizer = foreign.backbone.folder / "tokenizer.json"
    zero = foreign.step_zero(1, Target(foreign.config, ("en",), tokenizer, sha256_of(tokenizer)), Voters(0, 1))
    zero.keep(run)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in zero.model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=rng))
    assert isinstance(zero.model, ForeignEncoder)
    return foreign_of_run(foreign.config, foreign.specials, run), zero.model.eval()


def logits(model: Any, folder: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found: torch.Tensor = model(**tokenizer(f"nine {tokenizer.mask_token} 2019", return_tensors="pt")).logits
    return found


@pytest.mark.parametrize("family", HELD)
def test_a_new_head_is_exported_in_the_class_that_has_one_when_asked_for(family: str, tmp_path: Path) -> None:
    folder, to = saved_encoder(tmp_path / "encoder", family, LINES), tmp_path / "to"
    kept, trained = as_trained(opened(folder, TOKEN, SENTENCE), tmp_path / "run")
    assert trained.head_choice.value == "new"
    export_model(kept, trained.state_dict(), folder, to, head=True)
    tokens = AutoTokenizer.from_pretrained(to)("nine 2019", return_tensors="pt")
    model, of_loading = AutoModelForMaskedLM.from_pretrained(to, output_loading_info=True)
    assert not of_loading["missing_keys"]
    whole = trained.whole
    whole.set_attn_implementation("sdpa")
    with torch.no_grad():
        states = whole.base_model(**tokens).last_hidden_state
        torch.testing.assert_close(model.eval()(**tokens).logits, trained.head.logits(states), rtol=1e-5, atol=1e-5)
        bare = AutoModel.from_pretrained(to).eval()
        torch.testing.assert_close(bare(**tokens).last_hidden_state, states, rtol=1e-5, atol=1e-5)
    start = AutoModel.from_pretrained(folder).state_dict()
    for name in (name for name in start if "pooler." in name):
        assert torch.equal(bare.state_dict()[name], start[name]), "what training leaves comes along"
    again = backbone_of(model, specials=kept.specials)
    assert again.head_choice.value == "the model's", "an export is a backbone again"
    export_model(kept, trained.state_dict(), folder, tmp_path / "without")
    assert type(AutoModel.from_pretrained(tmp_path / "without")).__name__ == type(bare).__name__
    assert not any(name in load_file(tmp_path / "without/model.safetensors") for name in _head_names(model))


def _head_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"EuroBert"}))
def test_a_new_head_computes_what_its_classes_own_does(family: str) -> None:
    """The same parameters under the same names, and from the same states the same logits."""
    new, own = backbone_of(random_model(family, "Model")).head, backbone_of(random_model(family))
    assert own.head_choice.value == "the model's"
    new.load_state_dict(own.head.state_dict())
    states = torch.randn(3, own.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(new.logits(states), own.head.logits(states))


def test_a_class_whose_head_has_no_transform_cannot_hold_a_new_one(tmp_path: Path) -> None:
    assert not HEADS["eurobert"].transform
    folder = saved_encoder(tmp_path / "encoder", "EuroBert", LINES)
    kept, trained = as_trained(opened(folder, TOKEN), tmp_path / "run")
    with pytest.raises(InputError, match=r"^--head: .*, that of EuroBertForMaskedLM none but the output matrix: it cannot"):
        export_model(kept, trained.state_dict(), folder, tmp_path / "to", head=True)
    assert not (tmp_path / "to").exists()


def test_a_head_that_nobody_trained_or_could_ask_is_not_added(tmp_path: Path) -> None:
    folder = saved_encoder(tmp_path / "encoder", "Bert", LINES)
    with pytest.raises(InputError, match="--head: no objective of the run trains a head of masked words"):
        opened(folder, SENTENCE).check_head()
    foreign = opened(folder, TOKEN)
    maskless = dataclasses.replace(foreign, specials=dataclasses.replace(foreign.specials, mask=None))
    with pytest.raises(InputError, match="--head: the tokenizer has no mask token"):
        maskless.check_head()


@pytest.mark.parametrize("family", HELD)
def test_a_head_that_nothing_asked_for_goes_along_as_it_was(family: str, tmp_path: Path) -> None:
    """As in a training on sentences alone of an encoder that has a head of masked words."""
    folder, to = saved_encoder(tmp_path / "encoder", family, LINES, "ForMaskedLM"), tmp_path / "to"
    kept, trained = as_trained(opened(folder, SENTENCE), tmp_path / "run")
    export_model(kept, trained.state_dict(), folder, to)
    before, after = (AutoModelForMaskedLM.from_pretrained(of).eval() for of in (folder, to))
    heads = _head_names(before)
    assert heads
    for name in heads:
        tied = name.endswith("decoder.weight")
        assert torch.equal(before.get_parameter(name), after.get_parameter(name)) != tied, name
    assert not torch.equal(*(model.get_input_embeddings().weight for model in (before, after)))
    assert not torch.equal(logits(before, folder), logits(after, to))

"""What the two sides of a model that translates start from: encoders, word vectors, nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel, XLMRobertaForMaskedLM

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.architecture import Own
from ernie_m.interop.export import hugging_face_config
from ernie_m.interop.layout import BERT, XLM_ROBERTA, Layout
from ernie_m.interop.sides import WORDS, parameters_of_side
from ernie_m.interop.source import SIDES
from ernie_m.interop.start import check_starts, step_zero
from ernie_m.interop.start_weights import Target
from ernie_m.models.shape import ModelConfig
from ernie_m.models.translation import TranslationModel
from ernie_m.runs.ranks import Voters
from tests.fixtures.ernie_m_export import random_encoder, train_tokenizer
from tests.interop_fixtures import LANGUAGES, random_xlm_roberta, target_of
from tests.unit.test_interop_start import CONFIG, a_run

ALONE = Voters(0, 1)
MT = replace(CONFIG, decoder="separate", language_embedding="all")
TARGET = target_of(MT, sha256="abc")
HEAD = set(XLM_ROBERTA.head)
Sides = dict[str, dict[str, Tensor]]


def started(starts: dict[str, str], target: Target = TARGET) -> tuple[Sides, Sides, str]:
    """Parameters of each side as started and as drawn from the seed, and what was told."""
    config = target.config
    assert isinstance(config, ModelConfig)
    architecture = Own(config, TranslationModel(config).specials)
    check_starts(starts, target)
    zero = step_zero(architecture, 3, starts, target, ALONE)
    drawn = TranslationModel(config).initialise(3)
    assert isinstance(zero.model, TranslationModel)
    told = "\n".join(line for one in zero.starts for line in one.lines())
    models = (zero.model, drawn)
    own, before = ({side: parameters_of_side(model, side) for side in SIDES.values()} for model in models)
    return own, before, told


def same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> set[str]:
    return {name for name in mine if name in theirs and torch.equal(mine[name], theirs[name])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("mlm") / "run", random_encoder(), LANGUAGES, "abc").path


def test_both_sides_take_all_that_has_a_place_and_attention_across_is_new(run: Path) -> None:
    weights: dict[str, Tensor] = {name: p.detach() for name, p in random_encoder().named_parameters()}
    own, drawn, told = started({"init_encoder": str(run), "init_decoder": str(run)})
    assert same(own["encoder"], weights) == set(weights) - HEAD
    assert same(own["decoder"], weights) == set(weights)
    new = {name for name in own["decoder"] if name not in weights}
    assert {name.rpartition(".")[0].partition("across_")[2] for name in new} == {"query", "key_value", "out", "norm"}
    assert new <= same(own["decoder"], drawn["decoder"])
    assert own["encoder"][WORDS] is not own["decoder"][WORDS]
    assert told.count("starts from") == 2
    assert "starts anew: attention across with its norm" in told
    assert "not used: heads.token" in told


def test_a_side_without_a_start_is_drawn_as_if_no_side_had_one(run: Path) -> None:
    own, drawn, _ = started({"init_decoder": str(run)})
    assert same(own["encoder"], drawn["encoder"]) == set(own["encoder"])
    assert not same(own["decoder"], drawn["decoder"]) & HEAD
    shared = replace(TARGET, config=replace(MT, decoder="shared"))
    own, _, _ = started({"init_encoder": str(run)}, shared)
    assert own["encoder"][WORDS] is own["decoder"][WORDS]


def test_each_side_takes_its_own_of_a_run_that_translates(tmp_path: Path) -> None:
    model, rng = TranslationModel(MT), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(0, 1, generator=rng))
    path = str(a_run(tmp_path / "run", model, LANGUAGES, "abc").path)
    own, _, _ = started({"init_encoder": path, "init_decoder": path})
    for side in SIDES.values():
        theirs = parameters_of_side(model, side)
        assert same(own[side], theirs) | {"embeddings.language.weight"} == set(theirs), "attention across too"


def random_bert(config: ModelConfig, first: int) -> BertForMaskedLM:
    keys = {**hugging_face_config(config), "pad_token_id": 0, "max_position_embeddings": config.max_positions - first}
    torch.manual_seed(2)
    model = BertForMaskedLM(BertConfig(**keys))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


@pytest.mark.parametrize("layout", [XLM_ROBERTA, BERT], ids=lambda layout: layout.model_type)
def test_folders_of_both_classes_fill_both_sides_their_position_tables_from_the_first_position(
    layout: Layout, tmp_path: Path
) -> None:
    peer: XLMRobertaForMaskedLM | BertForMaskedLM
    peer = random_bert(CONFIG, 2) if layout is BERT else random_xlm_roberta(CONFIG)
    peer.save_pretrained(tmp_path)
    own, drawn, told = started({"init_encoder": str(tmp_path), "init_decoder": str(tmp_path)})
    base = peer.bert if layout is BERT else peer.roberta
    positions = base.embeddings.position_embeddings.weight + base.embeddings.token_type_embeddings.weight[0]
    for side in SIDES.values():
        assert torch.equal(own[side]["embeddings.position.weight"][2:], positions[0 if layout is BERT else 2 :])
        assert torch.equal(own[side]["layers.1.ffn_out.weight"], base.encoder.layer[1].output.dense.weight)
        keys = base.encoder.layer[0].attention.self.key.weight
        assert torch.equal(own[side]["layers.0.qkv.weight"].chunk(3)[1], keys)
    (bias,) = (p for name, p in peer.named_parameters() if name == layout.head["heads.token.decoder_bias"])
    assert torch.equal(own["decoder"]["heads.token.decoder_bias"], bias)
    assert torch.equal(own["decoder"][WORDS], base.embeddings.word_embeddings.weight)
    assert "starts anew: language embeddings, at zero" in told
    assert "embeddings.language.weight" in same(own["decoder"], drawn["decoder"])


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(train_tokenizer(tmp_path_factory.mktemp("data") / "sentencepiece.bpe.model", 64))


@pytest.fixture
def target(vocabulary: Vocabulary) -> Target:
    return target_of(MT, vocabulary.path, sha256_of(vocabulary.path))


@pytest.mark.parametrize("header", ["", "3 16\n"])
def test_word_vectors_go_to_pieces_by_name_or_by_word(
    header: str, vocabulary: Vocabulary, target: Target, tmp_path: Path
) -> None:
    pieces = vocabulary.pieces(range(vocabulary.size))
    marked = next(i for i, piece in enumerate(pieces) if piece.startswith("▁") and len(piece) > 1)
    other = next(i for i, piece in enumerate(pieces) if i > 3 and not piece.startswith("▁"))
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    names = (pieces[marked][1:], pieces[other], "nowhere-else")
    lines = [f"{name} {' '.join(map(str, vector))} \n" for name, vector in zip(names, vectors, strict=True)]
    file = tmp_path / "vectors.txt"
    file.write_text(header + "".join(lines), encoding="utf-8")
    own, drawn, told = started({"init_encoder": f"embeddings:{file}"}, target)
    words, before = own["encoder"][WORDS], drawn["encoder"][WORDS]
    assert torch.equal(words[marked], torch.from_numpy(vectors[0]))
    assert torch.equal(words[other], torch.from_numpy(vectors[1]))
    changed = (words != before).any(dim=1).nonzero().flatten().tolist()
    assert {marked, other} <= set(changed)
    assert len(changed) <= 3, "a word inside of another piece may be a piece too"
    assert same(own["encoder"], drawn["encoder"]) == set(own["encoder"]) - {WORDS}
    assert f"of the data's {vocabulary.size} pieces have a vector there" in told
    assert "starts anew: all but the word embedding" in told


def test_the_word_embedding_of_another_model_is_taken_alone(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    deeper = BertModel(BertConfig(**{**hugging_face_config(CONFIG), "num_hidden_layers": 3, "pad_token_id": 0}))
    deeper.save_pretrained(tmp_path)
    for start, words in (
        (str(tmp_path), deeper.embeddings.word_embeddings.weight),
        (str(run), random_encoder().embeddings.word.weight),
    ):
        own, drawn, told = started({"init_decoder": f"embeddings:{start}"})
        assert torch.equal(own["decoder"][WORDS], words)
        assert same(own["decoder"], drawn["decoder"]) == set(own["decoder"]) - {WORDS}
        assert "starts anew: all but the word embedding" in told


def test_starts_that_do_not_fit_are_one_line_that_names_the_key(run: Path, target: Target, tmp_path: Path) -> None:
    good = "a " + "0.5 " * 16 + "\n"
    files = {
        "narrow": "a 0.5 0.5\n",
        "word": good + "b " + "0.5 " * 15 + "x\n",
        "nan": good + "b " + "0.5 " * 15 + "nan\n",
        "strange": "nowhere-else " + "0.5 " * 16 + "\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    deep = str(a_run(tmp_path / "deep", random_encoder(), LANGUAGES, "abc").path)
    for starts, config, expected in (
        (
            {"init_decoder": str(run)},
            replace(MT, num_layers=1),
            "num_layers 2; the recipe has num_layers 1: set model.num_la",
        ),
        (
            {"init_decoder": str(run)},
            replace(MT, hidden_size=32),
            "hidden_size 16; the recipe has hidden_size 32: set model.hid",
        ),
        ({"init_encoder": str(run)}, CONFIG, "init_encoder: the model has no decoder; expected null, or a recipe with"),
        (
            {"init_encoder": str(run), "init_decoder": deep},
            replace(MT, decoder="shared"),
            "another start than init_encoder's",
        ),
        ({"init_from": str(run)}, MT, "takes them as init_encoder and init_decoder"),
        ({"init_decoder": "embeddings:nowhere/at/all"}, MT, "no such folder"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            check_starts(starts, replace(TARGET, config=config))
        assert str(caught.value).startswith(f"{[*starts][-1]}: ")
        assert "\n" not in str(caught.value)
    for name, expected in (
        ("narrow", "line 1: 2 numbers, expected 16, the recipe's model.hidden_size"),
        ("word", "line 2: not a number among"),
        ("nan", "line 2: a number that is not finite"),
        ("strange", "has a vector for none of the data's 66 pieces"),
    ):
        with pytest.raises(InputError, match=rf"^init_encoder: {tmp_path}/{name}.*{expected}"):
            check_starts({"init_encoder": f"embeddings:{tmp_path / name}"}, target)

"""A model that translates as transformers' EncoderDecoderModel: the same tokens there, and here again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.translation_folder import OUTPUT_MATRIX, direction_of, export_translation, read_folder
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target
from ernie_m.models.translation import TranslationModel
from tests.fixtures.ernie_m_export import TEXTS, train_tokenizer
from tests.properties.test_halves import translation_model
from tests.unit.test_decoding import ending

LANGUAGES = ("de", "en", "fr", "zh-Hans")
FROM, TO = "fr", "zh-Hans"
NUMBERS = (3, 4)
SHORT = [text[:12] for text in TEXTS]


def made(decoder: str) -> TranslationModel:
    return ending(translation_model(decoder, vocab_size=66, language_embedding="all"), 1.5)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(train_tokenizer(tmp_path_factory.mktemp("data") / "sentencepiece.bpe.model", 64))


def exported(model: TranslationModel, vocabulary: Vocabulary, to: Path) -> Path:
    to.mkdir()
    export_translation(model, LANGUAGES, (FROM, TO), vocabulary.path, to)
    return to


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(made("separate"), vocabulary, tmp_path_factory.mktemp("hf") / "folder")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decoder", ["separate", "shared"])
def test_transformers_generates_our_tokens_and_so_do_we_from_the_folder(
    decoder: str, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = made(decoder)
    to = exported(model, vocabulary, tmp_path / "folder")
    theirs, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(to).eval(), AutoTokenizer.from_pretrained(to)
    assert type(theirs).__name__ == "EncoderDecoderModel"
    sources = [vocabulary.encode(text) for text in SHORT]
    limit = max(longest_target(len(source)) for source in sources)
    inputs = tokenizer(SHORT, return_tensors="pt", padding=True)
    assert inputs["input_ids"][0, 1 : 1 + len(sources[0])].tolist() == sources[0].tolist()
    generated = theirs.generate(**inputs, max_new_tokens=limit).tolist()
    ours = searched(model, sources, NUMBERS, [limit] * len(sources), Search())
    for theirs_ids, own in zip(generated, ours, strict=True):
        assert theirs_ids[1 : 1 + len(own)] == own.tolist()
        assert len(own) == limit or theirs_ids[1 + len(own)] == model.specials.end
    assert {len(own) < limit for own in ours} == {True, False}
    other = searched(model, sources, NUMBERS[::-1], [limit] * len(sources), Search())
    assert any(a.tolist() != b.tolist() for a, b in zip(ours, other, strict=True)), "languages decide"
    again = read_folder(str(to), torch.device("cpu"))
    assert again.direction == (FROM, TO)
    assert again.vocabulary.fingerprint == vocabulary.fingerprint
    for search in (Search(), Search(3)):
        expected = searched(model, sources, NUMBERS, [limit] * len(sources), search)
        found = searched(again.model, sources, (0, 0), [limit] * len(sources), search)
        assert [ids.tolist() for ids in found] == [ids.tolist() for ids in expected]
    beams = theirs.generate(**inputs, max_new_tokens=limit, num_beams=3)
    assert beams.shape[0] == len(SHORT)
    theirs.save_pretrained(tmp_path / "again")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again").generate(**inputs, max_new_tokens=5).shape[1] <= 6


def config(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return do


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file(content, folder / "model.safetensors")

    return do


BAD = {
    "another class": (
        config(lambda c: c.update(model_type="bart")),
        "model type bart; expected a run, or an encoder-decoder",
    ),
    "other sides": (config(lambda c: c["decoder"].update(model_type="gpt2")), "encoder-decoder of xlm-roberta and gpt2"),
    "another shape": (config(lambda c: c["decoder"].update(num_hidden_layers=3)), "num_layers 2 of the encoder, 3 of the"),
    "no source": (config(lambda c: c["decoder"].update(add_cross_attention=False)), "has no add_cross_attention"),
    "another start": (config(lambda c: c.update(decoder_start_token_id=2)), "decoder_start_token_id 2; expected 0"),
    "untied": (tensors(lambda t: t[OUTPUT_MATRIX].add_(1)), "is not the decoder's word embedding; expected a tied one"),
    "not whole": (
        tensors(lambda t: t.pop("decoder.roberta.encoder.layer.1.crossattention.self.key.bias")),
        r"crossattention.self.key.bias is missing \(1 in all\)",
    ),
    "another tokenizer": (
        lambda f: train_tokenizer(f / "sentencepiece.bpe.model", 60),
        "its tokenizer has 62 ids, its weights 66",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_none_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    harm, expected = BAD[name]
    shutil.copytree(folder, tmp_path / "folder")
    harm(tmp_path / "folder")
    with pytest.raises(InputError, match=expected) as caught:
        read_folder(str(tmp_path / "folder"), torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_direction_is_two_languages_which_may_have_hyphens() -> None:
    assert direction_of("zh-Hans-en", LANGUAGES) == ("zh-Hans", "en")
    assert direction_of("en-zh-Hans", LANGUAGES) == ("en", "zh-Hans")
    for direction in ("fr", "fr-fr", "xx-en", "en-"):
        with pytest.raises(InputError, match=f"--direction {direction}.*expected two languages of the model: de-en, de-fr"):
            direction_of(direction, LANGUAGES)
    with pytest.raises(InputError, match="--direction is missing"):
        direction_of(None, LANGUAGES)

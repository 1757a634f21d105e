"""Our encoder and Hugging Face's XLM-R class compute the same, both ways, and so do the tokenizers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, XLMRobertaForMaskedLM

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, NO_LANGUAGE, PAD_ID, mask_id
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.export import export, to_hugging_face
from ernie_m.interop.start_weights import Target
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from tests.fixtures.ernie_m_export import train_tokenizer
from tests.interop_fixtures import LANGUAGES, TOLERANCE, as_batch, loaded, random_xlm_roberta, rows_of_ids, target_of
from tests.tokenizer_fixtures import metaspace, word_piece

if TYPE_CHECKING:
    from conftest import EncoderOf

SHAPE = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_positions": 66, "dropout": 0.0}
CONFIG = ModelConfig(**SHAPE, vocab_size=101, num_languages=4)
NUM_PIECES = 110
TEXTS = [
    "The small house is green, isn't it?",
    "Der große Hund läuft über die Brücke: 1234 €!",
    "Маленький дом у реки.",
    "小さな家は緑色です。猫が座っている",
    "البيت الصغير أخضر",
    "छोटा घर हरा है।",
    "nyumba ndogo ni ya kijani",
    "ﬁne  ½   double  spaces and a tab\there",
]


@pytest.fixture
def theirs() -> XLMRobertaForMaskedLM:
    return random_xlm_roberta(CONFIG)


@pytest.fixture
def ours(theirs: XLMRobertaForMaskedLM, tmp_path: Path) -> Encoder:
    theirs.save_pretrained(tmp_path / "theirs")
    model, left = loaded(tmp_path / "theirs", target_of(CONFIG))
    assert left == ["embeddings.language.weight"]
    assert model.embeddings.language.weight.count_nonzero() == 0
    return model


def test_loaded_from_XLM_R_every_layer_and_all_logits_are_its_own(theirs: XLMRobertaForMaskedLM, ours: Encoder) -> None:
    ids = rows_of_ids([20, 13, 3], CONFIG.vocab, with_masks=True)
    real = ids != PAD_ID
    assert not real.all()
    with torch.no_grad():
        expected = theirs(ids, attention_mask=real.long(), output_hidden_states=True)
        batch = as_batch(ids)
        assert len(expected.hidden_states) == 4
        for layer, hidden in enumerate(expected.hidden_states):
            torch.testing.assert_close(ours.hidden_states(batch, layer)[real], hidden[real], **TOLERANCE)
        logits = ours.token_head.logits(ours.hidden_states(batch))
    torch.testing.assert_close(logits[real], expected.logits[real], **TOLERANCE)
    assert expected.logits[real].std() > 0.3


def test_the_parity_test_would_see_a_lost_token_type_or_swapped_projection(
    theirs: XLMRobertaForMaskedLM, tmp_path: Path
) -> None:
    ids = rows_of_ids([20], CONFIG.vocab, with_masks=False)
    attention = theirs.roberta.encoder.layer[1].attention.self
    with torch.no_grad():
        expected = theirs(ids).logits
        for name, harmed in (
            ("type", theirs.roberta.embeddings.token_type_embeddings.weight),
            ("value", attention.value.bias),
        ):
            harmed.add_(0.1 * torch.arange(harmed.numel()).view_as(harmed) / harmed.numel())
            theirs.save_pretrained(tmp_path / name)
            other, _ = loaded(tmp_path / name, target_of(CONFIG))
            assert (other.token_head.logits(other.hidden_states(as_batch(ids))) - expected).abs().max() > 1e-2


def test_random_XLM_R_to_ours_to_hugging_face_to_ours_is_bitwise_and_logits_agree(
    theirs: XLMRobertaForMaskedLM, ours: Encoder, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    export(ours.state_dict(), CONFIG, vocabulary.path, tmp_path)
    again, left = loaded(tmp_path, target_of(CONFIG, vocabulary.path, vocabulary.fingerprint))
    assert left == ["embeddings.language.weight"]
    weights = dict(ours.named_parameters())
    assert len(weights) == 5 + 12 * 3 + 5
    assert all(torch.equal(parameter, weights[name]) for name, parameter in again.named_parameters())
    ids = rows_of_ids([20, 13], CONFIG.vocab, with_masks=True)
    real = ids != PAD_ID
    with torch.no_grad():
        there = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()(ids, attention_mask=real.long()).logits
        torch.testing.assert_close(there[real], theirs(ids, attention_mask=real.long()).logits[real], **TOLERANCE)


def test_names_and_shapes_going_out_are_those_of_the_class(encoder_of: EncoderOf) -> None:
    model, theirs = encoder_of(**SHAPE), random_xlm_roberta(CONFIG).state_dict()
    there = to_hugging_face(model.state_dict(), CONFIG)
    assert set(theirs) - set(there) == {"lm_head.decoder.weight", "lm_head.decoder.bias"}, "tied to others"
    assert {name: tensor.shape for name, tensor in there.items()} == {name: theirs[name].shape for name in there}


def test_the_language_embedding_reaches_masks_alone_so_real_text_needs_none(encoder_of: EncoderOf) -> None:
    model = encoder_of(**SHAPE)
    with torch.no_grad():
        plain, masked = (rows_of_ids([20, 9], CONFIG.vocab, with_masks=m) for m in (False, True))
        assert torch.equal(model.hidden_states(as_batch(plain, language=3)), model.hidden_states(as_batch(plain)))
        at_embedding = [model.hidden_states(as_batch(masked, language), 0) for language in (0, 3)]
        differs = (at_embedding[0] != at_embedding[1]).any(-1)
    assert torch.equal(differs, masked == mask_id(CONFIG.vocab))
    assert differs.any()


def with_languages(vocabulary: Vocabulary) -> Encoder:
    """An encoder whose tokens all carry a language; no weight is zero but the row of no language."""
    model = Encoder(ModelConfig(**SHAPE, vocab_size=vocabulary.size, num_languages=4, language_embedding="all"))
    model.initialise(3).eval()
    with torch.no_grad():
        model.embeddings.language.weight[1:].normal_(generator=torch.Generator().manual_seed(4))
    return model


def test_languages_of_tokens_go_out_as_token_types_and_come_back(vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = with_languages(vocabulary)
    export(model.state_dict(), model.config, vocabulary.path, tmp_path, languages=LANGUAGES)
    ids = rows_of_ids([20, 13], vocabulary.size, with_masks=True)
    real, language = ids != PAD_ID, torch.tensor([[2], [4]]).expand(2, 20).clone()
    language[0, 8:] = 1  # a row may hold two languages
    batch = replace(as_batch(ids), language_BS=torch.where(real, language, 0))
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits, none = (theirs(ids, real.long(), types).logits for types in (language, language * 0))
        torch.testing.assert_close(model.token_head.logits(model.hidden_states(batch))[real], logits[real], **TOLERANCE)
    assert (none - logits)[real].abs().amax(-1).min() > 1e-3, "the languages would be missed"
    again, left = loaded(tmp_path, target_of(model.config, vocabulary.path, vocabulary.fingerprint))
    assert left == []
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    fewer = Target(model.config, ("sw", "xx", "de", "zz"), vocabulary.path, vocabulary.fingerprint)
    rows = loaded(tmp_path, fewer)[0].embeddings.language.weight
    assert torch.equal(rows, model.embeddings.language.weight[[0, 4, 0, 1, 0]])


@pytest.mark.parametrize("model_type", ["xlm-roberta", "ernie_m"])
def test_one_language_for_all_tokens_fits_either_class(model_type: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = with_languages(vocabulary)
    export(model.state_dict(), model.config, vocabulary.path, tmp_path, model_type, LANGUAGES, only="fr")
    plain = replace(model.config, language_embedding="none")
    folded, _ = loaded(tmp_path, target_of(plain, vocabulary.path, vocabulary.fingerprint))
    ids = rows_of_ids([20, 13], vocabulary.size, with_masks=True)
    real = ids != PAD_ID
    with torch.no_grad():
        expected = model.hidden_states(as_batch(ids, language=3))[real]
        torch.testing.assert_close(folded.hidden_states(as_batch(ids))[real], expected, **TOLERANCE)
        if model_type == "xlm-roberta":
            theirs = AutoModel.from_pretrained(tmp_path).eval()(ids, real.long()).last_hidden_state
            torch.testing.assert_close(theirs[real], expected, **TOLERANCE)


def test_languages_that_a_class_has_no_place_for_are_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = with_languages(vocabulary)
    for config, model_type, only, message in (
        (model.config, "ernie_m", None, "--format ernie_m: its class holds no language for each token; give --language too"),
        (model.config, "xlm-roberta", "fra", "--language fra, did you mean `fr`? expected one of de, en, fr, sw"),
        (CONFIG, "xlm-roberta", "fr", "--language fr: the model's tokens carry no language; leave it out"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            export(model.state_dict(), config, vocabulary.path, tmp_path, model_type, LANGUAGES, only)
        assert not list(tmp_path.iterdir())


def test_a_causal_model_is_theirs_as_a_decoder(vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = with_languages(vocabulary)
    export(model.state_dict(), model.config, vocabulary.path, tmp_path, languages=LANGUAGES, only="en")
    ids = rows_of_ids([20], vocabulary.size, with_masks=False)
    batch = replace(as_batch(ids, language=2), horizon_BS=torch.arange(20)[None])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, is_decoder=True).eval()
    with torch.no_grad():
        expected = model.token_head.logits(model.hidden_states(batch))
        torch.testing.assert_close(theirs(ids).logits, expected, **TOLERANCE)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(train_tokenizer(tmp_path_factory.mktemp("vocabulary") / "spm.model", NUM_PIECES, TEXTS))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder, Vocabulary]:
    """An exported folder, the model it was made of, and the vocabulary."""
    return export_with("unigram", tmp_path_factory.mktemp("export"))


def export_with(model_type: str, folder: Path) -> tuple[Path, Encoder, Vocabulary]:
    vocabulary = Vocabulary(train_tokenizer(folder / "spm.model", NUM_PIECES, TEXTS, model_type))
    torch.manual_seed(3)
    model = Encoder(ModelConfig(**SHAPE, vocab_size=vocabulary.size, num_languages=4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.embeddings.language.weight[NO_LANGUAGE].zero_()
    (folder / "hf").mkdir()
    export(model.state_dict(), model.config, vocabulary.path, folder / "hf")
    return folder / "hf", model, vocabulary


def test_an_exported_folder_holds_what_hugging_face_expects(exported: tuple[Path, Encoder, Vocabulary]) -> None:
    folder, _, vocabulary = exported
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "sentencepiece.bpe.model", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    assert Vocabulary(folder / "sentencepiece.bpe.model").fingerprint == vocabulary.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_exported_hidden_states_and_logits_are_ours(exported: tuple[Path, Encoder, Vocabulary]) -> None:
    folder, model, vocabulary = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for with_mask in (False, True):
        texts = [text.replace("is", tokenizer.mask_token, 1) if with_mask else text for text in TEXTS[:4]]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=60, return_tensors="pt")
        real = inputs["attention_mask"].bool()
        assert not real.all()
        assert (inputs["input_ids"] == vocabulary.mask_id).any() == with_mask
        batch = as_batch(inputs["input_ids"], language=0 if with_mask else 2)
        with torch.no_grad():
            states = AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True).hidden_states
            for layer, hidden in enumerate(states):
                torch.testing.assert_close(model.hidden_states(batch, layer)[real], hidden[real], **TOLERANCE)
            logits = AutoModelForMaskedLM.from_pretrained(folder).eval()(**inputs).logits
            torch.testing.assert_close(model.token_head.logits(model.hidden_states(batch))[real], logits[real], **TOLERANCE)
        assert logits[real].std() > 0.3


def test_exported_tokenizer_gives_the_ids_the_model_was_trained_on(exported: tuple[Path, Encoder, Vocabulary]) -> None:
    folder, _, vocabulary = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "unseen ☃ 漢字 words Straße", " leading and trailing "]:
        assert tokenizer(text)["input_ids"] == [BOS_ID, *vocabulary.encode(text).tolist(), EOS_ID], text
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id) == (PAD_ID, vocabulary.mask_id, 3)
    assert len(tokenizer) == vocabulary.size
    assert tokenizer.model_max_length == 64
    first, second = (vocabulary.encode(text).tolist() for text in TEXTS[:2])
    assert tokenizer(*TEXTS[:2])["input_ids"] == [BOS_ID, *first, EOS_ID, EOS_ID, *second, EOS_ID], "pairs as in training"


def test_a_BPE_model_is_exported_with_a_tokenizer_json_that_gives_its_ids(tmp_path: Path) -> None:
    folder, model, vocabulary = export_with("bpe", tmp_path)
    test_exported_tokenizer_gives_the_ids_the_model_was_trained_on((folder, model, vocabulary))
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = open_vocabulary(folder)
    assert (again.kind, again.specials) == ("BPE", vocabulary.specials)


def test_a_tokenizer_json_is_exported_as_it_came(tmp_path: Path) -> None:
    tokenizer = metaspace(TEXTS, tmp_path / "tokenizer", 99)
    config = ModelConfig(**SHAPE, vocab_size=open_vocabulary(tokenizer).size, num_languages=4)
    (tmp_path / "hf").mkdir()
    export(Encoder(config).state_dict(), config, tokenizer, tmp_path / "hf")
    for path in tokenizer.iterdir():
        assert (tmp_path / "hf" / path.name).read_bytes() == path.read_bytes()
    exported, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "hf", tokenizer))
    assert exported(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]


def test_a_tokenizer_of_another_layout_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tokenizer, config = word_piece(TEXTS, tmp_path / "tokenizer", 99), ModelConfig(**SHAPE, vocab_size=99, num_languages=4)
    (tmp_path / "hf").mkdir()
    with pytest.raises(InputError, match="its begin is 6, expected 0, as in XLM-R's layout"):
        export(Encoder(config).state_dict(), config, tokenizer, tmp_path / "hf")
    assert not list((tmp_path / "hf").iterdir())

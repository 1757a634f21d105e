"""Our encoder and Hugging Face's XLM-R class compute the same, both ways, and so do the tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sentencepiece
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, XLMRobertaForMaskedLM

from ernie_m.batch import NO_HORIZON, PackedBatch
from ernie_m.console import InputError
from ernie_m.interop.xlm_roberta import export, from_hugging_face, hugging_face_config, load_into, to_hugging_face
from ernie_m.model import Encoder, ModelConfig
from ernie_m.special_tokens import BOS_ID, EOS_ID, FIRST_PIECE_ID, NO_LANGUAGE, PAD_ID, mask_id
from ernie_m.vocabulary import Vocabulary

if TYPE_CHECKING:
    from conftest import EncoderOf

SHAPE = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_positions": 66, "dropout": 0.0}
CONFIG = ModelConfig(**SHAPE, vocab_size=101, num_languages=4)
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
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def rows_of_ids(lengths: list[int], vocab_size: int, with_masks: bool) -> Tensor:
    """One <s> x </s> a row, padded; ids int64 [B, S]."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.full((len(lengths), max(lengths)), PAD_ID)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(FIRST_PIECE_ID, mask_id(vocab_size), (length,), generator=rng)
        ids[row, [0, length - 1]] = torch.tensor([BOS_ID, EOS_ID])
        if with_masks:
            ids[row, 2 : length - 1 : 4] = mask_id(vocab_size)
    return ids


def as_batch(ids: Tensor, language: int = 0) -> PackedBatch:
    """Our form of these rows: one document each, all read all."""
    real = ids != PAD_ID
    position = torch.where(real, torch.arange(ids.shape[1]) + 2, PAD_ID)
    zeros, none = torch.zeros_like(ids), torch.zeros(0, dtype=torch.long)
    horizon, document = torch.full_like(ids, NO_HORIZON), torch.where(real, 0, -1)
    language_BS = torch.where(real, language, 0)
    return PackedBatch(ids, position, language_BS, document, zeros, real.long(), horizon, none, none, none, none, None)


@pytest.fixture
def theirs() -> XLMRobertaForMaskedLM:
    """Random weights, none zero: biases, norms and the token type embedding too."""
    model = XLMRobertaForMaskedLM(hugging_face_config(CONFIG)).eval()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.15, generator=rng)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    assert model.roberta.embeddings.token_type_embeddings.weight.abs().min() > 0
    return model


@pytest.fixture
def ours(theirs: XLMRobertaForMaskedLM) -> Encoder:
    model = Encoder(CONFIG).initialise(5).eval()
    load_into(model, from_hugging_face(theirs.state_dict(), CONFIG))
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
        logits = ours.head.logits(ours.hidden_states(batch))
    torch.testing.assert_close(logits[real], expected.logits[real], **TOLERANCE)
    assert expected.logits[real].std() > 0.3


def test_the_parity_test_would_see_a_lost_token_type_or_swapped_projection(
    theirs: XLMRobertaForMaskedLM, ours: Encoder
) -> None:
    ids = rows_of_ids([20], CONFIG.vocab, with_masks=False)
    with torch.no_grad():
        expected = theirs(ids).logits
        for harm in ("roberta.embeddings.token_type_embeddings.weight", "roberta.encoder.layer.1.attention.self.key.bias"):
            weights = theirs.state_dict()
            weights[harm] = torch.zeros_like(weights[harm])
            weights["roberta.encoder.layer.1.attention.self.value.bias"] = weights[
                "roberta.encoder.layer.1.attention.self.value.bias"
            ] + (0.1 if "key" in harm else 0.0)
            load_into(ours, from_hugging_face(weights, CONFIG))
            assert (ours.head.logits(ours.hidden_states(as_batch(ids))) - expected).abs().max() > 1e-2


def test_ours_to_theirs_and_back_is_bitwise(encoder_of: EncoderOf) -> None:
    model = encoder_of(**SHAPE)
    weights = model.state_dict()
    there = to_hugging_face(weights, CONFIG)
    assert set(there) == set(XLMRobertaForMaskedLM(hugging_face_config(CONFIG)).state_dict())
    back = from_hugging_face(there, CONFIG)
    assert set(back) == set(weights) - {"embeddings.language.weight"}
    assert all(torch.equal(back[name], weights[name]) for name in back)


def test_loading_into_another_shape_is_an_error(ours: Encoder) -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        load_into(ours, {"embeddings.word.weight": torch.zeros(101, 32)})
    with pytest.raises((RuntimeError, AssertionError)):
        load_into(ours, ours.state_dict() | {"surprise": torch.zeros(1)})


def test_the_language_embedding_reaches_masks_alone_so_real_text_needs_none(encoder_of: EncoderOf) -> None:
    model = encoder_of(**SHAPE)
    with torch.no_grad():
        plain, masked = (rows_of_ids([20, 9], CONFIG.vocab, with_masks=m) for m in (False, True))
        assert torch.equal(model.hidden_states(as_batch(plain, language=3)), model.hidden_states(as_batch(plain)))
        at_embedding = [model.hidden_states(as_batch(masked, language), 0) for language in (0, 3)]
        differs = (at_embedding[0] != at_embedding[1]).any(-1)
    assert torch.equal(differs, masked == mask_id(CONFIG.vocab))
    assert differs.any()


def train(path: Path, model_type: str) -> Path:
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 40),
            model_writer=file,
            vocab_size=220,
            hard_vocab_limit=False,
            model_type=model_type,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=3,
        )
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder, Vocabulary]:
    """An exported folder, the model it was made of, and the vocabulary."""
    return export_with("unigram", tmp_path_factory.mktemp("export"))


def export_with(model_type: str, folder: Path) -> tuple[Path, Encoder, Vocabulary]:
    vocabulary = Vocabulary(train(folder / "spm.model", model_type))
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
            torch.testing.assert_close(model.head.logits(model.hidden_states(batch))[real], logits[real], **TOLERANCE)
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


def test_a_BPE_tokenizer_is_refused_at_export_rather_than_giving_other_ids(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a BPE model"):
        export_with("bpe", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))

"""Text to model ids, and what is refused as a tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import UNK_ID
from ernie_m.corpus.vocabulary import Vocabulary

TEXTS = ["the small house", "das kleine Haus", "маленький дом", "小さい家 猫", "nyumba ndogo"]


def train(path: Path, **changes: object) -> Path:
    with open(path, "wb") as file:
        arguments = {"vocab_size": 90, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "minloglevel": 3}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 30), model_writer=file, hard_vocab_limit=False, **{**arguments, **changes}
        )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("spm") / "spm.model")


def test_ids_are_the_pieces_shifted_as_fairseq_did(model: Path) -> None:
    vocabulary = Vocabulary(model)
    raw = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert vocabulary.size == raw.get_piece_size() + 2
    assert vocabulary.mask_id == vocabulary.size - 1
    assert vocabulary.fingerprint == sha256_of(model)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == [i + 1 for i in raw.encode(text)]
        assert 4 <= ids.min() <= ids.max() < vocabulary.mask_id
        assert vocabulary.decode([0, *ids.tolist(), 2, vocabulary.mask_id]) == text


def test_pieces_are_the_models_own_and_specials_have_names(model: Path) -> None:
    vocabulary = Vocabulary(model)
    raw = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = vocabulary.encode(TEXTS[1])
    assert vocabulary.pieces(ids) == raw.encode(TEXTS[1], out_type=str)
    assert vocabulary.pieces([0, 1, 2, 3, vocabulary.mask_id]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def test_unknown_characters_are_UNK(model: Path) -> None:
    ids = Vocabulary(model).encode("the ☃ house")
    assert (ids == UNK_ID).sum() == 1
    assert ids.min() == UNK_ID, "the shift must not turn <unk> into <pad>"


def test_a_batch_is_its_texts_one_by_one(model: Path) -> None:
    vocabulary = Vocabulary(model)
    for texts in ([*TEXTS, ""], [], [""], TEXTS * 2000):
        values, offsets = vocabulary.encode_batch(texts)
        assert (values.dtype, offsets.dtype) == (np.int32, np.int64)
        assert len(offsets) == len(texts) + 1
        assert (offsets[0], offsets[-1]) == (0, len(values))
        for text, start, end in list(zip(texts, offsets[:-1], offsets[1:], strict=True))[-10:]:
            assert np.array_equal(values[start:end], vocabulary.encode(text))


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "text.model").write_text("hello")
    (tmp_path / "half.model").write_bytes(model.read_bytes()[:100])
    other = train(tmp_path / "other.model", pad_id=0, unk_id=1, bos_id=2, eos_id=3)
    for path, message in (
        (tmp_path / "none.model", "no such file; expected a SentencePiece model"),
        (tmp_path, "no such file"),
        (tmp_path / "text.model", "not a SentencePiece model"),
        (tmp_path / "half.model", "not a SentencePiece model"),
        (other, r"pieces 0-2 are .*'<pad>'.*, expected <unk> <s> </s>"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Vocabulary(path)
        assert str(path) in str(caught.value)


def test_lone_surrogates_are_refused(model: Path) -> None:
    with pytest.raises((UnicodeEncodeError, TypeError)):
        Vocabulary(model).encode_batch(["a \ud800"])

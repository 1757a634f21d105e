"""A tokenizer is known by its bytes, and what only looks like XLM-R's is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_prep import known_tokenizers
from data_prep.known_tokenizers import recognised
from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import XLM_R_VOCAB_SIZE
from ernie_m.corpus.vocabulary import TOKENIZER_FILE, Vocabulary

OTHER = "0" * 12


@pytest.fixture
def named_as_xlm_rs(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vocabulary:
    """A model under XLM-R's name that has XLM-R's number of pieces."""
    shutil.copyfile(tokenizer, tmp_path / TOKENIZER_FILE)
    vocabulary = Vocabulary(tmp_path / TOKENIZER_FILE)
    monkeypatch.setattr(known_tokenizers, "XLM_R_VOCAB_SIZE", vocabulary.size)
    return vocabulary


def test_xlm_rs_own_is_known_by_its_hash_under_any_name(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(tokenizer)
    monkeypatch.setattr(known_tokenizers, "XLM_R_SHA256", vocabulary.fingerprint)
    assert str(recognised(vocabulary)) == f"tokenizer: XLM-R's own (SHA-256 {vocabulary.fingerprint[:12]}...)"


def test_the_known_hash_is_a_whole_one() -> None:
    assert len(bytes.fromhex(known_tokenizers.XLM_R_SHA256)) == 32
    assert XLM_R_VOCAB_SIZE == 250_000 + 2


def test_another_model_is_said_to_be_one_with_its_kind_size_and_hash(tokenizer: Path) -> None:
    vocabulary = Vocabulary(tokenizer)
    line = str(recognised(vocabulary))
    assert line.startswith("tokenizer: a SentencePiece BPE model of our own or unknown origin, 120 pieces (")
    assert vocabulary.fingerprint[:12] in line
    assert "cfc8146abe2a" in line


def test_other_bytes_under_xlm_rs_name_and_size_are_refused(named_as_xlm_rs: Vocabulary) -> None:
    fingerprint = named_as_xlm_rs.fingerprint[:12]
    with pytest.raises(InputError, match=r"cfc8146abe2a\.\.\. \(5,069,051 bytes\): a damaged or changed download") as error:
        recognised(named_as_xlm_rs)
    assert str(named_as_xlm_rs.path) in str(error.value)
    assert f"--tokenizer_sha256 {fingerprint}" in str(error.value)
    assert "unknown origin" in str(recognised(named_as_xlm_rs, fingerprint)), "the way out must work"


def test_either_the_name_or_the_size_alone_refuses_nothing(
    named_as_xlm_rs: Vocabulary, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "unknown origin" in str(recognised(Vocabulary(tokenizer))), "the size without the name"
    monkeypatch.setattr(known_tokenizers, "XLM_R_VOCAB_SIZE", XLM_R_VOCAB_SIZE)
    assert "unknown origin" in str(recognised(named_as_xlm_rs)), "the name without the size"


def test_an_expected_hash_is_required(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(tokenizer)
    for expected in (vocabulary.fingerprint, vocabulary.fingerprint[:8].upper()):
        recognised(vocabulary, expected)
    with pytest.raises(InputError, match=f"SHA-256 is {vocabulary.fingerprint}, --tokenizer_sha256 expects {OTHER}"):
        recognised(vocabulary, OTHER)
    for wrong in ("xyz", "", vocabulary.fingerprint[:7], vocabulary.fingerprint + "0"):
        with pytest.raises(InputError, match="expected the first 8 to 64 hexadecimal digits"):
            recognised(vocabulary, wrong)
    monkeypatch.setattr(known_tokenizers, "XLM_R_SHA256", vocabulary.fingerprint)
    with pytest.raises(InputError, match="expects"):
        recognised(vocabulary, OTHER)


def test_a_model_cut_between_two_pieces_is_refused_though_it_loads(tokenizer: Path, tmp_path: Path) -> None:
    whole = Vocabulary(tokenizer).model_proto()
    pieces = sum(1 + 1 + piece.ByteSize() for piece in whole.pieces[:100])  # a tag and a length before each
    cut = tmp_path / "cut.model"
    cut.write_bytes(tokenizer.read_bytes()[:pieces])
    with pytest.raises(InputError, match=r"cut\.model: ends behind its piece 100, .* truncated, fetch it again"):
        recognised(Vocabulary(cut))

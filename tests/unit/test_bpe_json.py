"""A BPE model of train-tokenizer as a tokenizer.json: fast ids are SentencePiece's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from data_prep import embedded
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.bpe_json import bpe_json
from ernie_m.corpus.vocabulary import Vocabulary
from tests.tokenizer_fixtures import LOCALES, sentences


@pytest.fixture(scope="module")
def lines() -> list[str]:
    of_cldr = [sentence for code in LOCALES for sentence in sentences(code)[:30]]
    return of_cldr + [embedded.sentence(0, i, language) for language in embedded.LANGUAGES for i in range(60)]


@pytest.fixture(scope="module")
def vocabulary(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    made = tmp_path_factory.mktemp("bpe")
    (made / "text.txt").write_text("\n".join(lines[::2]), encoding="utf-8")
    (made / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    return train_tokenizer(made / "c.yaml", made / "spm.model", 6000, "bpe")


def test_slow_and_fast_ids_agree_in_eighty_languages(vocabulary: Vocabulary, lines: list[str]) -> None:
    fast, draw = Tokenizer.from_str(bpe_json(vocabulary)), random.Random(0)
    made_up = ["".join(draw.choices("aabbcé  ሀ1🙂", k=draw.randint(0, 30))) for _ in range(1000)]
    odd = ["", "  ", " a ", "a\u3000b\tc", "aaaa aaaaaaaaaaa 1111111", "x   y"]
    for text in [*lines, *made_up, *odd]:
        assert fast.encode(text, add_special_tokens=False).ids == vocabulary.encode(text).tolist(), text
    assert fast.get_vocab_size() == vocabulary.size
    ids = vocabulary.encode(lines[0]).tolist()
    assert fast.decode(ids) == vocabulary.decode(ids)


def test_what_it_says_of_itself_is_XLM_Rs_layout(vocabulary: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(bpe_json(vocabulary), encoding="utf-8")
    assert open_vocabulary(tmp_path).specials == vocabulary.specials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 100}, "not a BPE model"),
        ({"byte_fallback": True, "vocab_size": 400}, "it spells unknown characters in bytes"),
        ({"split_by_whitespace": False}, "reaches over a space"),
        ({"add_dummy_prefix": False}, "its spaces are not treated as XLM-R's are"),
        ({"user_defined_symbols": ["@@"]}, "its piece '@@' is of a kind of its own"),
    ],
)
def test_models_that_it_could_not_be_made_for_are_refused(
    changes: dict[str, object], message: str, lines: list[str], tmp_path: Path
) -> None:
    settings: dict[str, object] = {
        "vocab_size": 300,
        "model_type": "bpe",
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
    }
    with open(tmp_path / "m.model", "wb") as file:
        english = [embedded.sentence(0, i, "en") for i in range(200)]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(english), model_writer=file, minloglevel=3, **{**settings, **changes}
        )
    with pytest.raises(InputError, match=message) as caught:
        bpe_json(Vocabulary(tmp_path / "m.model"))
    assert "\n" not in str(caught.value)

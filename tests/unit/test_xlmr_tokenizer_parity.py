"""Our ids are those of transformers' XLM-R tokenizer, on real words of eighty languages.

The text is Unicode CLDR's (through Babel): names of countries, languages and currencies, dates and quantities, as each
language writes them. benchmarks/tokenizer_parity.py does the same on corpora and explains the few differences: sequences of
combining marks and exact ties, a line in 70,000.
"""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from transformers import XLMRobertaTokenizer

from data_prep import embedded
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from ernie_m.corpus.vocabulary import TOKENIZER_FILE, Vocabulary
from tests.tokenizer_fixtures import LOCALES, SENTENCES, sentences

VOCAB_SIZE = 9000


@pytest.fixture(scope="module")
def lines() -> list[str]:
    of_cldr = [sentence for code in LOCALES for sentence in sentences(code)]
    of_the_embedded_corpus = [embedded.sentence(0, i, language) for language in embedded.LANGUAGES for i in range(100)]
    return of_cldr + of_the_embedded_corpus


@pytest.fixture(scope="module")
def folder(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unigram model of the text, as train-tokenizer makes it, under the name that transformers looks for."""
    made = tmp_path_factory.mktemp("tokenizer")
    (made / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (made / "c.yaml").write_text("corpora: [{name: text, format: cc100, path: text.txt, language: mul}]")
    train_tokenizer(made / "c.yaml", made / "spm.model", VOCAB_SIZE)
    (made / "hf").mkdir()
    shutil.copyfile(made / "spm.model", made / "hf" / TOKENIZER_FILE)
    return made / "hf"


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(folder / TOKENIZER_FILE)


@pytest.mark.parametrize("way", ["loaded from the model", "saved and loaded again"])
def test_ids_are_those_of_transformers_in_eighty_languages(
    lines: list[str], folder: Path, vocabulary: Vocabulary, way: str, tmp_path: Path
) -> None:
    theirs = XLMRobertaTokenizer.from_pretrained(folder)
    if way == "saved and loaded again":
        theirs.save_pretrained(tmp_path)
        theirs = XLMRobertaTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == vocabulary.size == VOCAB_SIZE
    assert theirs.mask_token_id == vocabulary.mask_id
    expected = theirs(lines, add_special_tokens=False)["input_ids"]
    different = [
        (line, theirs.convert_ids_to_tokens(ours), theirs.convert_ids_to_tokens(their))
        for line, ours, their in zip(lines, (vocabulary.encode(line).tolist() for line in lines), expected, strict=True)
        if ours != their
    ]
    assert not different, f"{len(different)} of {len(lines)} lines, e.g. {different[0]}"


def test_the_comparison_is_not_an_empty_one(lines: list[str], vocabulary: Vocabulary) -> None:
    """Eighty languages, twenty scripts, few unknown characters, pieces of more than a character."""
    scripts = {unicodedata.name(c).split()[0] for line in lines for c in line if c.isalpha()}
    ids = np.concatenate([vocabulary.encode(line) for line in lines])
    assert len(LOCALES) >= 80
    assert len(set(lines)) > 0.99 * len(LOCALES) * SENTENCES
    assert len(scripts) >= 20, scripts
    assert 0 < np.mean(ids == UNK_ID) < 0.01
    assert len(np.unique(ids)) > 0.9 * VOCAB_SIZE
    assert sum(map(len, lines)) > 2 * len(ids)


def test_the_name_of_a_special_token_in_a_text_is_text(vocabulary: Vocabulary) -> None:
    """Here transformers differs on purpose: it makes of a user's <mask> the mask. A corpus must not set masks."""
    for name in ("<s>", "</s>", "<pad>", "<mask>", "<unk>"):
        ids = vocabulary.encode(f"a {name} b").tolist()
        assert set(ids).isdisjoint({BOS_ID, PAD_ID, EOS_ID, vocabulary.mask_id})
        assert len(ids) > 3

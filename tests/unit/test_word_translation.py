"""Word translation: means of rows of the word embedding, nearest by cosine, for any encoder and its own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.commands.evaluate import Commands
from ernie_m.corpus.word_pairs import Dictionary
from ernie_m.models.word_translation import known_pairs, pieces_of, static_vectors, word_translation
from tests.downstream_fixtures import tiny_encoder
from tests.tokenizer_fixtures import KINDS, sentences

__all__ = ["tiny_encoder"]

WORDS = ("April", "Monday", "two", "minutes", "hours", "day")
TRANSLATED = ("avril", "lundi", "deux", "minute", "heures", "jour")


def test_the_vector_of_a_word_is_the_mean_of_its_pieces_rows() -> None:
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    words = [[3], [4, 4, 9], [0, 19]]
    expected = torch.stack([torch.stack([rows[i] for i in ids]).mean(dim=0) for ids in words])
    torch.testing.assert_close(static_vectors(rows, words), expected)


@pytest.mark.parametrize("kind", list(KINDS))
def test_pieces_are_those_of_the_word_behind_a_space(kind: str, tmp_path: Path) -> None:
    """So a word alone has the pieces that it has in a sentence, without special tokens or a space by itself."""
    lines = [line for code in ("en", "fr", "zh") for line in sentences(code)]
    tokenizer = AutoTokenizer.from_pretrained(KINDS[kind](lines, tmp_path / "tokenizer"))
    words = [word for word in WORDS if tokenizer.unk_token_id not in tokenizer(f" {word}")["input_ids"]]
    assert len(words) > 3
    for word, ids in zip(words, pieces_of(tokenizer, words), strict=True):
        assert tokenizer.decode(ids).strip() == word
        assert not set(ids) & set(tokenizer.all_special_ids)
        in_a_sentence = tokenizer(f"minutes {word}", add_special_tokens=False)["input_ids"]
        assert in_a_sentence[-len(ids) :] == ids
    if tokenizer.unk_token_id is not None:
        assert pieces_of(tokenizer, ["minutes☃"]) in ([[]], [pieces_of(tokenizer, ["minutes☃"])[0]])


def test_accuracy_is_that_of_a_loop_and_one_where_the_rows_have_met(tiny_encoder: Path) -> None:
    encoder, tokenizer = AutoModel.from_pretrained(tiny_encoder), AutoTokenizer.from_pretrained(tiny_encoder)
    dictionary = Dictionary(WORDS, TRANSLATED)
    source, target = known_pairs(tokenizer, dictionary)
    rows = encoder.get_input_embeddings().weight.detach()

    def loop(queries: list[list[int]], keys: list[list[int]]) -> float:
        vectors = [[rows[ids].mean(dim=0) for ids in side] for side in (queries, keys)]
        cosines = [[float(torch.cosine_similarity(q, k, dim=0)) for k in vectors[1]] for q in vectors[0]]
        return sum(max(range(len(row)), key=row.__getitem__) == i for i, row in enumerate(cosines)) / len(cosines)

    found = word_translation(encoder, tokenizer, dictionary)
    assert 3 < found.pairs == len(source) == len(target)
    assert found.ways == pytest.approx((loop(source, target), loop(target, source)))
    assert min(found.ways) < 1


def test_words_whose_rows_have_met_are_all_found(tiny_encoder: Path) -> None:
    encoder, tokenizer = AutoModel.from_pretrained(tiny_encoder), AutoTokenizer.from_pretrained(tiny_encoder)
    words = [piece[1:] for piece in tokenizer.get_vocab() if piece[0] == "▁" and piece[1:].isalpha()]
    words = [word for word, ids in zip(words, pieces_of(tokenizer, words), strict=True) if len(ids) == 1][:60]
    met = Dictionary(tuple(words[:30]), tuple(words[30:]))
    assert max(word_translation(encoder, tokenizer, met).ways) < 0.5
    with torch.no_grad():
        rows = encoder.get_input_embeddings().weight
        for one, other in zip(*known_pairs(tokenizer, met), strict=True):
            rows[other] = 3 * rows[one]  # a cosine does not see length
    assert word_translation(encoder, tokenizer, met).ways == (1, 1)


def test_the_command_measures_any_encoder_by_a_file(tiny_encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "en-fr.txt"
    path.write_text("".join(f"{a} {b}\n" for a, b in zip(WORDS, TRANSLATED, strict=True)), encoding="utf-8")
    Commands().words(model=str(tiny_encoder), dictionary=str(path), size=5, output=str(tmp_path / "out.json"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["dictionaries"]["en-fr"] == [list(pair) for pair in list(zip(WORDS, TRANSLATED, strict=True))[:5]]
    for name in ("trained", "untrained"):
        assert content[name]["en-fr"]["pairs"] == 4, "one of the five has a piece that it does not know"
        assert 0 <= content[name]["en-fr"]["to_target"] <= 1


def test_a_dictionary_is_needed_and_must_have_words_that_are_known(tiny_encoder: Path, tmp_path: Path) -> None:
    for given in ({}, {"data": "a", "dictionary": "b"}):
        with pytest.raises(InputError, match="give either --data, a folder with word links, or --dictionary, a file"):
            Commands().words(model=str(tiny_encoder), **given)
    (tmp_path / "d").write_text("☃ ☀\n", encoding="utf-8")
    with pytest.raises(InputError, match="its tokenizer knows no pair of the dictionary"):
        Commands().words(model=str(tiny_encoder), dictionary=str(tmp_path / "d"))


def test_links_that_give_no_dictionary_are_told(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_m.corpus.folder.CorpusFolder", lambda data: None)
    monkeypatch.setattr("ernie_m.corpus.word_pairs.dictionaries", lambda folder, size: {})
    with pytest.raises(InputError, match=r"--data d: no two words that its links join 3 times or more"):
        Commands().words(model=str(tiny_encoder), data="d")

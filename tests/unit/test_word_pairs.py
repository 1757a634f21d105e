"""The dictionary that links of a data folder make: its words, its order, what is left out; and dictionaries of files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.build import build
from data_prep.tokenizer_training import train_tokenizer
from ernie_m.ablation import measures
from ernie_m.base.console import InputError
from ernie_m.corpus import word_pairs
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import CorpusFolder, Shard
from ernie_m.corpus.word_pairs import Dictionary, dictionaries, read_dictionary
from ernie_m.corpus.words import begins_word, word_numbers
from tests.link_fixtures import Links, write

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
LETTERS = str.maketrans("aeiou", "áéíóú")
ENGLISH = [a + b for a, b in zip(SYLLABLES, SYLLABLES[7:], strict=False)]
SAME = "tom"
ROWS = 240


def lines() -> list[tuple[list[str], list[str]]]:
    """Sentences of words whose translation is spelt with accents; some words are frequent, some are capital or marked."""
    draw, found = random.Random(0), []
    for _ in range(ROWS):
        words = draw.choices(ENGLISH, [1 / (1 + rank) for rank in range(len(ENGLISH))], k=6)
        words[0] = draw.choice(ENGLISH)  # so that all capitals are frequent enough to be in the vocabulary
        source = [words[0].capitalize(), *words[1:], SAME, "2024", f"«{words[0]}»."]
        found.append((source, [word.translate(LETTERS) if word[:3] != SAME else word for word in source]))
    return found


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> CorpusFolder:
    """Those pairs, en-es, as shards: every first token of a word linked with that of its translation."""
    made = tmp_path_factory.mktemp("linked")
    text = "".join(f"{' '.join(source)}\t{' '.join(target)}\n" for source, target in lines())
    (made / "pairs.tsv").write_text(text, encoding="utf-8")
    (made / "c.yaml").write_text(
        "corpora: [{name: pairs, format: tsv, path: pairs.tsv, languages: [en, es], held_out: 0}]", encoding="utf-8"
    )
    train_tokenizer(made / "c.yaml", made / "spm.model", 150)
    build(made / "c.yaml", made / "spm.model", made / "data")
    begins = begins_word(open_vocabulary(made / "spm.model"))

    def first_tokens(shard: Shard, column: int, row: int) -> list[int]:
        offsets, values = shard.offsets[column], shard.values[column]
        numbers = word_numbers(values[offsets[row] : offsets[row + 1]], begins)
        return np.unique(numbers, return_index=True)[1].tolist()

    def links_of(shard: Shard, place: int) -> Links:
        rows = range(shard.entry.rows)
        return [list(zip(*(first_tokens(shard, c, row) for c in (0, 1)), strict=True)) for row in rows]

    write(made / "data", links_of)
    return CorpusFolder(made / "data")


def plain(word: str) -> str:
    return word.strip("«».").lower()


def expected(size: int, stop_words: int, least: int) -> list[tuple[str, str, int]]:
    """By a loop over the text: a word is its own translation without accents, so pairs compete with nothing."""
    counts, links = Counter(), Counter()
    for source, _ in lines():
        counts.update(map(plain, source))
        links.update({(place, plain(word)) for place, word in enumerate(source)})
    per_word = Counter()
    for (_, word), count in links.items():
        per_word[word] += count
    ranked = sorted((word for word in counts if not word.isdigit()), key=lambda word: -counts[word])
    kept = set(ranked[stop_words:]) - {SAME}
    pairs = [(word, word.translate(LETTERS), count) for word, count in per_word.items() if word in kept and count >= least]
    return sorted(pairs, key=lambda pair: -pair[2])[:size]


def test_the_dictionary_is_what_a_loop_over_the_text_counts(linked: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 4)
    found = dictionaries(linked, 1000)["en-es"]
    pairs = list(zip(found.source, found.target, found.links, strict=True))
    wanted = expected(1000, 4, word_pairs.LEAST_LINKS)
    assert 20 < len(wanted) < len(ENGLISH)
    assert sorted(pairs) == sorted(wanted)
    assert list(found.links) == sorted(found.links, reverse=True)
    assert dictionaries(linked, 7)["en-es"] == Dictionary(found.source[:7], found.target[:7], found.links[:7])


def test_a_word_is_in_one_pair_and_words_spelt_alike_in_none(linked: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 0)
    found = dictionaries(linked, 1000)["en-es"]
    for side in (found.source, found.target):
        assert len(set(side)) == len(side)
        assert not {SAME, "2024", "«", "."} & set(side)
        assert all(word == plain(word) for word in side)
    assert len(found) > 30


def test_of_pairs_that_compete_the_one_with_most_links_is_taken(
    linked: CorpusFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linked_words(shard: Shard, rows: int, sides: list[word_pairs._Side]) -> np.ndarray:
        for side, words in zip(sides, ("abc", "xyz"), strict=True):
            side.words += words
            side.counts += [1, 1, 1]
        return np.repeat([[0, 0], [0, 1], [1, 0], [1, 1], [2, 2]], [5, 4, 4, 3, 2], axis=0)

    monkeypatch.setattr(word_pairs, "STOP_WORDS", 0)
    monkeypatch.setattr(word_pairs, "_linked_words", linked_words)
    assert dictionaries(linked, 10)["en-es"] == Dictionary(("a", "b"), ("x", "y"), (5, 3))


def test_the_most_frequent_words_are_stop_words(linked: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 0)
    everything = set(dictionaries(linked, 1000)["en-es"].source)
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 5)
    assert everything - set(dictionaries(linked, 1000)["en-es"].source) == set(ENGLISH[:4]), (
        "and the name, which is not there"
    )


def test_where_no_spaces_are_written_each_token_is_a_word(linked: CorpusFolder) -> None:
    vocabulary = open_vocabulary(linked.tokenizer_path)
    shard = linked.parallel()[0].shards[0]
    words = {}
    for language in ("es", "zh"):
        side = word_pairs._Side(vocabulary, language)
        place_T, number_P = side.words_of(shard.values[1], shard.offsets[1])
        assert len(place_T) == len(shard.values[1])
        words[language] = len(number_P)
    assert words["zh"] == len(shard.values[1]) > words["es"] == ROWS * len(lines()[0][1])


def test_only_the_first_pairs_are_counted(linked: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 0)
    whole = dictionaries(linked, 1000)["en-es"].links
    monkeypatch.setattr(word_pairs, "MOST_PAIRS", ROWS // 2)
    half = dictionaries(linked, 1000)["en-es"].links
    assert 0 < sum(half) < 0.6 * sum(whole)


def test_a_comparison_measures_words_where_the_data_has_links(
    linked: CorpusFolder, corpus_without_links: CorpusFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_pairs, "STOP_WORDS", 0)
    assert measures.dictionaries_of(linked.folder) == dictionaries(linked) != {}
    assert measures.dictionaries_of(corpus_without_links.folder) == {}


def test_a_folder_without_links_is_refused(corpus_without_links: CorpusFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pairs, "open_vocabulary", lambda path: None)
    with pytest.raises(InputError, match="has no column links, or not in all its shards; run `python -m data_prep align"):
        dictionaries(corpus_without_links, 10)


def test_a_dictionary_of_a_file_is_read_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "en-de.txt"
    path.write_text("house haus\nhouse heim\nhome\thaus\nTom Tom\n\nnew york\tneu york\nriver fluss\n", encoding="utf-8")
    assert read_dictionary(path, 10) == Dictionary(("house", "new york", "river"), ("haus", "neu york", "fluss"))
    assert read_dictionary(path, 1) == Dictionary(("house",), ("haus",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"house haus\nriver\n", r"d.txt:2: 'river', expected a word and its translation"),
        (b"a b c\n", r"d.txt:1: 'a b c', expected"),
        (b"\xff\xfe\n", r"d.txt, line 1: not UTF-8"),
        (b"Tom Tom\n", r"d.txt: no pair of two different words"),
        (None, r"d.txt: no such file"),
    ],
)
def test_a_file_that_is_no_dictionary_is_refused_in_a_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "d.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_dictionary(tmp_path / "d.txt", 10)

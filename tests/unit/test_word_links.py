"""Files of word links in the forms that there are, and the score of links."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.word_alignment.scoring import pharaoh_links, scored
from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.gold_sets import gold_paths, read_gold_sets
from ernie_m.corpus.word_links import GoldPair, read_gold, score
from ernie_m.corpus.words import begins_word, word_numbers
from tests.tokenizer_fixtures import byte_level, metaspace, sentences, word_piece

GOLD = [GoldPair(frozenset({(0, 0), (2, 1)}), frozenset({(0, 0), (2, 1), (1, 1)})), GoldPair(frozenset(), frozenset())]
FORMS = {
    "pharaoh": "0-0 2-1 1p1\n\n",
    "pharaoh P": "0-0 1P1 2-1\n\n",
    "pharaoh from 1": "1-1 3-2 2?2\n\n",
    "text": "a b c ||| d e ||| 0-0 2-1 1p1\na ||| d ||| \n",
    "tabs": "a b c\td e\t0-0 2-1 1p1\t\t\na\td\t\n",
    "pharaoh, marked, of Windows": "\ufeff0-0 2-1 1p1\r\n\r\n",
    "wpt": "1 1 1 S\n1 3 2\n1 2 2 P\n2 0 0 P\n",
    "wpt from 0": "1 0 0\n1 2 1 S 1.0\n1 1 1 P 0.5\n",
}


@pytest.mark.parametrize("name", list(FORMS))
def test_all_forms_say_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "gold"
    path.write_bytes(FORMS[name].encode())
    first_index = int(name[-1]) if "from" in name else None
    found = read_gold(path, "auto", first_index)
    expected = GOLD[: len(found)]
    assert [(pair.sure, pair.possible) for pair in found] == [(pair.sure, pair.possible) for pair in expected]
    assert len(found) == (1 if name.startswith("wpt") else 2) or name == "wpt"
    if name in ("text", "tabs"):
        assert (found[0].source, found[0].target) == (("a", "b", "c"), ("d", "e"))


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        ("", "auto", "empty; expected word links"),
        ("0-0\n0_1\n", "auto", ":2: '0_1' is no link"),
        ("a b ||| c ||| 0-0\na ||| b\n", "auto", ":2: 2 fields, expected source"),
        ("a b ||| c ||| 0-1\n", "auto", ":1: link 0-1, in sentences of 2 and 1 words"),
        ("1 1 1\n1 x 1\n", "auto", ":2: '1 x 1', expected: pair source target"),
        ("0 1 1\n", "wpt", "expected pairs from 1"),
        ("a b ||| c ||| \na ||| c |||\n", "auto", "no link in it; expected links"),
        ("1 0 1\n", "wpt", "no link in it; expected links"),
        ("0-0\n", "bitext", "--form bitext: expected auto, pharaoh, text, wpt"),
    ],
)
def test_faults_are_named_with_their_line(content: str, form: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "gold").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_gold(tmp_path / "gold", form)
    assert "\n" not in str(caught.value)


def test_a_file_that_counts_from_one_and_holds_a_zero_is_named(tmp_path: Path) -> None:
    (tmp_path / "gold").write_text("1-1\n0-1\n")
    with pytest.raises(InputError, match=r"gold:2: 0-1 counts from 0, expected from 1"):
        read_gold(tmp_path / "gold", "auto", 1)
    with pytest.raises(InputError, match="no such file"):
        read_gold(tmp_path / "none")


def test_a_file_that_counts_from_one_unsaid_is_refused(tmp_path: Path) -> None:
    """Not one with a single word 0, on either side, nor one of few pairs, nor where it is said."""
    path = tmp_path / "links"
    path.write_text("1-1 2-2\n" * 12 + "\n")
    message = "links: no link with word 0 in 12 pairs, so it seems to count from 1; say --{} 1, or 0 if not"
    with pytest.raises(InputError, match=message.format("first_index")):
        read_gold(path)
    with pytest.raises(InputError, match=message.format("links_first_index")):
        pharaoh_links(path)
    assert (0, 0) in read_gold(path, "auto", 1)[0].sure
    assert pharaoh_links(path, 1)[0] == {(0, 0), (1, 1)}
    assert pharaoh_links(path, 0)[0] == {(1, 1), (2, 2)}
    for content in ("1-1\n" * 12 + "0-1\n", "1-1\n" * 12 + "3-0\n", "1-1\n" * 9):
        path.write_text(content)
        assert len(pharaoh_links(path)) == len(read_gold(path)) == content.count("\n")


def test_the_score_is_that_of_the_definition() -> None:
    found = [{(0, 0), (1, 1), (5, 5)}, set()]
    result = score(found, GOLD)
    assert (result.found, result.sure, result.pairs) == (3, 2, 2)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(1 / 2)
    assert result.aer == pytest.approx(1 - (1 + 2) / (3 + 2))
    assert score([pair.sure for pair in GOLD], GOLD).aer == 0
    assert score([set(), set()], GOLD).aer == 1
    assert "AER 40.0 %, precision 66.7 %, recall 50.0 % (2 pairs, 3 links)" in result.shown


def test_what_nothing_is_counted_of_is_no_figure() -> None:
    """Not 0 %: recall without sure links, precision without links; and nothing found of what is possible is no success."""
    possible = [GoldPair(frozenset(), frozenset({(0, 0)}))]
    result = score([{(0, 0), (1, 0)}], possible)
    assert (result.precision, result.recall, result.aer) == (0.5, None, 0.5)
    assert "recall - (1 pairs, 2 links; the gold has no sure links, so no recall)" in result.shown
    result = score([set()], possible)
    assert (result.precision, result.recall, result.aer) == (None, None, 1)
    assert result.cells == ["100.0 %", "-", "-"]


def test_links_have_to_be_of_the_same_pairs(tmp_path: Path) -> None:
    (tmp_path / "found").write_text("0-0\n")
    with pytest.raises(InputError, match="found: 1 pairs, gold has 2; expected the same ones"):
        scored(pharaoh_links(tmp_path / "found"), GOLD, "found", "gold")
    with_text = [GoldPair(frozenset(), frozenset(), ("a",), ("b",))]
    with pytest.raises(InputError, match="found, pair 1: link 0-1, in sentences of 1 and 1 words"):
        scored([{(0, 1)}], with_text, "found", "gold")


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_words_are_what_white_space_separates(make: type, tmp_path: Path) -> None:
    lines = [line for code in ("en", "de", "sw") for line in sentences(code)]
    vocabulary = open_vocabulary(make(lines, tmp_path / "tokenizer"))
    begins = begins_word(vocabulary)
    for line in lines[:40]:
        ids = vocabulary.encode(line)
        numbers = word_numbers(ids, begins)
        assert int(numbers[-1]) + 1 == len(line.split())
        words = [vocabulary.decode(ids[numbers == number].tolist()).strip() for number in range(len(line.split()))]
        assert words == line.split()
    assert word_numbers(np.zeros(0, np.int32), begins).tolist() == []


def test_word_piece_does_not_know_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="WordPiece"):
        begins_word(open_vocabulary(word_piece(sentences("en"), tmp_path / "bert")))


def test_gold_sets_are_named_and_have_their_sentences(tmp_path: Path) -> None:
    (tmp_path / "en-de.txt").write_text("a b ||| c ||| 0-0 1-0\n", encoding="utf-8")
    (tmp_path / "links.txt").write_text("0-0\n", encoding="utf-8")
    (tmp_path / "wrong.txt").write_text("a ||| b ||| 0-1\n", encoding="utf-8")
    path = tmp_path / "en-de.txt"
    assert gold_paths(None) == {}
    paths = gold_paths(f"{path}, mine={path}")
    assert paths == {"en-de": path, "mine": path}
    assert read_gold_sets(paths)["mine"].words == [(("a", "b"), ("c",))]
    for text, message in (
        (f"{path},{path}", "a second set en-de; give it another name"),
        (",", "--gold ,: expected NAME=FILE"),
        ("x=nowhere", "--gold x=nowhere: no such file; expected NAME=FILE of `source"),
        (str(tmp_path / "links.txt"), r"links alone; expected the sentences too"),
        (str(tmp_path / "wrong.txt"), r"wrong.txt:1: link 0-1, in sentences of 1 and 1 words"),
    ):
        with pytest.raises(InputError, match=message):
            gold_paths(text)

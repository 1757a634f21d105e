"""Columns of CoNLL and WikiANN are read as published: any of their encodings, both IOB schemes; all else is one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream.conll import ENTITY_TYPES, read_columns, to_iob2

ENGLISH = (
    "-DOCSTART- -X- O O\n\n"
    "U.N. NNP I-NP I-ORG\nofficial NN I-NP O\nEkeus NNP I-NP I-PER\n\n"
    "Paris NNP I-NP I-LOC\nLondon NNP I-NP B-LOC\nBridge NNP I-NP I-LOC\n"
)
SPANISH = "Melbourne NP B-LOC\n( Fpa O\n\nEspa\xf1a NP B-LOC\n\x85 Fz O\n\xa0 Fz O\n"


def write(folder: Path, content: str | bytes, name: str = "file.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_conll_2003_is_read_with_documents_left_out_and_iob1_turned_into_iob2(tmp_path: Path) -> None:
    found = read_columns(write(tmp_path, ENGLISH))
    assert [s.words for s in found.sentences] == [("U.N.", "official", "Ekeus"), ("Paris", "London", "Bridge")]
    assert [s.tags for s in found.sentences] == [("B-ORG", "O", "B-PER"), ("B-LOC", "B-LOC", "I-LOC")]
    assert [s.where.rpartition(", ")[2] for s in found.sentences] == ["line 3", "line 7"]
    assert [c.value for c in found.choices] == ["IOB1, read as IOB2"]


def test_latin_1_is_recognised_and_its_odd_spaces_are_tokens(tmp_path: Path) -> None:
    """0x85 and 0xA0 are a line end and a space to str.splitlines and str.split."""
    found = read_columns(write(tmp_path, SPANISH.encode("latin-1")))
    assert [s.words for s in found.sentences] == [("Melbourne", "("), ("España", "\x85", "\xa0")]
    assert [s.tags for s in found.sentences] == [("B-LOC", "O"), ("B-LOC", "O", "O")]
    assert [(c.value, c.reason) for c in found.choices] == [("Latin-1", "line 4 is not UTF-8")]
    in_utf_8 = read_columns(write(tmp_path, SPANISH))
    assert ([s.words for s in in_utf_8.sentences], in_utf_8.choices) == ([s.words for s in found.sentences], ())


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ends_of_lines_and_of_the_file_make_no_difference(tmp_path: Path, end: str, newline: str) -> None:
    text = "Rio\tB-LOC\nde\tI-LOC\n\n\nJo\u2028ao\tB-PER" + end
    found = read_columns(write(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", newline).encode()))
    assert [s.words for s in found.sentences] == [("Rio", "de"), ("Jo\u2028ao",)]
    assert [s.tags for s in found.sentences] == [("B-LOC", "I-LOC"), ("B-PER",)]


def test_wikiann_prefixes_go_only_when_every_token_has_the_same(tmp_path: Path) -> None:
    prefixed = read_columns(write(tmp_path, "de:Haus\tO\nde::\tO\n\nde:a b\tB-ORG\n"))
    assert prefixed.prefix == "de"
    assert [s.words for s in prefixed.sentences] == [("Haus", ":"), ("a b",)]
    plain = read_columns(write(tmp_path, "at:Haus\tO\nde:x\tO\n"))
    assert (plain.prefix, plain.sentences[0].words) == (None, ("at:Haus", "de:x"))
    spaces = read_columns(write(tmp_path, "re:fund O\n"))
    assert (spaces.prefix, spaces.sentences[0].words) == (None, ("re:fund",)), "CoNLL has no prefixes"


def entities(tags: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """By IOB2's definition alone: B- and the I- of its type that follow it."""
    found: list[tuple[str, int, int]] = []
    for at, tag in enumerate(tags):
        if tag[0] == "B":
            found.append((tag[2:], at, at))
        elif tag[0] == "I" and found and found[-1][0] == tag[2:] and found[-1][2] == at - 1:
            found[-1] = (tag[2:], found[-1][1], at)
    return found


def test_entities_survive_iob1_and_iob2_alike() -> None:
    draw, seen = random.Random(0), 0
    for _ in range(300):
        truth: list[tuple[str, int, int]] = []
        at = 0
        while at < 12:
            if draw.random() < 0.6:
                last = min(11, at + draw.randrange(3))
                truth.append((draw.choice(ENTITY_TYPES), at, last))
                at = last
            at += 1
        iob1, iob2 = ["O"] * 12, ["O"] * 12
        for number, (kind, start, end) in enumerate(truth):
            beside = number > 0 and truth[number - 1][0] == kind and truth[number - 1][2] == start - 1
            iob1[start : end + 1] = [f"I-{kind}"] * (end + 1 - start)
            iob2[start : end + 1] = [f"I-{kind}"] * (end + 1 - start)
            iob2[start] = f"B-{kind}"
            iob1[start] = f"{'B' if beside else 'I'}-{kind}"
            seen += beside
        assert entities(to_iob2(iob1)) == entities(to_iob2(iob2)) == truth
        assert list(to_iob2(iob2)) == iob2
    assert seen > 20, "neighbours of one type were drawn"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb X\n", r"file.txt, line 2: tag `X`; expected O, or B- or I- with one of LOC, MISC, ORG, PER"),
        ("a O\n\nb B-X\n", r"line 3: tag `B-X`; expected"),
        ("a S-PER\n", r"line 1: tag `S-PER` is of the BIOES scheme; expected IOB1 or IOB2"),
        ("a N O\nb O\n", r"line 2: number of space-separated columns: 2; expected 3, as in line 1"),
        ("a\tO\nb O\n", r"line 2: number of tab-separated columns: 1; expected 2, as in line 1"),
        ("lonely\na O\n", r"line 2: number of space-separated columns: 2; expected 1, as in line 1: the token first"),
        ("\n \n-DOCSTART- O\n", r"file.txt: no tokens; expected a token and its tag"),
        ("", r"file.txt: no tokens"),
        ("a O\n".encode("utf-16"), r"line 1: a NUL byte"),
    ],
)
def test_what_is_not_a_token_and_a_tag_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_columns(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: no such file; expected token and tag columns"):
        read_columns(tmp_path / "gone")


def test_real_wikiann_files_keep_every_token(real_data: Path) -> None:
    for path in (real_data / "wikiann" / name for name in ("dev-es.tsv", "dev-zh.tsv")):
        raw = [block.split("\n") for block in path.read_text(encoding="utf-8").strip("\n").split("\n\n")]
        found = read_columns(path)
        words = [line.split("\t")[0] for block in raw for line in block if line]
        assert [word for s in found.sentences for word in s.words] == words
        assert all(
            tag[0] != "I" or before[2:] == tag[2:]
            for s in found.sentences
            for before, tag in zip(s.tags, s.tags[1:], strict=False)
        )
        mixed = [c for c in found.choices if c.value == "mixed, read as conlleval does"]
        assert bool(mixed) == (path.name == "dev-zh.tsv"), "the Chinese file has entities that start with I-"

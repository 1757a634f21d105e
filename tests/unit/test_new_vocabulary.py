"""Pieces taken out change no line of the corpora; pieces put in join old ones, and change no line of given old text."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from transformers.models.bert import BertTokenizer

from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.edit_json import EditableJson
from ernie_m.corpus.editable import Editable, runs_of, steps_to, usual_scripts
from ernie_m.corpus.joins import JoinLearner, NewPiece, is_word
from ernie_m.corpus.new_vocabulary import kept_pieces, learned, measured, open_editable, opened
from ernie_m.corpus.texts import FileLines, Text
from ernie_m.corpus.tokenizer_files import tokenizer_file
from tests.tokenizer_fixtures import sentences
from tests.vocabulary_fixtures import KINDS, NEW, OF_CHARACTERS, both_files, old_lines

OLD_TEXTS = [Text(code, lines) for code, lines in old_lines().items()]
NEW_TEXT = Text(NEW, sentences(NEW))
ALL_LINES = [line for text in OLD_TEXTS for line in text.lines]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(ALL_LINES, tmp_path_factory.mktemp("kind") / "hf", 900) for kind, make in KINDS.items()}


def editable_of(folder: Path) -> Editable:
    return open_editable(tokenizer_file(folder))


def cut(vocabulary: AnyVocabulary, line: str) -> list[str]:
    return vocabulary.pieces(vocabulary.encode(line))


@pytest.mark.parametrize("kind", KINDS)
def test_trimming_changes_no_line_of_the_corpora(kind: str, folders: dict[str, Path]) -> None:
    editable, corpora = editable_of(folders[kind]), OLD_TEXTS[:2]
    kept = kept_pieces(editable, corpora, (), ())
    content, rows = editable.rewritten(kept, ())
    old, new = open_vocabulary(editable.path), opened(editable, content)
    assert len(rows) == new.size < old.size
    assert rows.is_same.all()
    assert old.pieces(rows.same()) == new.pieces(range(new.size)), "ids keep their order and their pieces"
    for found in measured(old, new, rows, corpora):
        assert found.changed == 0
        assert found.tokens[0] == found.tokens[1] > 1000
        assert found.unknown[0] == found.unknown[1]
    if kind == "unigram":  # the price of an unknown character hangs on it
        lowest = [
            min(score for _, score in json.loads(it)["model"]["vocab"]) for it in (editable.path.read_bytes(), content)
        ]
        assert lowest[0] == lowest[1]
    specials = (old.specials, new.specials)
    for role in ("begin", "end", "begin_second", "pad", "unknown", "mask"):
        theirs, ours = (getattr(them, role) for them in specials)
        assert (theirs is None and ours is None) or rows.same()[ours] == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_trimming_keeps_characters_of_the_scripts_in_use_and_no_others(kind: str, folders: dict[str, Path]) -> None:
    editable = editable_of(folders[kind])
    kept = {editable.names[i] for i in kept_pieces(editable, [Text("x", ["one two three"] * 3)], (), ())}
    characters = {name: editable.text(name) for name in editable.names.values()}
    letters = {name for name, text in characters.items() if text is not None and len(text.removeprefix("▁")) == 1}
    latin, cyrillic = (
        {name for name in letters if first <= str(characters[name])[-1] <= last} for first, last in ("az", "ая")
    )
    assert latin
    assert latin <= kept
    assert not cyrillic & kept
    if kind not in ("byte-level BPE", "llama"):
        assert len(cyrillic) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_new_pieces_save_tokens_and_change_no_line_of_the_old_text(kind: str, folders: dict[str, Path]) -> None:
    editable = editable_of(folders[kind])
    new = learned(editable, [NEW_TEXT], 60, OLD_TEXTS)
    content, rows = editable.rewritten({*editable.names}, new)
    old, vocabulary = open_vocabulary(editable.path), opened(editable, content)
    names = {piece.name for piece in new}
    assert 40 < len(names) <= 60
    assert vocabulary.size == old.size + len(names)
    assert np.count_nonzero(~rows.is_same) == len(names)
    of_new, *of_old = measured(old, vocabulary, rows, [NEW_TEXT, *OLD_TEXTS])
    assert of_new.tokens[1] < 0.85 * of_new.tokens[0]
    assert of_new.changed > 100
    assert [found.changed for found in of_old] == [0] * len(OLD_TEXTS)
    for i in np.flatnonzero(~rows.is_same):
        parts = old.pieces(rows.ids[rows.offsets[i] : rows.offsets[i + 1]])
        whole = parts[0] + "".join(part.removeprefix("##") if kind == "WordPiece" else part for part in parts[1:])
        assert len(parts) > 1
        assert vocabulary.pieces([i]) == [whole]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_put_in_and_taken_out_together(kind: str, folders: dict[str, Path]) -> None:
    editable, corpora = editable_of(folders[kind]), [NEW_TEXT, OLD_TEXTS[0]]
    new = learned(editable, [NEW_TEXT], 40, ())
    with_all, trimmed = ({*editable.names}, kept_pieces(editable, corpora, new, ()))
    (large, rows), (small, fewer) = (editable.rewritten(kept, new) for kept in (with_all, trimmed))
    assert len(fewer) < len(rows)
    one, other = opened(editable, large), opened(editable, small)
    assert all(cut(one, line) == cut(other, line) for text in corpora for line in text.lines)


@pytest.mark.parametrize("kind", sorted(OF_CHARACTERS | {"byte-level BPE", "llama", "gemma", "SentencePiece BPE"}))
def test_new_pieces_join_old_ones_and_move_no_border(kind: str, folders: dict[str, Path]) -> None:
    """In any text, old languages' too: without text that is to stay as it is."""
    editable = editable_of(folders[kind])
    new = learned(editable, [NEW_TEXT], 60, ())
    content, rows = editable.rewritten({*editable.names}, new)
    old, vocabulary = open_vocabulary(editable.path), opened(editable, content)
    sources = np.split(rows.ids, rows.offsets[1:-1])
    lines = [*NEW_TEXT.lines, *ALL_LINES]
    moved = [
        line for line in lines if [*np.concatenate([sources[i] for i in vocabulary.encode(line)])] != [*old.encode(line)]
    ]
    assert len(moved) <= len(lines) // 50, "old pieces of about the same sum"
    assert measured(old, vocabulary, rows, [NEW_TEXT])[0].changed > 100


def test_slow_and_fast_tokenizers_agree(folders: dict[str, Path], tmp_path: Path) -> None:
    slow, fast = (open_editable(folders["XLM-R"] / name) for name in ("sentencepiece.bpe.model", "tokenizer.json"))
    assert slow.names == fast.names
    new = learned(slow, [NEW_TEXT], 60, ())
    assert new == learned(fast, [NEW_TEXT], 60, ())
    kept = kept_pieces(slow, [NEW_TEXT, OLD_TEXTS[1]], new, ())
    assert kept == kept_pieces(fast, [NEW_TEXT, OLD_TEXTS[1]], new, ())
    first, second = (opened(editable, editable.rewritten(kept, new)[0]) for editable in (slow, fast))
    for line in [*NEW_TEXT.lines, *ALL_LINES]:
        assert cut(first, line) == cut(second, line)


def test_unigram_scores_make_a_piece_win_where_its_parts_stood_and_lose_across_their_borders(tmp_path: Path) -> None:
    """ab + c beats a + bc by little; so a piece "bc…" may not win over the border of ab."""
    folder = both_files(ALL_LINES, tmp_path / "hf", 300)
    editable = open_editable(folder / "sentencepiece.bpe.model")
    names = {name: i for i, name in editable.names.items()}
    old = open_vocabulary(editable.path)
    found = []
    for line in ALL_LINES:
        for left, right in zip(cut(old, line), cut(old, line)[1:], strict=False):
            across = left[-1:] + right[:1]
            if min(len(left), len(right)) > 1 and is_word(left + right) and not {left + right, across} & names.keys():
                whole = NewPiece(left + right, left, right, (names[left], names[right]))
                parts = tuple(editable.segmented(across))
                found.append((line, whole, NewPiece(across, left[-1:], right[:1], parts)))
    assert len(found) > 100
    for line, whole, across in found[::20]:
        content, rows = editable.rewritten({*names.values()}, [across])
        sources = np.split(rows.ids, rows.offsets[1:-1])
        expected = [*old.encode(line)]
        assert [*np.concatenate([sources[i] for i in opened(editable, content).encode(line)])] == expected
        content, _ = editable.rewritten({*names.values()}, [whole])
        assert whole.name in cut(opened(editable, content), line)


def test_the_fast_learner_makes_the_joins_that_counting_anew_makes() -> None:
    words = Counter({tuple(word): times for times, word in enumerate(["▁abab", "▁abc", "bcbc", "▁aaab", "cab"], start=2)})
    numbers = {name: i for i, name in enumerate("▁abc")}
    runs = {tuple(numbers[one] for one in word): times for word, times in words.items()}
    names = dict(enumerate("▁abc"))
    found = JoinLearner(runs, names, lambda left, right: left + right).learn(6, (), with_steps=True)
    symbols: dict[tuple[int, ...], list[str]] = {run: [names[i] for i in run] for run in runs}
    number, expected = {name: i for i, name in names.items()}, []
    while len({name for name, _, _ in expected}) < 6:
        pairs: Counter[tuple[str, str]] = Counter()
        for run, parts in symbols.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += runs[run]
        left, right = min(pairs, key=lambda pair: (-pairs[pair], number[pair[0]], number[pair[1]]))
        number.setdefault(left + right, len(number))
        expected.append((left + right, left, right))
        for run, parts in symbols.items():
            at, joined = 0, []
            while at < len(parts):
                is_pair = parts[at : at + 2] == [left, right]
                joined.append(left + right if is_pair else parts[at])
                at += 1 + is_pair
            symbols[run] = joined
    assert [(piece.name, piece.left, piece.right) for piece in found] == expected
    assert all("".join(names[i] for i in piece.parts) == piece.name for piece in found)


def test_a_join_that_was_joined_on_leaves_its_place_to_another() -> None:
    names = dict(enumerate("abcxy"))
    runs = {(0, 1, 2): 9, (3, 4): 2}

    def learn(most: int, left_out: tuple[str, ...] = (), with_steps: bool = False) -> list[str]:
        learner = JoinLearner(runs, names, str.__add__)
        return [piece.name for piece in learner.learn(most, left_out, with_steps)]

    assert learn(2) == ["abc", "xy"]
    assert learn(2, with_steps=True) == ["ab", "abc"]
    assert learn(2, ("abc",)) == ["xy"], "made on the way, and not given out"
    assert learn(2, ("ab",), with_steps=True) == ["bc", "abc"], "made by another way"


def test_merges_of_a_piece_are_those_that_made_it() -> None:
    order = {("a", "b"): 2.0, ("b", "c"): 1.0, ("a", "bc"): 3.0, ("ab", "c"): 0.0}
    assert steps_to("abc", lambda left, right: order.get((left, right))) == [("b", "c"), ("a", "bc")]
    assert steps_to("aba", lambda left, right: order.get((left, right))) == [("a", "b")]


def test_joins_are_made_of_letters_alone(folders: dict[str, Path]) -> None:
    assert all(map(is_word, ("▁c'h", "ñ", "क्ष")))
    assert not any(map(is_word, ("▁", "a1", "a.", "2", "'", "a▁b")))
    for kind in ("XLM-R", "WordPiece", "gemma"):
        editable = editable_of(folders[kind])
        for line in ALL_LINES[::40]:
            for word in editable.words(line):
                for run in runs_of(editable, word):
                    assert all(is_word(str(editable.text(editable.names[i]))) or editable.names[i] == "▁" for i in run)
    assert usual_scripts(Counter("Ещё одно слово" * 100 + "x")) == {"CYRILLIC"}


def test_the_lists_of_slow_tokenizers_follow(folders: dict[str, Path], tmp_path: Path) -> None:
    from ernie_m.interop.vocabulary_files import read_tokenizer, write_changed

    tokenizer = read_tokenizer(folders["WordPiece"])
    with_list = tmp_path / "source"
    with_list.mkdir()
    for path in folders["WordPiece"].iterdir():
        (with_list / path.name).write_bytes(path.read_bytes())
    names = sorted(tokenizer.first.names.items())
    (with_list / "vocab.txt").write_text("".join(f"{name}\n" for _, name in names), encoding="utf-8")
    tokenizer = read_tokenizer(with_list)
    new = learned(tokenizer.first, [NEW_TEXT], 40, ())
    kept = kept_pieces(tokenizer.first, [NEW_TEXT, OLD_TEXTS[0]], new, ())
    write_changed(tokenizer, kept, new, tmp_path)
    fast = open_vocabulary(tmp_path)
    listed = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=False)
    automatic = AutoTokenizer.from_pretrained(tmp_path)
    for line in [*NEW_TEXT.lines, *ALL_LINES[::5]]:
        expected = fast.encode(line).tolist()
        assert listed.encode(line, add_special_tokens=False) == automatic.encode(line, add_special_tokens=False) == expected


def test_text_is_read_from_packed_files_too_and_a_broken_one_is_told(tmp_path: Path) -> None:
    import gzip
    import lzma

    for name, opener in (("a.txt", open), ("a.txt.gz", gzip.open), ("a.txt.xz", lzma.open)):
        with opener(tmp_path / name, "wb") as file:
            file.write("één\n\n  \nzwei\u2028drei\n".encode())
        assert [*FileLines(tmp_path / name)] == ["één", "zwei\u2028drei"]
    (tmp_path / "b.gz").write_bytes((tmp_path / "a.txt.gz").read_bytes()[:-4])
    packed = bytearray(gzip.compress("".join(f"line {n * n}\n" for n in range(99)).encode()))
    packed[60:120] = bytes(byte ^ 0x5A for byte in packed[60:120])
    (tmp_path / "d.gz").write_bytes(packed)
    (tmp_path / "c.txt").write_bytes(b"fine\n\xff\n")
    cut = "truncated, damaged or no .gz file"
    broken = (("b.gz", cut), ("d.gz", cut), ("c.txt", "line 2: not UTF-8"))
    for name, expected in (*broken, ("d", "no such file")):
        with pytest.raises(InputError, match=expected):
            list(FileLines(tmp_path / name))


def test_texts_that_nothing_can_be_learned_from_are_told(folders: dict[str, Path]) -> None:
    editable = editable_of(folders["SentencePiece unigram"])
    for lines, expected in (([], "no line with a word in it"), (["12 34"], "no two of its pieces stand together twice")):
        with pytest.raises(InputError, match=expected):
            learned(editable, [Text("new", lines)], 10, ())
    with pytest.raises(InputError, match=r"each of \d+ would change old text; give less of that$"):
        learned(editable, [NEW_TEXT], 5, [NEW_TEXT])
    with pytest.raises(InputError, match="no line in it; expected the corpora"):
        kept_pieces(editable, [Text("new", [])], (), ())


def test_kinds_that_cannot_be_changed_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    from tests.tokenizer_fixtures import changed

    suffix = changed(folders["gemma"], tmp_path / "a", lambda it: it["model"].update(end_of_word_suffix="</w>"), {})
    with pytest.raises(InputError, match="a BPE with end_of_word_suffix '</w>'; pieces of such a one cannot"):
        EditableJson(suffix / "tokenizer.json")

"""Evaluation sentences and what is held out of pairs stand in no corpus: normal form, runs, files, whole builds."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prep_samples import bare_ids, contents, rows_of, sentences

from data_prep import conversions
from data_prep.build import Options, build
from data_prep.catalog import read_catalog
from data_prep.clean import is_held_out
from data_prep.exclusion.entries import RUN, STEP, WIDE_RUN, Entries, of_evaluation_files
from data_prep.exclusion.evaluation_files import sentences as sentences_of
from data_prep.exclusion.letters import Letters
from data_prep.exclusion.lookup import KeptOut
from data_prep.options import patterns
from data_prep.verify import verify
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusFolder, Manifest

LONG = "The evaluation set has this long sentence, which nobody should have seen before the examination was over."
HAN = "这是一个评测集中的句子，训练数据里不应该出现它，否则结果就不可信了。"


def test_texts_that_differ_in_case_spaces_and_punctuation_are_one_and_others_are_not() -> None:
    same = ["Wer ist das?", "WER IST DAS", "wer  ist\u00a0das", "ｗer ist daſ"]  # full width, long s
    same += ["Wer \u263a\ufe0f ist das", "\ufeffWer\u200b i\u00adst\u034f das", "Wer\u3164ist das"]  # what is not seen
    others = ["Wer ist da?", "das ist wer", "Wer is tdas t", "", "?!"]
    hashes = Letters([*same, *others]).of_texts()
    assert len(set(hashes[: len(same)].tolist())) == 1
    assert len(set(hashes.tolist())) == 1 + 3 + 1
    assert hashes[-2:].tolist() == [0, 0]
    alone = [int(Letters([text]).of_texts()[0]) for text in [*same, *others]]
    assert hashes.tolist() == alone, "the hash of a text does not depend on what stands before it"


def test_digits_of_all_scripts_and_words_that_are_stretched_are_what_they_say() -> None:
    texts = [
        "am 12",
        "am \u0661\u0662",
        "am \u0967\u0968",
        "am \uff11\uff12",
        "am 13",
        "\u0628\u064a\u062a",
        "\u0628\u0640\u064a\u062a",
    ]
    hashes = Letters(texts).of_texts().tolist()
    assert len(set(hashes[:4])) == 1
    assert hashes[5] == hashes[6]
    assert len(set(hashes)) == 3


def test_a_run_has_one_hash_wherever_it_stands() -> None:
    draw = random.Random(3)
    texts = ["".join(draw.choices("abc", k=draw.randint(0, 60))) for _ in range(50)]
    letters = Letters(texts)
    starts = letters.starts(7)
    runs = ["".join(map(chr, letters.codes_C[start : start + 7].tolist())) for start in starts.tolist()]
    expected = [text[at : at + 7] for text in texts for at in range(len(text) - 6)]
    assert runs == expected
    assert len(runs) > 500
    by_hash = dict(zip(letters.of_runs(starts, 7).tolist(), runs, strict=True))
    assert len(by_hash) == len(set(runs))
    assert [by_hash[value] for value in letters.of_runs(starts, 7).tolist()] == runs


_COLUMNS = "\tX" * 7


def squad(question: str) -> bytes:
    answers = [{"text": "an answer", "answer_start": 3}]
    paragraph = {"context": LONG, "qas": [{"question": question, "id": "a-b-c", "answers": answers}]}
    return json.dumps({"version": "1", "data": [{"title": "no sentence", "paragraphs": [paragraph]}]}).encode()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("flores.devtest", f"{LONG}\nShort one.\n", [LONG, "Short one."]),
        (
            "xnli.tsv",
            f"{LONG}\tIt was seen.\tcontradiction\n{HAN}\t他没有看。\tneutral\n",
            [LONG, "It was seen.", HAN, "他没有看。"],
        ),
        ("pawsx.tsv", f"id\tsentence1\tsentence2\tlabel\n7\t{LONG}\tA word here\t1\n", [LONG, "A word here"]),
        ("conll.txt", "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nleft VBD B-VP O\n\nHe PRP B-NP O\n", ["EU left", "He"]),
        ("wikiann.tsv", "en:New\tB-LOC\nen:York\tI-LOC\n\nen:It\tO\n", ["New York", "It"]),
        (
            "ud.conllu",
            f"# sent_id = 1\n# text = {LONG}\n1-2\tThe\t_{_COLUMNS}\n1\tThe\tthe{_COLUMNS}\n2\tset\tset{_COLUMNS}\n\n"
            f"1\tNo\tno{_COLUMNS}\n2\tcomment\tcomment{_COLUMNS}\n\n",
            [f" {LONG}", "The set", "No comment"],
        ),
        ("mlqa.json", squad("Who saw it?").decode(), [LONG, "Who saw it?"]),
        ("set.jsonl", '{"id": 1, "sentence1": "One here", "label": "yes"}\n{"text": "Two", "n": 2}\n', ["One here", "Two"]),
    ],
)
def test_sentences_of_evaluation_files_in_the_formats_they_come_in(
    tmp_path: Path, name: str, content: str, expected: list[str]
) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert list(sentences_of(path)) == expected


def test_a_file_without_sentences_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("?\t!\n")
    with pytest.raises(InputError, match=r"exclude: .*x.tsv: no sentence; expected an evaluation set"):
        list(sentences_of(path))
    for content, said in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS"),
        ("<!doctype html><title>404</title>", r"a web page \(404\)"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=rf"x.tsv: .*{said}"):
            list(sentences_of(path))
    path.write_text('{"text": ')
    with pytest.raises(InputError, match=r"x.tsv: neither JSON nor an object a line"):
        list(sentences_of(path))


def kept_out(tmp_path: Path, *texts: str) -> KeptOut:
    path = tmp_path / "set"
    path.write_text("\n".join(texts))
    of_evaluation_files([path], ["the set"]).write(tmp_path / "e.arrow")
    return KeptOut(Entries.read(tmp_path / "e.arrow"), "a sentence of {source}", "shares {letters} letters with {source}")


def test_a_line_with_an_evaluation_sentence_or_a_long_part_of_one_is_found_and_no_other(tmp_path: Path) -> None:
    found = kept_out(tmp_path, LONG, HAN, "Short one.")
    letters = [letter for letter in LONG.lower() if letter.isalpha()]
    part, wide = "".join(letters[5 : 5 + RUN + STEP - 1]), HAN[2 : 2 + WIDE_RUN + STEP + 1]
    lines = [
        LONG.upper(),
        "short one",
        f"He said: {LONG} Really.",
        f"x{part}x",
        f"又说{wide}了",
        "Not that short one.",
        f"x{part[: RUN - 1]}x",
        HAN[2 : WIDE_RUN - 3],
    ]
    reasons = found.reasons([Letters(lines)])
    whole, run, wide_run = (
        "a sentence of the set",
        f"shares {RUN} letters with the set",
        f"shares {WIDE_RUN} letters with the set",
    )
    assert reasons == {0: whole, 1: whole, 2: run, 3: run, 4: wide_run}
    assert found.reasons([Letters(["good"] * 2), Letters(["gut", LONG])]) == {1: whole}


def test_lookups_agree_with_sets_of_texts(tmp_path: Path) -> None:
    texts = list(dict.fromkeys(sentences(3000, seed=5)))
    found = kept_out(tmp_path, *texts[::3]).reasons([Letters(texts)])
    assert {index for index, reason in found.items() if "a sentence" in reason} == set(range(0, len(texts), 3))


# ---- whole builds

SMALL = Options(chunk_bytes=3000, allow_unknown=True)


@pytest.fixture
def overlapping(tmp_path: Path) -> Path:
    """German-English pairs whose texts stand in monolingual text and in other pairs too; and an evaluation set."""
    folder = tmp_path / "raw"
    folder.mkdir()
    german, english = sentences(300, 11), sentences(300, 12)
    french = sentences(300, 13)
    (folder / "de-en.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(german, english, strict=True)))
    (folder / "en-fr.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(english, french, strict=True)))
    (folder / "de.txt").write_text("".join(f"{text.upper()}\n" for text in german) + "\n".join(sentences(100, 14)) + "\n")
    (folder / "en.txt").write_text("\n".join(english) + "\n")
    (folder / "test.en").write_text("\n".join(english[50:60]) + "\n")
    path = folder / "c.yaml"
    path.write_text(
        "exclude: [test.*]\ncorpora:\n"
        "  - {name: de, format: cc100, path: de.txt, language: de}\n"
        "  - {name: en, format: cc100, path: en.txt, language: en, deduplicate: true}\n"
        "  - {name: de-en, format: tsv, path: de-en.tsv, languages: [de, en], held_out: 0.2}\n"
        "  - {name: en-fr, format: tsv, path: en-fr.tsv, languages: [en, fr], held_out: 0}\n"
    )
    return path


def texts_of(out: Path, corpus: str, split: str, column: str = "tokens") -> set[str]:
    """The letters of each text of a built corpus."""
    vocabulary = open_vocabulary(out / Manifest.read(out).tokenizer_file)
    return {"".join(filter(str.isalnum, vocabulary.decode(row[column]).lower())) for row in rows_of(out, corpus, split)}


def letters_of(texts: list[str]) -> set[str]:
    return {"".join(filter(str.isalnum, text.lower())) for text in texts}


def test_what_is_held_out_or_in_an_evaluation_set_stands_in_no_corpus(
    overlapping: Path, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(overlapping, tokenizer, out, SMALL)
    pairs = [line.split("\t") for line in (overlapping.parent / "de-en.tsv").read_text().splitlines()]
    chosen = is_held_out([german for german, _ in pairs], 0.2)
    held = letters_of([text for pair, is_held in zip(pairs, chosen, strict=True) if is_held for text in pair])
    tested = letters_of((overlapping.parent / "test.en").read_text().splitlines())
    assert len(held) > 60
    trained = [texts_of(out, "de", TRAIN), texts_of(out, "en", TRAIN), texts_of(out, "en-fr", TRAIN, "source")]
    trained += [texts_of(out, "de-en", TRAIN, column) for column in ("source", "target")]
    for texts in trained:
        assert texts
        assert not texts & (held | tested)
    assert len(texts_of(out, "de-en", HELD_OUT, "source") & held) > 30
    corpora = json.loads((out / "report.json").read_text())["corpora"]
    reasons = {
        corpus["name"]: {reason: found["lines"] for reason, found in corpus["rejected"].items()} for corpus in corpora
    }
    assert reasons["en"]["a sentence of raw/test.en"] == reasons["en-fr"]["a sentence of raw/test.en"] == 10
    assert reasons["de"]["held out of de-en"] == chosen.sum()
    assert "held out of de-en" not in reasons["de-en"]


def test_sets_of_the_command_are_kept_out_beside_those_of_the_catalog(
    overlapping: Path, tokenizer: Path, tmp_path: Path
) -> None:
    lines = (overlapping.parent / "en.txt").read_text().splitlines()
    (tmp_path / "more.en").write_text("\n".join(lines[80:85]) + "\n")
    options = replace(SMALL, exclude=patterns("exclude", f"{tmp_path}/more.*"))
    build(overlapping, tokenizer, tmp_path / "out", options)
    trained = texts_of(tmp_path / "out", "en", TRAIN)
    assert trained
    assert not trained & letters_of(lines[50:60] + lines[80:85])
    with pytest.raises(InputError, match=r"of another plan: exclude"):
        build(overlapping, tokenizer, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"exclude: no file matches .*absent; put the evaluation set there, or take it out"):
        build(overlapping, tokenizer, tmp_path / "new", replace(SMALL, exclude=(tmp_path / "absent",)))
    with pytest.raises(InputError, match=r"--exclude a,: expected files or globs with commas between them"):
        patterns("exclude", "a,")
    assert patterns("exclude", "a, ~/b/*") == (Path("a"), Path.home() / "b/*")


def test_held_out_text_may_stand_in_other_corpora_where_the_catalog_allows_it(
    overlapping: Path, tokenizer: Path, tmp_path: Path
) -> None:
    overlapping.write_text("allow_held_out: true\n" + overlapping.read_text())
    manifest = build(overlapping, tokenizer, tmp_path / "out", SMALL)
    assert manifest is not None
    assert not any("held out" in reason for corpus in manifest.corpora for reason in corpus.rejected)


def test_the_bytes_are_the_same_on_two_ranks_after_stops_in_either_pass_and_for_a_lost_shard(
    overlapping: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(overlapping, tokenizer, tmp_path / "one", SMALL)
    build(overlapping, tokenizer, tmp_path / "two", SMALL, Ranks(2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    again = tmp_path / "again"

    def stopping(work: str, times: int) -> None:
        original = getattr(conversions, work)
        calls: Iterator[int] = iter(range(times))

        def some(task: object) -> object:
            next(calls)
            return original(task)

        with monkeypatch.context() as patch:
            patch.setattr(conversions, work, some)
            with pytest.raises(StopIteration):
                build(overlapping, tokenizer, again, SMALL)

    stopping("note_held_out", 2)
    assert not (again / ".held_out.hashes").exists()
    stopping("convert", 3)
    assert (again / ".held_out.hashes").exists()
    assert not (again / "manifest.json").exists()
    build(overlapping, tokenizer, again, SMALL)
    assert contents(again) == contents(tmp_path / "one")
    lost = next((again / "shards" / "de").glob("*.arrow"))
    lost.unlink()
    build(overlapping, tokenizer, again, SMALL)
    assert contents(again) == contents(tmp_path / "one")


def test_other_or_missing_evaluation_sets_are_refused_in_one_line(
    overlapping: Path, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(overlapping, tokenizer, out, SMALL)
    (overlapping.parent / "test.en").write_text(LONG)
    with pytest.raises(InputError, match=r"of another plan: exclude\[0\]"):
        build(overlapping, tokenizer, out, SMALL)
    (overlapping.parent / "test.en").unlink()
    with pytest.raises(InputError, match=r"exclude: no file matches .*test.*; put the evaluation set there, or take it out"):
        build(overlapping, tokenizer, tmp_path / "new", SMALL)
    assert not (tmp_path / "new").exists()
    overlapping.write_text(overlapping.read_text().replace("[test.*]", "test.en"))
    with pytest.raises(InputError, match=r"exclude is 'test.en', expected a list of files or globs"):
        read_catalog(overlapping)


def test_a_corpus_that_cannot_be_read_holds_nothing_out_of_the_others(
    overlapping: Path, tokenizer: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(overlapping.read_text())
    bad = overlapping.parent / "bad.tsv.gz"
    lines = "".join(f"{text}\t{text} x\n" for text in sentences(300, 12)).encode()
    bad.write_bytes(gzip.compress(lines)[:-20])
    content["corpora"].append({"name": "bad", "format": "tsv", "path": bad.name, "languages": ["en", "fr"], "held_out": 1})
    worse = overlapping.with_name("worse.yaml")
    worse.write_text(yaml.safe_dump(content))
    build(overlapping, tokenizer, tmp_path / "good", SMALL)
    build(worse, tokenizer, tmp_path / "out", Options(chunk_bytes=3000, allow_unknown=True, on_error="quarantine"))
    for corpus in ("de", "en", "de-en", "en-fr"):
        assert rows_of(tmp_path / "out", corpus, TRAIN) == rows_of(tmp_path / "good", corpus, TRAIN)


def test_text_is_held_out_by_lines_as_pairs_are_and_documents_start_right_in_both_splits(
    tokenizer: Path, tmp_path: Path
) -> None:
    texts = sentences(200, 21)
    documents = ["\n".join(texts[first : first + 4]) for first in range(0, 200, 4)]
    (tmp_path / "a.txt").write_text("\n\n".join(documents) + "\n")
    (tmp_path / "b.txt").write_text("\n".join([*texts, *sentences(50, 22)]) + "\n")
    (tmp_path / "c.yaml").write_text(
        "corpora:\n"
        "  - {name: a, format: cc100, path: a.txt, language: en, held_out: 0.3}\n"
        "  - {name: b, format: cc100, path: b.txt, language: en}\n"
    )
    for chunk_bytes in (500, 1 << 20):
        out = tmp_path / str(chunk_bytes)
        build(tmp_path / "c.yaml", tokenizer, out, Options(chunk_bytes=chunk_bytes, allow_unknown=True))
        held = is_held_out(texts, 0.3).tolist()
        for split, is_wanted in ((TRAIN, False), (HELD_OUT, True)):
            chosen = [index for index, is_held in enumerate(held) if is_held == is_wanted]
            starts = [not place or index // 4 != chosen[place - 1] // 4 for place, index in enumerate(chosen)]
            expected = [
                {"tokens": bare_ids(tokenizer, texts[index]), "starts_document": is_start}
                for index, is_start in zip(chosen, starts, strict=True)
            ]
            assert rows_of(out, "a", split) == expected
        assert not texts_of(out, "b", TRAIN) & letters_of(
            [text for text, is_held in zip(texts, held, strict=True) if is_held]
        )
        assert [stream.name for stream in CorpusFolder(out).monolingual(HELD_OUT)] == ["en"]
        assert verify(out) == []

"""A build is what its input says, and the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from prep_samples import SMALL, bare_ids, contents, rows_of, sentences

from data_prep.build import build
from data_prep.shard_writer import Rows, selected
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder, Manifest
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary


def test_ids_are_those_of_bare_sentencepiece_plus_the_offset(built: Path, tokenizer: Path) -> None:
    lines = [line for seed in range(10) for line in sentences(3, seed)]
    rows = rows_of(built, "mono.en", "train")
    assert [row["tokens"] for row in rows] == [bare_ids(tokenizer, line) for line in lines]
    assert [row["starts_document"] for row in rows] == [True, False, False] * 10


def test_pairs_stay_aligned_and_every_copy_of_a_source_is_in_one_split(built: Path, tokenizer: Path) -> None:
    sources, targets = sentences(200, seed=2) * 2, sentences(400, seed=3)
    expected = {
        (tuple(bare_ids(tokenizer, s)), tuple(bare_ids(tokenizer, t))) for s, t in zip(sources, targets, strict=True)
    }
    expected.add((tuple(bare_ids(tokenizer, "good")), tuple(bare_ids(tokenizer, "gut"))))
    splits = {split: rows_of(built, "t.de-en", split) for split in ("train", "held_out")}
    found = {split: {(tuple(row["source"]), tuple(row["target"])) for row in rows} for split, rows in splits.items()}
    assert found["train"] | found["held_out"] == expected
    assert len(splits["train"]) + len(splits["held_out"]) == 401
    assert 40 < len(splits["held_out"]) < 130
    other = {split: {tuple(row["source"]) for row in rows_of(built, "p.de-fr", split)} for split in splits}
    source = {split: {pair[0] for pair in pairs} for split, pairs in found.items()}
    assert len(other["train"] | other["held_out"]) >= 45  # these texts are the first of the other corpus
    assert not (source["train"] | other["train"]) & (source["held_out"] | other["held_out"])


def test_a_pair_named_in_either_order_is_the_same_stream_with_the_same_split(tokenizer: Path, tmp_path: Path) -> None:
    lines = sentences(120, seed=4)
    (tmp_path / "ab.tsv").write_text("".join(f"{line}\t{line} ja\n" for line in lines))
    (tmp_path / "ba.tsv").write_text("".join(f"{line} ja\t{line}\n" for line in lines))
    (tmp_path / "both.yaml").write_text(
        "corpora:\n"
        "  - {name: ab, format: tsv, path: ab.tsv, languages: [de, en], held_out: 0.2}\n"
        "  - {name: ba, format: tsv, path: ba.tsv, languages: [en, de], held_out: 0.2}\n"
    )
    build(tmp_path / "both.yaml", tokenizer, tmp_path / "data")
    assert [stream.name for stream in CorpusFolder(tmp_path / "data").parallel()] == ["de-en"]
    for split in ("train", "held_out"):
        assert rows_of(tmp_path / "data", "ab", split) == rows_of(tmp_path / "data", "ba", split) != []


def test_the_manifest_counts_what_was_kept_and_rejected(built: Path) -> None:
    corpora = {corpus.name: corpus for corpus in Manifest.read(built).corpora}
    pairs = corpora["t.de-en"]
    assert (pairs.lines_read, pairs.rejected) == (403, {"empty": 1, "not UTF-8": 1})
    assert (corpora["mono.en"].lines_read, corpora["mono.en"].rejected) == (30, {})
    train = [shard for shard in pairs.shards if shard.split == "train"]
    assert len(train) > 3
    assert train[0].file == "shards/t.de-en/train-00000.arrow"
    assert train[1].file == "shards/t.de-en/train-00001.arrow"
    versions = json.loads((built / "manifest.json").read_text())["versions"]
    assert set(versions) == {"ernie_m", "python", "pyarrow", "sentencepiece", "tokenizers", "numpy"}


def test_the_folder_opens_for_training(built: Path, tokenizer: Path) -> None:
    folder = CorpusFolder(built)
    assert [stream.name for stream in folder.monolingual()] == ["en"]
    assert [stream.name for stream in folder.parallel()] == ["de-en", "de-fr"]
    assert folder.manifest.vocab_size == Vocabulary(tokenizer).size
    shard = folder.monolingual()[0].shards[0]
    assert shard.values[0].dtype == np.int32
    assert shard.starts_document.sum() == shard.entry.documents == 10
    assert folder.parallel()[0].shards[0].entry.documents == 0


def test_building_twice_gives_identical_bytes(built: Path, catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    build(catalog, tokenizer, tmp_path / "again", SMALL)
    assert contents(built) == contents(tmp_path / "again")
    assert len(contents(built)) > 12


def test_the_size_of_a_chunk_changes_the_files_and_not_the_rows(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path
) -> None:
    build(catalog, tokenizer, tmp_path / "again")
    for name, split in (("mono.en", "train"), ("t.de-en", "train"), ("t.de-en", "held_out"), ("p.de-fr", "train")):
        rows = rows_of(built, name, split)
        assert [{**row, "starts_document": None} for row in rows_of(tmp_path / "again", name, split)] == [
            {**row, "starts_document": None} for row in rows
        ]
    assert len(list((tmp_path / "again/shards/t.de-en").iterdir())) == 2 < len(list((built / "shards/t.de-en").iterdir()))


def test_a_document_whose_first_line_is_rejected_still_starts(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes(b"one\ntwo\n\n\xff\n   \nthree\nfour\n\n\xfe\n\nfive\n")
    (tmp_path / "c.yaml").write_text("corpora: [{name: m, format: cc100, path: en.txt, language: en}]")
    build(tmp_path / "c.yaml", tokenizer, tmp_path / "out")
    assert [row["starts_document"] for row in rows_of(tmp_path / "out", "m", "train")] == [True, False, True, False, True]


def test_a_text_of_no_tokens_is_rejected_with_its_pair(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes("a\tb\n\x01\tc\nd\t\u200b\ne\tf\n".encode())
    (tmp_path / "c.yaml").write_text("corpora: [{name: p, format: tsv, path: p.tsv, languages: [en, fr], held_out: 0}]")
    (corpus,) = build(tmp_path / "c.yaml", tokenizer, tmp_path / "out").corpora
    assert (corpus.rejected, corpus.lines_read) == ({"no tokens": 2}, 4)
    assert [row["source"] for row in rows_of(tmp_path / "out", "p", "train")] == [bare_ids(tokenizer, t) for t in "ae"]


def test_a_corpus_without_a_usable_line_is_named(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "w.tsv").write_text("0.5\ta\tb\n")
    (tmp_path / "c.yaml").write_text("corpora: [{name: w, format: wikimatrix, path: w.tsv, languages: [en, fr]}]")
    with pytest.raises(InputError, match=r"corpus w: .*w\.tsv: no usable line \(1 score below 1.04\)"):
        build(tmp_path / "c.yaml", tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(1)
    rows.add([EncodedTexts(np.arange(4, 9, dtype=np.int32), np.array([0, 5]))], np.array([True]))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ernie_m.base.files.fsync_path", full_disk)
    with pytest.raises(OSError, match="No space"):
        rows.write(tmp_path, "shards/c/train-00000.arrow", "train")
    assert contents(tmp_path) == {}


def test_a_shard_holds_the_rows_it_was_given(tmp_path: Path) -> None:
    draw, rows, expected = np.random.default_rng(0), Rows(2), []
    for _ in range(5):
        sides = [[draw.integers(4, 99, draw.integers(1, 30), dtype=np.int32) for _ in range(40)] for _ in range(2)]
        keep = draw.random(40) < 0.7
        columns = [EncodedTexts(np.concatenate(s), np.concatenate([[0], np.cumsum([len(t) for t in s])])) for s in sides]
        rows.add([selected(column, keep) for column in columns], np.zeros(keep.sum(), np.bool_))
        expected += [{"source": a.tolist(), "target": b.tolist()} for a, b, k in zip(*sides, keep, strict=True) if k]
    entry = rows.write(tmp_path, "shards/c/train-00000.arrow", "train")
    assert rows_of(tmp_path, "c", "train") == expected
    assert entry.rows == rows.num_rows == len(expected)
    assert entry.tokens == (sum(len(r["source"]) for r in expected), sum(len(r["target"]) for r in expected))


def test_a_shard_whose_offsets_would_overflow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.shard_writer.MOST_TOKENS", 9)
    rows = Rows(1)
    rows.add([EncodedTexts(np.arange(10, dtype=np.int32), np.array([0, 4, 10]))], np.array([True, False]))
    with pytest.raises(InputError, match=r"00000\.arrow: 10 tokens do not fit in one shard; give a smaller --shard_mb"):
        rows.write(tmp_path, "shards/c/train-00000.arrow", "train")


def test_long_lines_are_told_in_shares_of_the_text_and_may_be_split(tokenizer: Path, tmp_path: Path) -> None:
    long = "the house is small and green " * 100
    (tmp_path / "a.txt").write_text(f"the house\n{long}\n\n{'x' * 3000}\nmore\n")
    entry = "name: m, format: cc100, path: a.txt, language: en, max_characters: 1000"
    (tmp_path / "reject.yaml").write_text(f"corpora: [{{{entry}}}]")
    (tmp_path / "split.yaml").write_text(f"corpora: [{{{entry}, long_lines: split}}]")
    build(tmp_path / "reject.yaml", tokenizer, tmp_path / "reject")
    report = (tmp_path / "reject/report.txt").read_text()
    assert "m: 2 rejected (100 % of the text): more than 1000 characters (first: line 2)" in report
    assert "warning: corpus m: 100 % of the text stands in lines of more than 1,000 characters, which were left" in report
    (corpus,) = build(tmp_path / "split.yaml", tokenizer, tmp_path / "split").corpora
    rows = rows_of(tmp_path / "split", "m", "train")
    assert (corpus.rejected, corpus.lines_read) == ({}, len(rows))
    assert [row["starts_document"] for row in rows] == [True, False, False, False, True, False, False, False]
    assert sum(len(row["tokens"]) for row in rows[1:4]) == len(bare_ids(tokenizer, long.strip()))
    assert "m: 2 lines were cut up at spaces" in (tmp_path / "split/report.txt").read_text()


def test_a_text_that_the_tokenizer_cannot_segment_is_rejected_with_its_line(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SentencePiece fails on some words of more than a hundred thousand letters, without saying where they are."""
    real = sentencepiece.SentencePieceProcessor.encode

    def encode(self: object, texts: str | list[str], **options: object) -> object:
        if any(len(text) > 20_000 for text in ([texts] if isinstance(texts, str) else texts)):
            raise RuntimeError("INTERNAL")
        return real(self, texts, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "encode", encode)
    (tmp_path / "a.txt").write_text(f"the house\n{'ab' * 20_000}\nis green\n")
    (tmp_path / "c.yaml").write_text("corpora: [{name: m, format: cc100, path: a.txt, language: en, max_characters: 90000}]")
    (corpus,) = build(tmp_path / "c.yaml", tokenizer, tmp_path / "out").corpora
    assert corpus.rejected == {"a text that the tokenizer cannot segment": 1}
    assert "cannot segment (first: line 2)" in (tmp_path / "out/report.txt").read_text()
    assert [row["tokens"] for row in rows_of(tmp_path / "out", "m", "train")] == [
        bare_ids(tokenizer, text) for text in ("the house", "is green")
    ]

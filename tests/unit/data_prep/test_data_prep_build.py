"""A build is whole, repeatable and checked; verify and stats read it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from prep_samples import sentences

import data_prep.build as build_module
from data_prep.build import build
from data_prep.shard_writer import ShardWriter
from data_prep.stats import stats
from data_prep.verify import verify
from ernie_m.console import InputError
from ernie_m.corpus import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, CorpusFolder, Manifest
from ernie_m.vocabulary import TOKENIZER_FILE, Vocabulary


@pytest.fixture
def built(catalog: Path, tokenizer: Path, tmp_path: Path) -> Path:
    build(catalog, tokenizer, tmp_path / "out", rows_per_shard=64)
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path, name: str, split: str) -> list[dict[str, list[int]]]:
    """A corpus's rows, with pyarrow alone."""
    rows = []
    for path in sorted((folder / "shards" / name).glob(f"{split}-*.arrow")):
        with pa.memory_map(str(path)) as mapped:
            rows += pa.ipc.open_file(mapped).read_all().to_pylist()
    return rows


def bare_ids(tokenizer: Path, text: str) -> list[int]:
    """What fairseq does: SentencePiece's id + 1, and <unk> is 3."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    return [3 if piece == 0 else piece + 1 for piece in processor.encode(text)]


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
    assert all(shard.rows == 64 for shard in train[:-1])
    assert train[0].file == "shards/t.de-en/train-00000.arrow"
    assert train[1].file == "shards/t.de-en/train-00001.arrow"
    versions = json.loads((built / "manifest.json").read_text())["versions"]
    assert set(versions) == {"ernie_m", "python", "pyarrow", "sentencepiece", "numpy"}


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
    build(catalog, tokenizer, tmp_path / "again", rows_per_shard=64)
    assert contents(built) == contents(tmp_path / "again")
    assert len(contents(built)) > 8


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


def test_an_interrupted_build_leaves_no_manifest_and_is_built_anew(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "interrupted"
    real = build_module.convert
    calls = []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build_module, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(catalog, tokenizer, out, rows_per_shard=64)
    assert sorted(contents(out)) == ["shards/mono.en/train-00000.arrow"]
    with pytest.raises(InputError, match="not finished"):
        verify(out)
    (out / "shards/mono.en/.train-00007.arrow.123.tmp").write_bytes(b"killed here")
    (out / "shards/mono.en/train-00009.arrow").write_bytes(b"of other options")
    monkeypatch.undo()
    build(catalog, tokenizer, out, rows_per_shard=64)
    assert contents(out) == contents(built)


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path, "c", "train", 1)
    writer.add([np.arange(4, 9, dtype=np.int32)])

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ernie_m.files.fsync_path", full_disk)
    with pytest.raises(OSError, match="No space"):
        writer.finish()
    assert contents(tmp_path) == {}


def test_a_finished_build_is_replaced_only_when_told(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    with pytest.raises(InputError, match="--overwrite"):
        build(catalog, tokenizer, built)
    assert contents(built) == before
    build(catalog, tokenizer, built, overwrite=True)
    assert "shards/t.de-en/train-00001.arrow" not in contents(built)
    assert verify(built) == []


def test_wrong_input_is_refused_before_a_finished_build_is_touched(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    (catalog.parent / "pairs.tsv.gz").unlink()
    with pytest.raises(InputError, match="no such file"):
        build(catalog, tokenizer, built, overwrite=True)
    with pytest.raises(InputError, match="lies in the output folder"):
        build(catalog, built / TOKENIZER_FILE, built, overwrite=True)
    assert contents(built) == before


@pytest.mark.parametrize("name", ["notes.txt", "shards/notes.txt", "shards/mono.en/other.arrow", ".git/config"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_somebody_elses_files_is_refused(
    built: Path, catalog: Path, tokenizer: Path, name: str, finished: bool
) -> None:
    (built / name).parent.mkdir(exist_ok=True)
    (built / name).write_text("mine")
    if not finished:
        (built / "manifest.json").unlink()
    with pytest.raises(InputError, match="not of a build of ours"):
        build(catalog, tokenizer, built, overwrite=True)
    assert (built / name).read_text() == "mine"


def test_a_shard_closes_before_its_tokens_overflow_and_keeps_every_row(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [[draw.integers(4, 99, draw.integers(1, 30), dtype=np.int32) for _ in range(2)] for _ in range(200)]
    rows[50][1] = np.full(150, 7, np.int32)  # alone above the limit
    writer = ShardWriter(tmp_path, "c", "train", 2, tokens_per_shard=100)
    for row in rows:
        writer.add(row)
    entries = writer.finish()
    assert all(max(entry.tokens) <= 100 or entry.rows == 1 for entry in entries)
    assert sum(entry.rows for entry in entries) == 200
    back = rows_of(tmp_path, "c", "train")
    assert [[row["source"], row["target"]] for row in back] == [[side.tolist() for side in row] for row in rows]


@pytest.mark.parametrize("name", ["shards/mono.en/train-00000.arrow", "shards/t.de-en/held_out-00000.arrow", TOKENIZER_FILE])
def test_verify_finds_a_flipped_byte(built: Path, name: str) -> None:
    assert verify(built) == []
    path = built / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (failure,) = verify(built)
    assert name in failure
    assert "SHA-256" in failure


@pytest.mark.parametrize("name", ["shards/mono.en/train-00000.arrow", TOKENIZER_FILE])
def test_verify_finds_a_missing_file(built: Path, name: str) -> None:
    (built / name).unlink()
    (failure,) = verify(built)
    assert f"{name}: missing" in failure


def test_verify_reports_every_failure(built: Path) -> None:
    for path in sorted((built / "shards/t.de-en").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:-1])
    assert len(verify(built)) == 3


def test_verify_refuses_another_tokenizer(built: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert verify(built, tokenizer) == []
    other = tmp_path / "other.model"
    with open(other, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(400, seed=9)),
            model_writer=file,
            vocab_size=110,
            model_type="bpe",
            minloglevel=3,
        )
    (failure,) = verify(built, other)
    assert "not the one of" in failure


def rewrite_shard(folder: Path, batch: pa.RecordBatch) -> None:
    """Replace the monolingual shard and make the manifest's size and hash agree, as a faulty writer would."""
    from ernie_m.files import sha256_of

    path = folder / "shards/mono.en/train-00000.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    manifest = Manifest.read(folder)
    mono = manifest.corpora[0]
    entry = dataclasses.replace(mono.shards[0], bytes=path.stat().st_size, sha256=sha256_of(path))
    corpora = (dataclasses.replace(mono, shards=(entry,)), *manifest.corpora[1:])
    dataclasses.replace(manifest, corpora=corpora).write(folder)


@pytest.mark.parametrize(
    ("bad_id", "message"),
    [(None, ""), (1, "ids from 1"), (-5, "ids from -5"), (121, "expected 3 to 120"), (10**6, "1000000")],
)
def test_verify_finds_ids_outside_the_vocabulary(built: Path, bad_id: int | None, message: str) -> None:
    assert Manifest.read(built).vocab_size == 122
    rows = rows_of(built, "mono.en", "train")
    if bad_id is not None:
        rows[3]["tokens"][0] = bad_id
    rewrite_shard(built, pa.RecordBatch.from_pylist(rows, schema=MONOLINGUAL_SCHEMA))
    failures = verify(built)
    assert len(failures) == (bad_id is not None)
    assert all(message in failure for failure in failures)


def test_verify_finds_wrong_rows_tokens_and_schema(built: Path) -> None:
    rows = rows_of(built, "mono.en", "train")
    rewrite_shard(built, pa.RecordBatch.from_pylist(rows[:-1], schema=MONOLINGUAL_SCHEMA))
    assert any("29 rows, the manifest says 30" in failure for failure in verify(built))
    assert any("tokens, the manifest says" in failure for failure in verify(built))
    empty = [{**row, "tokens": []} if i == 2 else row for i, row in enumerate(rows)]
    rewrite_shard(built, pa.RecordBatch.from_pylist(empty, schema=MONOLINGUAL_SCHEMA))
    assert any("rows without tokens" in failure for failure in verify(built))
    ends = [{**row, "starts_document": False} for row in rows]
    rewrite_shard(built, pa.RecordBatch.from_pylist(ends, schema=MONOLINGUAL_SCHEMA))
    assert any("0 documents start, the manifest says 10" in failure for failure in verify(built))
    pairs = [{"source": row["tokens"], "target": row["tokens"]} for row in rows]
    rewrite_shard(built, pa.RecordBatch.from_pylist(pairs, schema=PARALLEL_SCHEMA))
    assert any("schema is" in failure for failure in verify(built))


def test_verify_finds_lines_that_the_manifest_lost(built: Path) -> None:
    manifest = Manifest.read(built)
    corpora = (dataclasses.replace(manifest.corpora[0], lines_read=31), *manifest.corpora[1:])
    dataclasses.replace(manifest, corpora=corpora).write(built)
    (failure,) = verify(built)
    assert "30 rows and 0 rejected of 31 lines" in failure


def test_stats_shows_each_stream_with_its_smoothed_share(built: Path) -> None:
    text = stats(built, 0.5)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    tokens = {stream.name: stream.num_tokens for stream in CorpusFolder(built).parallel()}
    powers = {name: count**0.5 for name, count in tokens.items()}
    assert {"en", "de-en", "de-fr"} <= set(lines)
    for name in tokens:
        assert lines[name][2] == f"{tokens[name]:,}"
        assert lines[name][4] == f"{100 * tokens[name] / sum(tokens.values()):.2f}"
        assert lines[name][6] == f"{100 * powers[name] / sum(powers.values()):.2f}"
    train = sum(stream.num_rows for stream in CorpusFolder(built).parallel() if stream.name == "de-en")
    assert int(lines["de-en"][1]) == train
    assert int(lines["de-en"][8]) == 401 - train

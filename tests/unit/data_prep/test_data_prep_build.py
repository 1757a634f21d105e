"""A build is whole, repeatable and checked; verify and stats read it."""

from __future__ import annotations

import dataclasses
import json
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from prep_samples import WORDS, sentences

import data_prep.phases as phases_module
from data_prep.build import Options, build, show_estimate
from data_prep.catalog import read_catalog
from data_prep.clean import DUPLICATE
from data_prep.convert import Done
from data_prep.estimate import estimate
from data_prep.ranks import Ranks
from data_prep.shard_writer import Rows, selected
from data_prep.stats import stats
from data_prep.verify import verify
from ernie_m.console import InputError
from ernie_m.corpus import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, CorpusFolder, Manifest
from ernie_m.vocabulary import TOKENIZER_FILE, EncodedTexts, Vocabulary

SMALL = Options(chunk_bytes=3000)


@pytest.fixture
def built(catalog: Path, tokenizer: Path, tmp_path: Path) -> Path:
    build(catalog, tokenizer, tmp_path / "out", SMALL)
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but for the lock and what tells of speed."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and path.parent.name != "ranks")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


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


class Killed(BaseException):
    """What no `except Exception` catches."""


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the build die at a chunk; the names of those converted before."""
    real, converted = phases_module.convert, []

    def dying(task: phases_module.Task) -> Done:
        if len(converted) == count:
            raise Killed
        converted.append(f"{task.corpus.name} {task.index}")
        return real(task)

    monkeypatch.setattr(phases_module, "convert", dying)
    return converted


def test_an_interrupted_build_goes_on_without_doing_anything_twice(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "interrupted"
    first = killed_after(4, monkeypatch)
    with pytest.raises(Killed):
        build(catalog, tokenizer, out, SMALL)
    monkeypatch.undo()
    with pytest.raises(InputError, match="not finished"):
        verify(out)
    (out / "shards/mono.en/.train-00007.arrow.123.tmp").write_bytes(b"killed here")
    (out / "work/mono.en/.00007.json.123.tmp").write_bytes(b"and here")
    second = killed_after(10**6, monkeypatch)
    build(catalog, tokenizer, out, SMALL)
    assert contents(out) == contents(built)
    assert len(first) == 4
    assert not set(first) & set(second)


def test_an_unfinished_build_of_another_plan_is_kept_and_the_difference_named(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "interrupted"
    killed_after(4, monkeypatch)
    with pytest.raises(Killed):
        build(catalog, tokenizer, out, SMALL)
    monkeypatch.undo()
    before = contents(out)
    with pytest.raises(InputError, match=r"another plan: chunk_bytes was 3000 and is now 3001; .*--overwrite"):
        build(catalog, tokenizer, out, Options(chunk_bytes=3001))
    path = catalog.parent / "en.txt.xz"
    content = path.read_bytes()
    path.write_bytes(lzma.compress(b"another text\n" * 100))
    with pytest.raises(InputError, match=r"corpora\[0\]\.files\[0\]\.bytes was"):
        build(catalog, tokenizer, out, SMALL)
    path.write_bytes(content)
    catalog.write_text(catalog.read_text().replace("held_out: 0.2", "held_out: 0.1"))
    with pytest.raises(InputError, match=r"corpora\[1\]\.held_out was 0\.2 and is now 0\.1"):
        build(catalog, tokenizer, out, SMALL)
    assert contents(out) == before
    catalog.write_text(catalog.read_text().replace("held_out: 0.1", "held_out: 0.2"))
    build(catalog, tokenizer, out, dataclasses.replace(SMALL, overwrite=True))
    assert contents(out) == contents(built)


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(1)
    rows.add([EncodedTexts(np.arange(4, 9, dtype=np.int32), np.array([0, 5]))], np.array([True]))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ernie_m.files.fsync_path", full_disk)
    with pytest.raises(OSError, match="No space"):
        rows.write(tmp_path, "shards/c/train-00000.arrow", "train")
    assert contents(tmp_path) == {}


def test_a_corpus_that_cannot_be_used_stops_the_build_or_is_left_out_and_told(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = contents(built)
    path = catalog.parent / "T.de-en.txt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("T.de", "eins\nzwei\n" * 1000)
        archive.writestr("T.en", "one\ntwo\n" * 999)
    with pytest.raises(InputError, match=r"corpus t\.de-en: .*\(de\) has 2,000 lines and .*\(en\) has 1,998"):
        build(catalog, tokenizer, tmp_path / "out2", SMALL)
    assert not (tmp_path / "out2/manifest.json").exists()
    quarantine = dataclasses.replace(SMALL, on_error="quarantine")
    build(catalog, tokenizer, tmp_path / "out2", quarantine)  # goes on
    assert "left out: corpus t.de-en: " in capsys.readouterr().out
    report = {corpus["name"]: corpus for corpus in json.loads((tmp_path / "out2/report.json").read_text())["corpora"]}
    assert "has 2,000 lines" in report["t.de-en"]["left_out"]
    assert "has 2,000 lines" in (tmp_path / "out2/report.txt").read_text()
    assert [corpus.name for corpus in Manifest.read(tmp_path / "out2").corpora] == ["mono.en", "p.de-fr"]
    assert verify(tmp_path / "out2") == []
    found = contents(tmp_path / "out2")
    assert {name for name in found if name.startswith("shards/")} == {
        name for name in good if name.startswith("shards/") and "t.de-en" not in name
    }
    for name in ("en.txt.xz", "pairs.tsv.gz"):
        content = (catalog.parent / name).read_bytes()
        (catalog.parent / name).write_bytes(content[:-9])
    with pytest.raises(InputError, match=r"no corpus of the catalog could be used"):
        build(catalog, tokenizer, tmp_path / "out3", quarantine)


def test_the_report_shows_the_first_rejected_lines_with_their_place_in_the_file(tokenizer: Path, tmp_path: Path) -> None:
    good = b"a\tb\n" * 700
    (tmp_path / "p.tsv").write_bytes(good + b"no tab\n" + good + b"x\t\xff\ny\t \n" + good + b"late\n" * 9)
    (tmp_path / "c.yaml").write_text("corpora: [{name: p, format: tsv, path: p.tsv, languages: [en, fr]}]")
    for chunk_bytes in (1 << 20, 500):
        out = tmp_path / str(chunk_bytes)
        build(tmp_path / "c.yaml", tokenizer, out, Options(chunk_bytes=chunk_bytes))
        (corpus,) = json.loads((out / "report.json").read_text())["corpora"]
        assert corpus["rejected"] == {
            "not 2 columns": {
                "lines": 10,
                "first": [{"line": 701, "text": "no tab ||| "}]
                + [{"line": line, "text": "late ||| "} for line in range(2104, 2108)],
            },
            "not UTF-8": {"lines": 1, "first": [{"line": 1402, "text": "x\t\\xff ||| "}]},
            "empty": {"lines": 1, "first": [{"line": 1403, "text": "y |||  "}]},
        }
        assert (corpus["lines"], corpus["lines_read"], corpus["rows"]) == (2112, 2112, 2100)
        assert "  line 701: 'no tab ||| '" in (out / "report.txt").read_text()


def test_repeated_lines_go_and_the_first_stays_wherever_chunks_end(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.deduplicate.ROWS_PER_BUCKET", 100)
    draw = random.Random(0)
    lines = [draw.choice(["", *map(str, range(150))]) for _ in range(1500)]
    pairs = [(str(draw.randint(0, 20)), str(draw.randint(0, 20))) for _ in range(1500)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    (tmp_path / "p.tsv").write_text("\n".join("\t".join(pair) for pair in pairs))
    (tmp_path / "c.yaml").write_text(
        "corpora:\n"
        "  - {name: m, format: cc100, path: m.txt, language: en, deduplicate: true}\n"
        "  - {name: p, format: tsv, path: p.tsv, languages: [en, fr], held_out: 0.3, deduplicate: true}\n"
    )
    expected, seen, is_start = [], set(), True
    for line in lines:
        is_start |= not line
        if line and line not in seen:
            expected.append({"tokens": bare_ids(tokenizer, line), "starts_document": is_start})
            is_start = False
        seen.add(line)
    for chunk_bytes in (300, 1 << 20):
        out = tmp_path / str(chunk_bytes)
        build(tmp_path / "c.yaml", tokenizer, out, Options(chunk_bytes=chunk_bytes))
        assert verify(out) == []
        assert rows_of(out, "m", "train") == expected
        kept = [rows_of(out, "p", split) for split in ("train", "held_out")]
        found = [[(tuple(row["source"]), tuple(row["target"])) for row in rows] for rows in kept]
        unique = [tuple(tuple(bare_ids(tokenizer, text)) for text in pair) for pair in dict.fromkeys(pairs)]
        assert sorted(found[0] + found[1]) == sorted(unique)
        assert [pair for pair in unique if pair in set(found[0])] == found[0]
        mono, both = Manifest.read(out).corpora
        assert mono.rejected == {DUPLICATE: sum(map(bool, lines)) - len(expected)}
        assert both.rejected == {DUPLICATE: 1500 - len(unique)}


def test_sides_that_slip_by_a_line_half_way_through_are_warned_of(tokenizer: Path, tmp_path: Path) -> None:
    lines = [" ".join(WORDS[: random.Random(i).randint(1, 15)]) for i in range(4000)]
    targets = lines[:2000] + lines[2001:] + ["end"]
    for name, target in (("good", lines), ("slipped", targets)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{a}\t{b} ja\n" for a, b in zip(lines, target, strict=True)))
    (tmp_path / "c.yaml").write_text(
        "corpora:\n"
        "  - {name: good, format: tsv, path: good.tsv, languages: [en, fr]}\n"
        "  - {name: slipped, format: tsv, path: slipped.tsv, languages: [en, fr]}\n"
    )
    build(tmp_path / "c.yaml", tokenizer, tmp_path / "out", Options(chunk_bytes=60_000))
    good, slipped = json.loads((tmp_path / "out/report.json").read_text())["corpora"]
    assert (good["warnings"], good["alignment"]["score"] > 0.5) == ([], True)
    assert slipped["alignment"]["score"] < good["alignment"]["score"] - 0.2
    assert slipped["warnings"]
    assert all("look misaligned" in warning for warning in slipped["warnings"])
    first = int(slipped["warnings"][0].split()[1].replace(",", ""))
    assert 1000 < first < 2600
    assert "warning: corpus slipped: lines" in (tmp_path / "out/report.txt").read_text()


def test_too_little_space_is_known_before_the_start(
    catalog: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.estimate.free_bytes", lambda out: 1000)
    with pytest.raises(InputError, match=r"the shards will take about [\d.]+ KiB and 1000 B are free"):
        build(catalog, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.arrow"))
    build(catalog, tokenizer, tmp_path / "out", Options(skip_space_check=True))


def test_the_estimate_is_near_what_is_built(
    built: Path, catalog: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    show_estimate(catalog, tokenizer, tmp_path / "none", Options(), Ranks(2))
    text = capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert "time on 2" in text.splitlines()[0]
    for corpus in Manifest.read(built).corpora:
        estimated = estimate(next(c for c in read_catalog(catalog) if c.name == corpus.name), tokenizer)
        assert estimated.tokens == pytest.approx(sum(sum(shard.tokens) for shard in corpus.shards), rel=0.1)
        assert f"{estimated.tokens:,}" in lines[corpus.name]
        size = sum(shard.bytes for shard in corpus.shards)
        assert 0.3 * size < estimated.disk_bytes < 1.3 * size  # tiny shards are mostly headers


def test_a_finished_build_is_replaced_only_when_told(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    with pytest.raises(InputError, match="--overwrite"):
        build(catalog, tokenizer, built)
    assert contents(built) == before
    build(catalog, tokenizer, built, Options(overwrite=True))
    assert "shards/t.de-en/train-00001.arrow" not in contents(built)
    assert verify(built) == []


def test_wrong_input_is_refused_before_a_finished_build_is_touched(built: Path, catalog: Path, tokenizer: Path) -> None:
    before = contents(built)
    (catalog.parent / "pairs.tsv.gz").unlink()
    with pytest.raises(InputError, match="no such file"):
        build(catalog, tokenizer, built, Options(overwrite=True))
    with pytest.raises(InputError, match="lies in the output folder"):
        build(catalog, built / TOKENIZER_FILE, built, Options(overwrite=True))
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
        build(catalog, tokenizer, built, Options(overwrite=True))
    assert (built / name).read_text() == "mine"


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

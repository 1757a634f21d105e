"""What a build tells of its input: what it rejects, leaves out, finds twice, misaligned or too large for the disk."""

from __future__ import annotations

import dataclasses
import gzip
import json
import lzma
import random
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from prep_samples import SMALL, WORDS, bare_ids, contents, rows_of, sentences

from data_prep.build import Options, build, show_estimate
from data_prep.catalog import Corpus, read_catalog
from data_prep.clean import DUPLICATE, usable
from data_prep.estimate import estimate
from data_prep.records import no_count
from data_prep.verify import verify
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import Manifest


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
        "allow_held_out: true\ncorpora:\n"
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


def test_sides_that_are_the_same_but_for_case_are_warned_of(tokenizer: Path, tmp_path: Path) -> None:
    lines = sentences(600, seed=4)
    (tmp_path / "p.tsv").write_text("".join(f"{line}\t{line.upper()}\n" for line in lines))
    (tmp_path / "c.yaml").write_text("corpora: [{name: p, format: tsv, path: p.tsv, languages: [en, fr]}]")
    build(tmp_path / "c.yaml", tokenizer, tmp_path / "out", Options(allow_unknown=True))
    (corpus,) = json.loads((tmp_path / "out/report.json").read_text())["corpora"]
    assert [warning for warning in corpus["warnings"] if "have the same text on both sides" in warning]


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
        assert estimated.tokens == pytest.approx(
            sum(sum(shard.tokens) for shard in corpus.shards), rel=0.35
        )  # of 30 rows it looks at 4
        assert f"{estimated.tokens:,}" in lines[corpus.name]
        size = sum(shard.bytes for shard in corpus.shards)
        assert 0.3 * size < estimated.disk_bytes < 1.3 * size  # tiny shards are mostly headers


def test_every_kind_of_broken_input_has_its_line_in_the_report(catalog: Path, tokenizer: Path, tmp_path: Path) -> None:
    lines = [line.encode() for line in sentences(4000, seed=5)]
    text, folder = b"\n".join(lines), catalog.parent
    pairs = b"\n".join(line + b"\t" + line for line in lines)
    (folder / "cut.txt.xz").write_bytes(lzma.compress(text)[:-20])
    (folder / "cut.tsv.gz").write_bytes(gzip.compress(pairs)[:-20])
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        archive.writestr("t.de", text)
        archive.writestr("t.en", text)
    (folder / "cut.zip").write_bytes((folder / "whole.zip").read_bytes()[:-20])
    flipped = bytearray((folder / "whole.zip").read_bytes())
    flipped[len(flipped) // 4] ^= 1
    (folder / "flipped.zip").write_bytes(flipped)
    (folder / "bytes.txt").write_bytes(text + b"\nbroken \xff utf-8\n")
    (folder / "long.de").write_bytes(text)
    (folder / "long.en").write_bytes(text + b"\none more")
    units = "".join(f"<tu><tuv xml:lang='en'><seg>{i}</seg></tuv></tu>" for i in range(9))
    (folder / "bad.tmx").write_text(f"<tmx><body>{units}</wrong></tmx>")
    (folder / "W.en-fr.tsv").write_bytes(b"1.2\tgood\tbon\n\tno score\tpas\n1.2\tbest\tmieux\n")
    catalog.write_text(
        catalog.read_text()
        + "  - {name: cut-xz, format: cc100, path: cut.txt.xz, language: en}\n"
        + "  - {name: cut-gz, format: tsv, path: cut.tsv.gz, languages: [de, en]}\n"
        + "  - {name: cut-zip, format: moses, path: cut.zip, languages: [de, en]}\n"
        + "  - {name: flipped-zip, format: moses, path: flipped.zip, languages: [de, en]}\n"
        + "  - {name: bytes, format: cc100, path: bytes.txt, language: en}\n"
        + "  - {name: unequal, format: moses, source: long.de, target: long.en, languages: [de, en]}\n"
        + "  - {name: tmx, format: tmx, path: bad.tmx, languages: [en, fr]}\n"
        + "  - {name: wiki, format: wikimatrix, path: W.en-fr.tsv, languages: [en, fr]}\n"
    )
    build(catalog, tokenizer, tmp_path / "out", Options(on_error="quarantine"))
    report = {corpus["name"]: corpus for corpus in json.loads((tmp_path / "out/report.json").read_text())["corpora"]}
    readable = (tmp_path / "out/report.txt").read_text()
    left_out = {
        "cut-xz": "cut.txt.xz: truncated, damaged or no xz file",
        "cut-gz": "cut.tsv.gz: truncated, damaged or no gzip file",
        "cut-zip": "cut.zip: truncated, damaged or no zip file",
        "flipped-zip": "flipped.zip: truncated, damaged or no zip file (Bad CRC-32",
        "unequal": "long.de has 4,000 lines and ",
        "tmx": "bad.tmx: no unit has both en and fr; its segments are in en (9)",
    }
    for name, message in left_out.items():
        assert message in report[name]["left_out"]
        assert f"left out: corpus {name}: " in readable
        assert not (tmp_path / "out/shards" / name).exists()
    assert report["bytes"]["rejected"] == {
        "not UTF-8": {"lines": 1, "first": [{"line": 4001, "text": "broken \\xff utf-8"}]}
    }
    assert report["wiki"]["rejected"] == {"no score": {"lines": 1, "first": [{"line": 2, "text": "no score ||| pas"}]}}
    assert "wiki: 1 rejected: no score (first: line 2)" in readable
    kept = [corpus.name for corpus in Manifest.read(tmp_path / "out").corpora]
    assert kept == ["mono.en", "t.de-en", "p.de-fr", "bytes", "wiki"]
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz"])
def test_the_estimate_of_a_sorted_file_is_that_of_the_whole(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Short lines first, and words that cost many pieces last: the head tells half of it."""
    monkeypatch.setattr("data_prep.readers.sampling.PLACE_BYTES", 4000)
    lines = ["the house is small and green"] * 3000 + ["qqq xyz 98765"] * 9000
    content = "\n".join(lines).encode()
    whole = [content[place : place + 20_000] for place in range(0, len(content), 20_000)]
    packed = {".gz": gzip.compress(content), ".xz": b"".join(map(lzma.compress, whole))}
    (tmp_path / name).write_bytes(packed.get(name[-3:], content))
    corpus = Corpus("a", "cc100", ("en",), (tmp_path / name,))
    found = estimate(corpus, tokenizer)
    expected = sum(len(bare_ids(tokenizer, line)) * count for line, count in Counter(lines).items())
    assert found.tokens == pytest.approx(expected, rel=0.2)
    assert found.rows == pytest.approx(len(lines), rel=0.2)
    assert found.text_bytes == pytest.approx(len(content), rel=0.01)
    head = len(bare_ids(tokenizer, lines[0])) * len(content) / (len(lines[0]) + 1)
    assert abs(head - expected) > 0.3 * expected  # what the beginning alone would say


def test_texts_are_normalised_where_the_catalog_asks_for_it(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "läuft über die brücke")
    (tmp_path / "a.txt").write_text(decomposed + "\n")
    for form, expected in (("none", decomposed), ("nfc", unicodedata.normalize("NFC", decomposed))):
        (tmp_path / "c.yaml").write_text(
            f"corpora: [{{name: a, format: cc100, path: a.txt, language: de, normalise: {form}}}]"
        )
        (corpus,) = read_catalog(tmp_path / "c.yaml")
        assert list(usable(corpus, no_count)) == [(expected,)]


def test_repeated_lines_go_across_corpora_of_the_same_languages_in_the_order_of_the_catalog(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.deduplicate.ROWS_PER_BUCKET", 60)
    draw = random.Random(1)
    texts = {name: [str(draw.randint(0, 120)) for _ in range(150)] for name in ("a", "b", "other", "alone")}
    for name, lines in texts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    pairs = [(str(draw.randint(0, 15)), str(draw.randint(0, 15))) for _ in range(150)]
    (tmp_path / "p.tsv").write_text("\n".join("\t".join(pair) for pair in pairs))
    (tmp_path / "q.tsv").write_text("\n".join("\t".join(pair[::-1]) for pair in pairs[50:]) + "\n99\t98")
    (tmp_path / "c.yaml").write_text(
        "corpora:\n"
        "  - {name: b, format: cc100, path: b.txt, language: en, deduplicate: across}\n"
        "  - {name: other, format: cc100, path: other.txt, language: de, deduplicate: across}\n"
        "  - {name: a, format: cc100, path: a.txt, language: en, deduplicate: across}\n"
        "  - {name: alone, format: cc100, path: alone.txt, language: en, deduplicate: true}\n"
        "  - {name: p, format: tsv, path: p.tsv, languages: [en, fr], held_out: 0, deduplicate: across}\n"
        "  - {name: q, format: tsv, path: q.tsv, languages: [fr, en], held_out: 0, deduplicate: across}\n"
    )
    for chunk_bytes, ranks in ((1 << 20, 1), (150, 2)):
        out = tmp_path / f"{chunk_bytes}-{ranks}"
        manifest = build(tmp_path / "c.yaml", tokenizer, out, Options(chunk_bytes=chunk_bytes), Ranks(ranks))
        assert manifest is not None
        for name in texts:
            lines = list(dict.fromkeys(texts[name]))
            kept = [line for line in lines if name != "a" or line not in set(texts["b"])]
            assert [row["tokens"] for row in rows_of(out, name, "train")] == [bare_ids(tokenizer, line) for line in kept]
        assert len(rows_of(out, "p", "train")) == len(set(pairs))
        assert [row["source"] for row in rows_of(out, "q", "train")] == [bare_ids(tokenizer, "98")]
        rejected = {corpus.name: corpus.rejected for corpus in manifest.corpora}["a"]
        shared = len(set(texts["a"]) & set(texts["b"]))
        copies = sum(text in set(texts["b"]) for text in texts["a"])
        assert rejected["duplicate of a line of an earlier corpus"] == copies >= shared > 30
        assert rejected["duplicate of an earlier line"] == 150 - copies - len(set(texts["a"]) - set(texts["b"]))


def test_what_an_estimate_finds_wrong_names_the_corpus(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"},\n' * 9)
    with pytest.raises(InputError, match=r"^corpus a: .*a\.jsonl: 9 of the first 9 lines are no JSON objects"):
        estimate(Corpus("a", "jsonl", ("en",), (tmp_path / "a.jsonl",)), tokenizer)

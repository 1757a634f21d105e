"""Corpora of today in the layout in which they are distributed: FineWeb-2, CulturaX, HPLT, MADLAD-400, OPUS-100."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
import zstandard
from prep_samples import Record, bare_ids, read, rows_of

import data_prep
from data_prep.build import Options, build
from data_prep.catalog import Corpus, read_catalog
from data_prep.readers.documents import NO_TEXT, NOT_JSON
from data_prep.verify import verify
from ernie_m.base.console import InputError

DOCUMENTS = ["the house is small\nand green\n\nder hund\n", "läuft schnell", "el río\u2028 polet\n"]
LINES = ["the house is small", "and green", "der hund", "läuft schnell", "el río\u2028 polet"]
STARTS = [True, False, False, True, True]


def fineweb_2() -> pa.Table:
    ids = [f"<urn:uuid:{number}>" for number in range(3)]
    columns = {"text": DOCUMENTS, "id": ids, "dump": ["CC-MAIN-2014-10"] * 3, "language_score": [0.9] * 3}
    return pa.table({**columns, "top_langs": ["{}"] * 3, "minhash_cluster_size": [1] * 3})


def culturax() -> pa.Table:
    return pa.table({"text": DOCUMENTS, "timestamp": ["2020"] * 3, "url": ["http://a"] * 3, "source": ["mC4"] * 3})


def hplt() -> bytes:
    rows = [{"f": "./warc", "u": "http://a", "id": str(n), "lang": ["swh_Latn"], "text": t} for n, t in enumerate(DOCUMENTS)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def madlad() -> bytes:
    return "".join(json.dumps({"text": text.replace("\n", "\\n")}) + "\n" for text in DOCUMENTS).encode()


def put(path: Path, content: bytes | pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pyarrow.parquet.write_table(content, path, row_group_size=2)


def moses(name: str) -> bytes:
    sides = {side: "".join(f"{line} {side}\n" for line in LINES).encode() for side in ("en", "sw")}
    path = Path(name)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LICENSE", "x")
        for side, text in sides.items():
            archive.writestr(f"{path.name}.en-sw.{side}", text)
    return path.read_bytes()


def test_every_corpus_of_the_examples_is_built_from_files_as_they_are_distributed(tokenizer: Path, tmp_path: Path) -> None:
    """The entries themselves, over small files at the paths that they name."""
    entries = yaml.safe_load(Path(data_prep.__file__).with_name("example_catalog.yaml").read_text())["corpora"]
    names = ["fineweb-2.sw", "culturax.sw", "hplt.sw", "madlad.sw", "own.sw"]
    names += ["ccmatrix.en-sw", "nllb.en-sw", "opus-100.en-sw"]
    chosen = [{**entry} for entry in entries if entry["name"] in names]
    assert len(chosen) == len(names)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"corpora": chosen}))
    put(tmp_path / "fineweb-2/data/swh_Latn/train/000_00000.parquet", fineweb_2())
    put(tmp_path / "CulturaX/sw/sw_part_00000.parquet", culturax())
    for number in (1, 2):
        put(tmp_path / f"HPLT/swh_Latn/{number}.jsonl.zst", zstandard.compress(hplt()))
    put(tmp_path / "madlad-400/sw/sw_clean_0000.jsonl.gz", gzip.compress(madlad()))
    put(tmp_path / "own.sw.txt.zst", zstandard.compress("\n".join(LINES).encode()))
    for name in ("CCMatrix", "NLLB"):
        put(tmp_path / f"opus/{name}/v1/en-sw.txt.zip", moses(str(tmp_path / name)))
    for side in ("en", "sw"):
        path = tmp_path / f"opus-100-corpus/v1.0/supervised/en-sw/opus.en-sw-train.{side}"
        put(path, "".join(f"{line} {side}\n" for line in LINES).encode())
    manifest = build(tmp_path / "c.yaml", tokenizer, tmp_path / "out", Options(allow_unknown=True))
    assert manifest is not None
    assert verify(tmp_path / "out") == []
    expected = [{"tokens": bare_ids(tokenizer, t), "starts_document": s} for t, s in zip(LINES, STARTS, strict=True)]
    for corpus in manifest.corpora:
        rows = rows_of(tmp_path / "out", corpus.name, "train")
        if corpus.name == "own.sw":
            assert rows == [{**row, "starts_document": True} for row in expected]
        elif len(corpus.languages) == 1:
            assert rows == expected, corpus.name
        else:
            assert len(rows) + len(rows_of(tmp_path / "out", corpus.name, "held_out")) == len(LINES)
    assert [corpus.name for corpus in manifest.corpora if "hplt" in corpus.name] == ["hplt.sw.00000", "hplt.sw.00001"]


def records(path: Path, form: str, **more: str) -> list[Record]:
    corpus = Corpus("c", form, ("en",), (path,), **more)
    whole = read(corpus)
    assert [(r.line, r.texts, r.reason) for r in read(corpus, chunk_bytes=60)] == [
        (r.line, r.texts, r.reason) for r in whole
    ]
    return whole


def test_a_broken_line_is_rejected_with_its_number(tmp_path: Path) -> None:
    lines = [
        '{"text": "good"}',
        "{broken",
        "[1]",
        '{"other": "x"}',
        '{"text": 3}',
        '{"text": "\\ud800"}',
        "",
        '{"text": ""}',
    ]
    (tmp_path / "a.jsonl").write_bytes("\n".join([*lines, '{"text": "last\\nline"}']).encode() + b'\n{"text": "\xff"}')
    found = [(r.line, r.texts[0], r.reason) for r in records(tmp_path / "a.jsonl", "jsonl")]
    assert found[0] == (1, "good", None)
    assert [(line, reason) for line, _, reason in found[1:6]] == [
        (2, NOT_JSON),
        (3, NOT_JSON),
        (4, NO_TEXT),
        (5, NO_TEXT),
        (6, NO_TEXT),
    ]
    assert found[6:9] == [(8, "", None), (9, "last", None), (9, "line", None)]
    assert found[9][::2] == (10, "not UTF-8")


def test_the_key_and_the_column_are_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "no", "content": "yes"}\n')
    pyarrow.parquet.write_table(pa.table({"content": ["yes", None], "n": [1, 2]}), tmp_path / "a.parquet")
    assert [r.texts for r in records(tmp_path / "a.jsonl", "jsonl", text="content")] == [("yes",)]
    parquet = records(tmp_path / "a.parquet", "parquet", text="content")
    assert [(r.texts[0], r.reason) for r in parquet] == [("yes", None), ("null", NO_TEXT)]
    for name, message in (
        ("body", r"no column body; it has content, n; give one of them"),
        ("n", "column n is int64, expected text"),
    ):
        with pytest.raises(InputError, match=message):
            records(tmp_path / "a.parquet", "parquet", text=name)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    put(path, fineweb_2() if name == "a.parquet" else zstandard.compress(hplt() * 50))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=rf"{name}: truncated, damaged or no (Parquet|zstandard) file"):
        records(path, name.split(".")[1])


def test_frames_of_zstandard_end_to_end_are_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.zst").write_bytes(b"".join(zstandard.compress(f"line {n}\n".encode() * 100) for n in range(50)))
    assert len(read(Corpus("c", "documents", ("en",), (tmp_path / "a.txt.zst",)))) == 5000


def test_a_glob_and_a_list_are_a_corpus_a_file(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text("x\n")
    (tmp_path / "c.yaml").write_text(
        'corpora:\n  - {name: g, format: documents, path: "*.txt", language: en}\n'
        '  - {name: l, format: documents, path: [c.txt, "[ab].txt"], language: en}\n'
    )
    found = [(corpus.name, corpus.files[0].name) for corpus in read_catalog(tmp_path / "c.yaml")]
    assert found == [
        *(("g.00000", "a.txt"), ("g.00001", "b.txt"), ("g.00002", "c.txt")),
        *(("l.00000", "c.txt"), ("l.00001", "a.txt"), ("l.00002", "b.txt")),
    ]
    (tmp_path / "c.yaml").write_text('corpora: [{name: g, format: documents, path: "*.gone", language: en}]')
    with pytest.raises(InputError, match=r"g: no file matches \*\.gone"):
        read_catalog(tmp_path / "c.yaml")

"""Documents: JSON lines, Parquet, a document a line; and corpora of many files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from prep_samples import Record, read
from test_data_prep_examples import fineweb_2, hplt, put

from data_prep.catalog import Corpus, read_catalog
from data_prep.readers.documents import NO_TEXT, NOT_JSON
from ernie_m.base.console import InputError


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

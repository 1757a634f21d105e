"""What is no text is said to be what it is; what is text is read, whatever it begins with."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from prep_samples import tarred

from data_prep.catalog import Corpus
from data_prep.readers import first_chunk, num_lines
from ernie_m.base.console import InputError

TEXT = b"".join(b"line %d of a text\n" % number for number in range(200))
PAGE = b"\n<!DOCTYPE HTML>\n<html><head><title>503\n Service Unavailable</title></head></html>"
JSON_LINES = b"".join(json.dumps({"id": n, "text": f"text {n}"}).encode() + b"\n" for n in range(900))


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"]}), sink)
    return sink.getvalue()


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.txt", content)
    return sink.getvalue()


def look(path: Path, form: str = "cc100") -> int:
    return num_lines(first_chunk(Corpus("c", form, ("en",) if form == "cc100" else ("en", "fr"), (path,))))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", gzip.compress(TEXT), r"its content is gzip, its name says otherwise; give it a name that ends in \.gz"),
        ("a.gz", lzma.compress(TEXT), r"content is xz, .* ends in \.xz"),
        ("a.xz", bz2.compress(TEXT), r"content is bzip2, .* ends in \.bz2"),
        ("a.txt", zipped(TEXT), r"content is zip, .* ends in \.zip"),
        ("a.txt", zstandard.compress(TEXT), r"content is zstandard, .* ends in \.zst"),
        ("a.xz", lzma.compress(TEXT, lzma.FORMAT_ALONE), "lzma .*unlzma"),
        ("a.txt", parquet(), r"content is Parquet, .* ends in \.parquet"),
        ("a.txt", pickle.dumps([1] * 100, 4) + b"\0", "content is pickle"),
        ("a.txt", PAGE, r"a web page \(503 Service Unavailable\); expected text in the format cc100"),
        ("a.txt.gz", gzip.compress(PAGE), "a web page"),
        ("a.txt.zip", zipped(PAGE), "a web page"),
        ("a.txt", JSON_LINES, "JSON, an object a line"),
        ("a.txt.xz", lzma.compress(JSON_LINES), "JSON, an object a line"),
        ("a.txt", b'{"text": "' + b"x" * 30_000 + b'"}\n', "JSON, an object a line"),
        ("a.txt.gz", gzip.compress(gzip.compress(os.urandom(9000))), "holds gzip inside"),
        ("a.gz", tarred({"a.en": TEXT}), r"holds a tar archive; give it a name such as a\.tar\.gz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",  # packed bytes hold the time
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        look(tmp_path / name)
    assert str(error.value).startswith(f"corpus c: {tmp_path / name}: ")
    assert "\n" not in str(error.value)


def test_both_sides_of_two_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(TEXT)
    (tmp_path / "a.fr").write_bytes(PAGE)
    with pytest.raises(InputError, match=r"a\.fr: a web page"):
        first_chunk(Corpus("c", "moses", ("en", "fr"), (tmp_path / "a.en", tmp_path / "a.fr")))


@pytest.mark.parametrize(
    "text",
    [
        "{curly} is a word",
        "{",
        "<b>bold</b>",
        "<p>html is not far",
        "BZh is a name",
        "ORC ORC ORC",
        "PK",
        "%PDF-1.4 is a file",
    ],
)
def test_text_that_looks_like_something_else_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(f"{text}\nmore\n")
    assert look(tmp_path / "a.txt") == 2


def test_a_pipe_standard_input_and_a_folder_are_refused_as_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "a pipe, and a build reads"), ("-", "standard input is read once"), (".", "a folder")):
        with pytest.raises(InputError, match=message):
            look(tmp_path / name)


def test_sides_whose_names_are_those_of_each_others_language_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"Guten Tag\n"))
    (tmp_path / "train.en").write_bytes(b"Good day\n")
    files = (tmp_path / "train.de.gz", tmp_path / "train.en")
    with pytest.raises(InputError, match=r"train\.de\.gz: named as de, .* write languages: \[de, en\]"):
        first_chunk(Corpus("c", "moses", ("en", "de"), files))
    assert num_lines(first_chunk(Corpus("c", "moses", ("de", "en"), files))) == 1

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
from prep_samples import read, tarred

from data_prep.catalog import Corpus
from data_prep.readers import first_chunk, num_lines, sniffing
from data_prep.readers.documents import NOT_JSON
from ernie_m.base.console import InputError

TEXT = b"".join(b"line %d of a text\n" % number for number in range(200))
PAGE = b"\n<!DOCTYPE HTML>\n<html><head><title>503\n Service Unavailable</title></head></html>"
ERROR_PAGE = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
JSON_LINES = b"".join(json.dumps({"id": n, "text": f"text {n}"}).encode() + b"\n" for n in range(900))


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"]}), sink)
    return sink.getvalue()


def arrow_stream() -> bytes:
    sink, batch = io.BytesIO(), pa.table({"text": ["a", "b"]})
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_table(batch)
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
        ("a.tar.gz", tarred({"a.en": gzip.compress(TEXT)}), "holds gzip inside"),
        ("a.tar.gz", tarred({"a.en": TEXT, "b.en": TEXT}), r"both a\.en and b\.en are a text; expected one"),
        *(("a.txt", pickle.dumps([1] * 100, protocol) + b"\0", "content is pickle") for protocol in (2, 3, 5)),
        ("a.txt", b"\xef\xbb\xbf" + PAGE, "a web page"),
        ("a.txt", b"<!-- a -->\n<!-- b -->" + PAGE, "a web page"),
        ("a.txt", b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html>', "a web page"),
        ("a.txt", b"<head><title>302 Found</title></head>", r"a web page \(302 Found\)"),
        ("a.txt", ERROR_PAGE, "XML; expected text in the format cc100"),
        ("a.txt", json.dumps([{"text": f"text {n}"} for n in range(9)]).encode(), r"JSON, one list.*jq -c"),
        ("a.txt", json.dumps([{"text": f"text {n}"} for n in range(9)], indent=1).encode(), "JSON, one list"),
        ("a.txt", POINTER, r"content is a pointer of Git LFS, not text; `git lfs pull` brings the file itself"),
        ("a.txt.gz", POINTER, "pointer of Git LFS"),
        ("a.txt", b"%PDF-1.1\n1 0 obj\n", "content is PDF"),
        ("a.txt", b"{\\rtf1\\ansi text}", "content is RTF"),
        ("a.txt.gz", gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\n\r\ntext\n"), "content is WARC"),
        ("a.txt", b"\x93NUMPY\x01\0v\0{'descr': '<i8'}\n" + bytes(90), "content is NumPy"),
        ("a.txt", arrow_stream(), r"content is Arrow \(a stream\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",  # packed bytes hold the time
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        look(tmp_path / name)
    assert str(error.value).startswith(f"corpus c: {tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_a_packed_table_is_told_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(parquet()))
    with pytest.raises(InputError, match="its content is gzip, expected Parquet; unpack it"):
        first_chunk(Corpus("c", "parquet", ("en",), (tmp_path / name,)))


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
        "<?xml version='1.0'?><a/> is how a file begins\nthen come lines\nof text",
        '[{"a": 1}] is a list\nof one\nobject',
        "version https://git-lfs.github.com is an address",
    ],
)
def test_text_that_looks_like_something_else_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(f"{text}\nmore\n")
    assert look(tmp_path / "a.txt") == 2 + text.count("\n")


def test_many_comments_in_front_of_what_is_no_web_page_are_looked_at_once() -> None:
    """A pattern that tried each way to share them out would not come back."""
    assert not sniffing.WEB_PAGE.match(b"<!-- a -->" * 1600)


@pytest.mark.parametrize("end", ["tar", "tgz", "tar.gz", "tar.xz", "tar.bz2", "tar.zst"])
def test_of_a_tar_with_one_text_that_text_is_read(tmp_path: Path, end: str) -> None:
    pack = {"tar": bytes, "tgz": gzip.compress, "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
    plain = tarred({"README": b"about", "x/a.txt": TEXT, "x/._a.txt": b"\0"}, "w")
    path = tmp_path / f"a.{end}"
    path.write_bytes(pack.get(end.rpartition(".")[2], zstandard.compress)(plain))
    assert [record.texts[0] for record in read(Corpus("c", "documents", ("en",), (path,)))] == TEXT.decode().splitlines()
    path.write_bytes(path.read_bytes().replace(plain, tarred({"README": b"about"}, "w")) if end == "tar" else b"")
    with pytest.raises(InputError, match="no member is a text; it holds README" if end == "tar" else "empty"):
        look(path)


@pytest.mark.parametrize(
    ("content", "way_out"),
    [
        (TEXT.decode().encode("utf-16"), "iconv -f UTF-16"),
        (TEXT.decode().encode("utf-16-be"), "iconv -f UTF-16"),
        (("坐在垫子上" * 9 + "\n").encode("utf-16") * 9, "iconv -f UTF-16"),
        (TEXT.decode().encode("utf-32"), "iconv -f UTF-32"),
        ("über die Brücke\n".encode("latin-1") * 9, "an older encoding; convert it, e.g. `iconv -f ISO-8859-1"),
        ("坐在垫子上\n".encode("gb18030") * 9, "an older encoding"),
        (bytes(range(256)) * 99, "a file of some program, not text"),
        (bytes(9999), r"empty space \(NUL\).*download it again"),
    ],
)
def test_what_is_not_utf_8_is_told_with_the_way_out_that_fits(tmp_path: Path, content: bytes, way_out: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"lines are not UTF-8 text; expected UTF-8; .*{way_out}"):
        look(tmp_path / "a.txt")


@pytest.mark.parametrize("joint", [",\n", "\n\x1e", "}\n{"])
def test_objects_that_do_not_stand_alone_on_their_lines_are_refused(tmp_path: Path, joint: str) -> None:
    (tmp_path / "a.jsonl").write_text(joint.join(json.dumps({"text": f"text {n}"}) for n in range(9)))
    with pytest.raises(InputError, match=r"of the first .* lines are no JSON objects; expected an object a line"):
        read(Corpus("c", "jsonl", ("en",), (tmp_path / "a.jsonl",)))


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


def test_a_few_long_lines_that_are_no_objects_do_not_speak_for_a_file(tmp_path: Path) -> None:
    """The lines of the first stretch, and those behind it, are judged together."""
    good = json.dumps({"text": "y" * 1000}) + "\n"
    (tmp_path / "a.jsonl").write_text("{" + "x" * 700_000 + "\n" + good * 99)
    records = read(Corpus("c", "jsonl", ("en",), (tmp_path / "a.jsonl",)))
    assert [record.reason for record in records] == [NOT_JSON] + [None] * 99

"""Parquet of strangers: the rows that Arrow reads, no page in memory that is too large; what is forged is one line."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from prep_samples import read

from data_prep import readers
from data_prep.catalog import Corpus
from data_prep.limits import DEFAULT_LIMITS, Limits
from data_prep.readers.lines import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from data_prep.readers.parquet_pages import columns, row_groups
from data_prep.readers.parquet_values import Texts, integers, unpacked
from data_prep.readers.thrift import DamagedError
from data_prep.records import no_count
from ernie_m.base.console import InputError

MIB = 1 << 20
CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
KINDS = {
    "text": pa.string(),
    "long text": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def corpus(folder: Path, texts: Any, limits: Limits = DEFAULT_LIMITS, **options: Any) -> Corpus:
    path = folder / "a.parquet"
    if texts is not None:
        pyarrow.parquet.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), path, **options)
    return Corpus("c", "parquet", ("en",), (path,), limits=limits)


def found(of: Corpus) -> list[tuple[str, str | None]]:
    return [(record.texts[0][:20], record.reason) for record in read(of)]


def rows(of: Corpus) -> list[str | None]:
    """As they come from the file, before anything is made of them."""
    lines = b"".join(content for chunk in readers.chunks(of, 1 << 12, no_count) for content in chunk.content)
    return [json.loads(line) for line in lines.splitlines()]


def peak_of(of: Corpus, chunk_bytes: int) -> int:
    """Bytes that Python holds at most while all chunks are taken, each dropped before the next."""
    tracemalloc.start()
    try:
        for chunk in readers.chunks(of, chunk_bytes, no_count):
            del chunk
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", CODECS)
def test_the_rows_are_those_that_arrow_reads(tmp_path: Path, compression: str, version: str, kind: str) -> None:
    draw = random.Random(f"{compression} {version} {kind}")
    path = tmp_path / "a.parquet"
    for is_optional, distinct, num_rows in (
        (True, 3, 700),
        (False, 400, 3000),
        (True, 1 << 20, 500),
        (True, 1, 90),
        (True, 2, 0),
    ):
        words = [None] if is_optional else []
        some = [*words, "", '"\\\n\x00\x1f\x7f', "ï»¿ 猫\u2028", *(str(n) * 9 for n in range(min(distinct, 1000)))]
        texts = [draw.choice(some) for _ in range(num_rows)]
        schema = pa.schema([pa.field("text", KINDS[kind], nullable=is_optional), pa.field("n", pa.list_(pa.int32()))])
        table = pa.table([pa.array(texts, KINDS[kind]), [[1, 2]] * num_rows], schema=schema)
        options = {"data_page_size": 900, "write_batch_size": 50, "row_group_size": 400, "data_page_version": version}
        for dictionary in (False, True):
            pyarrow.parquet.write_table(
                table,
                path,
                use_dictionary=dictionary,
                compression=compression,
                dictionary_pagesize_limit=draw.choice([500, MIB]),
                **options,
            )
            assert rows(corpus(tmp_path, None)) == pyarrow.parquet.read_table(path)["text"].to_pylist() == texts


def test_integers_of_any_width_are_unpacked() -> None:
    assert list(itertools.islice(integers(bytes([3, 0b10001000, 0b11000110, 0b11111010]), 3), 8)) == list(range(8))
    draw = random.Random(1)
    for width in (1, 2, 5, 8, 13, 20, 32):
        values = [draw.getrandbits(width) for _ in range(8 * 600)]
        packed = sum(value << width * place for place, value in enumerate(values)).to_bytes(600 * width, "little")
        run = b"\x06" + values[0].to_bytes(-(-width // 8), "little")
        found = integers(run + b"\xb1\x09" + packed, width)
        assert list(itertools.islice(found, 3 + len(values))) == [values[0]] * 3 + values
        with pytest.raises(DamagedError):
            next(found)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip"])
def test_memory_is_that_of_a_page_and_a_chunk(tmp_path: Path, compression: str) -> None:
    options = {"use_dictionary": False, "compression": compression, "data_page_size": 1 << 30, "write_batch_size": 1 << 20}
    for length, count in ((500, 2000), (1 << 16, 16)):  # a page of a MiB
        of = corpus(tmp_path, ["x" * length] * count, **options)
        assert peak_of(of, MIB) < 2.6 * MIB
        assert 0.9 * MIB < peak_of(of, 1 << 14) < 1.5 * MIB


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_page_beyond_the_limit_is_refused_by_name_before_it_is_unpacked(
    tmp_path: Path, version: str, compression: str
) -> None:
    texts = ["small", *["x" * 1000] * 200]
    options = {"compression": compression, "data_page_version": version, "use_dictionary": False}
    low = corpus(tmp_path, texts, Limits(parquet_page_bytes=1 << 16), **options)
    with pytest.raises(
        InputError, match=r"a\.parquet: a page of its column text has 2[01]\d,\d{3} bytes.*parquet_page_bytes: 65536}"
    ):
        peak_of(low, MIB)
    assert len(found(corpus(tmp_path, None, Limits(parquet_page_bytes=1 << 18)))) == 201


def test_a_dictionary_whose_texts_come_again_and_again_is_in_memory_once(tmp_path: Path) -> None:
    long = "x" * (MAX_LINE_BYTES + 1)
    texts = pa.DictionaryArray.from_arrays(pa.array([0, None, 1] * 15, pa.int32()), pa.array([long, "b"]))
    of = corpus(tmp_path, texts, dictionary_pagesize_limit=8 * MIB, store_schema=False)
    assert peak_of(of, 4 * MIB) < 10 * MIB
    assert found(of)[:3] == [('"' + "x" * 19, TOO_LONG), ("null", "no text under its key"), ("b", None)]
    with pytest.raises(InputError, match=r"a dictionary of its column text has 1,\d\d\d,\d\d\d bytes"):
        read(corpus(tmp_path, None, Limits(parquet_page_bytes=2 * MIB)))


def test_a_dictionary_serves_its_own_row_group(tmp_path: Path) -> None:
    path = corpus(tmp_path, ["a", "b"] * 4, row_group_size=4, compression="none").files[0]
    of = corpus(tmp_path, None)
    with open(path, "rb") as file:
        first, second = (list(pages) for pages in row_groups(file, footer_of(path), "text"))
        assert [page.is_dictionary for page in first] == [True, False]
        with pytest.raises(DamagedError):
            list(Texts(is_optional=True).of(file, second[1]))
    content = bytearray(path.read_bytes())
    content[second[0].start + 4] = ord("c")  # of the second dictionary
    path.write_bytes(content)
    assert found(of) == [("a", None), ("b", None)] * 2 + [("c", None), ("b", None)] * 2


def test_large_pages_make_smaller_chunks(tmp_path: Path) -> None:
    """So that page and chunk are one and a half chunks, or the chunk an eighth."""
    options = {"use_dictionary": False, "write_batch_size": 1 << 20, "data_page_size": 1 << 30}
    longest = {}
    for page in (1, 2, 3, 5, 8):  # eighths of a chunk of 80 kB
        of = corpus(tmp_path, ["x" * 97] * (page * 100) * 16, row_group_size=page * 100, **options)
        longest[page] = max(len(chunk.content[0]) for chunk in readers.chunks(of, 8 * 10_000, no_count)) // 1000
    assert longest == {1: 80, 2: 80, 3: 80, 5: 69, 8: 39}


def test_encodings_of_differences_are_refused_by_name(tmp_path: Path) -> None:
    for encoding in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"):
        of = corpus(tmp_path, ["a", "b"], use_dictionary=False, column_encoding={"text": encoding, "n": "PLAIN"})
        with pytest.raises(
            InputError, match=rf"column text has pages in the encoding {encoding}, expected PLAIN or a dictionary"
        ):
            read(of)


def test_a_long_footer_and_two_columns_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    of = corpus(tmp_path, ["a"] * 300, Limits(parquet_footer_bytes=1 << 12), row_group_size=1)
    with pytest.raises(
        InputError, match=r"its list of row groups and columns has [\d,]+ bytes.*parquet_footer_bytes: 4096}"
    ):
        read(of)
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="several columns text"):
        read(corpus(tmp_path, None))


def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path: Path) -> None:
    offsets, content = pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xff\xfeok")
    assert found(corpus(tmp_path, pa.Array.from_buffers(pa.string(), 2, [None, offsets, content]))) == [
        ('"\\xff\\xfe"', NOT_UTF8),
        ("ok", None),
    ]


def footer_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[-8 - int.from_bytes(content[-8:-4], "little") : -8]


def test_a_footer_that_is_cut_or_forged_is_damage(tmp_path: Path) -> None:
    path = corpus(tmp_path, ["a", "b"]).files[0]
    footer = footer_of(path)
    with open(path, "rb") as file:

        def values(of: bytes) -> list[list[int]]:
            return [[page.num_values for page in pages] for pages in row_groups(file, of, "text")]

        assert values(footer) == [[2, 2]]
        for stop in range(len(footer)):
            with pytest.raises(DamagedError):
                values(footer[:stop])
        for forged in (b"\x49" + b"\x1c" * 10**5, b"\x49\xfc\xff\xff\xff\xff\x7f", b"\x49\x8c" + b"\xff" * 10**4):
            with pytest.raises(DamagedError):
                values(forged)
            with pytest.raises(DamagedError):
                list(columns(forged))


def test_a_footer_of_many_columns_and_row_groups_takes_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    column = b"\x15\x0c\x25\x02\x18\x04name\x25\x00\x00"
    group = b"\x19\x0c\x16\x00\x16\x00\x00"
    for footer in (
        b"\x15\x02\x19\xfc\xd1\x0f\x48\x01s\x15\xa0\x1f\x00" + column * 2000 + b"\x16\x00\x19\x0c\x00",
        b"\x15\x02\x19\x2c\x48\x01s\x15\x02\x00" + column + b"\x16\x00\x19\xfc\xd0\x0f" + group * 2000 + b"\x00",
    ):
        path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        tracemalloc.start()
        with pytest.raises(InputError, match=r"no column text; it has name"):
            read(corpus(tmp_path, None))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * len(footer)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip"])
def test_a_byte_that_is_altered_is_a_row_or_one_line(tmp_path: Path, compression: str) -> None:
    draw = random.Random(compression)
    path = corpus(tmp_path, ["a text", None, "b" * 40] * 20, compression=compression, row_group_size=30).files[0]
    content, refused = path.read_bytes(), 0
    for _ in range(100):
        altered = bytearray(content)
        altered[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(altered)
        try:
            list(readers.chunks(corpus(tmp_path, None), 1 << 12, no_count))
        except InputError:
            refused += 1
    assert 5 < refused < 100


def test_what_a_page_unpacks_to_is_as_long_as_its_header_says() -> None:
    for codec, name in {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}.items():
        packed = pa.Codec(name).compress(b"text" * 100, asbytes=True)
        assert unpacked(packed, codec, 400) == b"text" * 100
        for size in (0, 399, 401):
            with pytest.raises((DamagedError, pa.ArrowException, OSError)):
                unpacked(packed, codec, size)

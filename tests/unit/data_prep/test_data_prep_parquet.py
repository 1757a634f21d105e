"""Parquet of strangers: no page is unpacked that may be too large, and what is forged is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from prep_samples import read

from data_prep.catalog import Corpus
from data_prep.limits import DEFAULT_LIMITS, Limits
from data_prep.readers.lines import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from data_prep.readers.parquet import rows_at_once
from data_prep.readers.parquet_pages import DamagedError, Page, pages
from ernie_m.base.console import InputError

MIB = 1 << 20


def corpus(folder: Path, texts: Any, limits: Limits = DEFAULT_LIMITS, **options: Any) -> Corpus:
    path = folder / "a.parquet"
    if texts is not None:
        pyarrow.parquet.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), path, **options)
    return Corpus("c", "parquet", ("en",), (path,), limits=limits)


def found(of: Corpus) -> list[tuple[str, str | None]]:
    return [(record.texts[0][:20], record.reason) for record in read(of)]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_page_beyond_the_limit_is_refused_by_name_before_it_is_unpacked(
    tmp_path: Path, version: str, compression: str
) -> None:
    texts = ["small", *["x" * 1000] * 200]
    options = {"compression": compression, "data_page_version": version, "use_dictionary": False}
    low = corpus(tmp_path, texts, Limits(parquet_page_bytes=1 << 16), **options)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(
        InputError, match=r"a\.parquet: a page of its column text has 20\d,\d{3} bytes.*parquet_page_bytes: 65536}"
    ):
        read(low)
    assert pa.default_memory_pool().max_memory() < before + MIB
    assert len(found(corpus(tmp_path, None, Limits(parquet_page_bytes=1 << 18)))) == 201


def test_a_dictionary_whose_texts_come_again_and_again_is_in_memory_once(tmp_path: Path) -> None:
    long = "x" * (MAX_LINE_BYTES + 1)
    texts = pa.DictionaryArray.from_arrays(pa.array([0, None, 1] * 15, pa.int32()), pa.array([long, "b"]))
    before = pa.default_memory_pool().max_memory()
    lines = found(corpus(tmp_path, texts, dictionary_pagesize_limit=8 * MIB, store_schema=False))
    assert lines[:3] == [('"' + "x" * 19, TOO_LONG), ("null", "no text under its key"), ("b", None)]
    assert pa.default_memory_pool().max_memory() < before + 12 * MIB
    with pytest.raises(InputError, match=r"a page of its column text has 1,048,5\d\d bytes"):
        read(corpus(tmp_path, None, Limits(parquet_page_bytes=2 * MIB)))


def test_rows_of_large_pages_come_one_by_one() -> None:
    of = Corpus("c", "parquet", ("en",), (Path("a.parquet"),), limits=Limits(parquet_page_bytes=MIB))
    assert rows_at_once([Page(MIB, 1, 0), Page(100, 1000, 0)], of) == 1
    assert rows_at_once([Page(MIB, 8, 0)], of) == 8
    assert rows_at_once([Page(MIB // 8, 0, 0), Page(MIB, 10**6, 8)], of) == rows_at_once([], of) > 100


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


def test_a_footer_that_is_cut_or_forged_is_damage(tmp_path: Path) -> None:
    path = corpus(tmp_path, ["a", "b"]).files[0]
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    with open(path, "rb") as file:
        assert [[page.num_values for page in of_group] for of_group in pages(file, footer, "text")] == [[0, 2]]
        for stop in range(length):
            with pytest.raises(DamagedError):
                list(pages(file, footer[:stop], "text"))
        for forged in (b"\x49" + b"\x1c" * 10**5, b"\x49\xfc\xff\xff\xff\xff\x7f", b"\x49\x8c" + b"\xff" * 10**4):
            with pytest.raises(DamagedError):
                list(pages(file, forged, "text"))

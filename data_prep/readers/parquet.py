"""Parquet: streamed in batches of rows, of which only the text column is read; each row becomes a line, a JSON string.

Arrow unpacks a page whole, and what a file says of its pages at its end may be a lie: so the headers of the pages of a row
group are read before any of them is unpacked. The column is read as a dictionary, so that a text that a page holds once and
names a million times is in memory once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from data_prep.catalog import Corpus
from data_prep.limits import Expansion, Limits, refuse
from data_prep.readers.lines import MAX_LINE_BYTES
from data_prep.readers.parquet_pages import DamagedError, Page, pages
from data_prep.readers.streams import require_content
from data_prep.records import Chunk, Count
from ernie_m.base.console import InputError

ROWS_AT_ONCE = 256
STREAM_BYTES = 1 << 16
SHARE_OF_DICTIONARY = 4  # of what a page may take: Arrow copies it, and writers end theirs at a MiB
SHOWN = 50
TAIL = 8  # the footer's length and the mark that ends the file
PLAIN = 0
ENCODINGS = (-1, PLAIN, 2, 8)
"""PLAIN, and places in a dictionary: no value takes more than the page that it stands in."""
DELTA = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of rows. Raises InputError for a damaged file, one beyond the limits or one without the text column."""
    path = corpus.files[0]
    require_content(path)
    footer = _footer(path, corpus.limits)
    index, size, lines = 0, 0, []
    total, seen = path.stat().st_size, 0
    expansion = Expansion(path, corpus.limits)
    expansion.add(packed=total)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_column(corpus, file.schema_arrow)
        options = {"read_dictionary": [corpus.text], "pre_buffer": False, "buffer_size": STREAM_BYTES}
        with pyarrow.parquet.ParquetFile(path, **options) as file:
            num_rows = max(1, file.metadata.num_rows)
            for batch in _batches(file, footer, corpus):
                for line in _lines(batch.column(0)):
                    lines.append(line)
                    size += len(line)
                    expansion.add(plain=len(line))
                    if size >= chunk_bytes:
                        yield Chunk(index, (b"".join(lines),))
                        index, size, lines = index + 1, 0, []
                before, seen = seen, seen + batch.num_rows
                count(total * seen // num_rows - total * before // num_rows)
    except DamagedError:
        raise InputError(f"{path}: damaged or no Parquet file (its footer or a page's header); download it again") from None
    except (pa.ArrowException, OSError, IndexError, UnicodeDecodeError) as error:  # places and names are Arrow's to check
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: truncated, damaged or no Parquet file ({error}); download it again") from None
    if lines:
        yield Chunk(index, (b"".join(lines),))


def _batches(file: pyarrow.parquet.ParquetFile, footer: bytes, corpus: Corpus) -> Iterator[pa.RecordBatch]:
    """Rows, a row group after the other; the pages of each are looked at first."""
    with open(corpus.files[0], "rb") as raw:
        for group, found in enumerate(pages(raw, footer, corpus.text)):
            rows = rows_at_once(found, corpus)
            yield from file.iter_batches(rows, row_groups=[group], columns=[corpus.text], use_threads=False)


def rows_at_once(found: list[Page], corpus: Corpus) -> int:
    """So many that they take no more than a page may. Raises InputError for pages beyond the limit."""
    path, most = corpus.files[0], corpus.limits.parquet_page_bytes
    for page in found:
        if page.size > (most if page.num_values else most // SHARE_OF_DICTIONARY):
            raise refuse(
                path, f"a page of its column {corpus.text} has {page.size:,} bytes", "parquet_page_bytes", corpus.limits
            )
        if page.encoding not in ENCODINGS:
            encoding = DELTA.get(page.encoding, f"number {page.encoding}")
            raise InputError(
                f"{path}: column {corpus.text} has pages in the encoding {encoding}, expected PLAIN or a dictionary; "
                "write the file again, e.g. by pyarrow.parquet.write_table"
            )
    largest = max((page.size / page.num_values for page in found if page.encoding == PLAIN and page.num_values), default=1)
    return max(1, min(ROWS_AT_ONCE, int(most / max(1, largest))))


def _lines(texts: pa.DictionaryArray) -> Iterator[bytes]:
    """Rows as JSON strings; what is too long for a line is cut behind the limit, and bad bytes stay bad."""
    kind = pa.large_binary() if pa.types.is_large_string(texts.dictionary.type) else pa.binary()
    values = texts.dictionary.view(kind)
    for place in texts.indices.to_pylist():
        content = None if place is None else values[place].as_py()
        text = None if content is None else content[: MAX_LINE_BYTES + 1].decode("utf-8", "surrogateescape")
        yield json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def _footer(path: Path, limits: Limits) -> bytes:
    """What the end of the file says of its row groups; nothing of a file without such an end, which Arrow refuses."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - TAIL))
        length = int.from_bytes(file.read(4), "little")
        if length > size - TAIL:
            return b""
        if length > limits.parquet_footer_bytes:
            raise refuse(path, f"its list of row groups and columns has {length:,} bytes", "parquet_footer_bytes", limits)
        file.seek(size - TAIL - length)
        return file.read(length)


def _require_column(corpus: Corpus, schema: pa.Schema) -> None:
    names = schema.names
    if names.count(corpus.text) != 1:
        many = "several columns" if corpus.text in names else "no column"
        raise InputError(f"{corpus.files[0]}: {many} {corpus.text}; it has {_listed(names)}; give one of them as `text`")
    kind: Any = schema.field(corpus.text).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"{corpus.files[0]}: column {corpus.text} is {kind}, expected text")


def _listed(names: list[str]) -> str:
    shown = [name[:SHOWN] for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

"""Where the texts of a Parquet file stand: its columns, and the pages of one of them, by their headers.

The footer names the columns, and the column chunks of each row group; a column chunk is a sequence of pages, each behind a
header that says what it takes. Both are structs of Thrift's (https://github.com/apache/parquet-format, parquet.thrift). They
are read here and not by Arrow, which takes a hundred times the bytes of a footer made for that, and which a forged one ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from data_prep.readers.thrift import Compact, DamagedError, Wanted

HEADER_BYTES = (1 << 10, 1 << 20)
"""Read of a page's header at first, and at most: statistics of long texts may stand in it."""
TEXT = "text"
KINDS = ("boolean", "int32", "int64", "int96", "float", "double", "binary", "fixed_size_binary")
# fields of the structs, by their numbers
SCHEMA, NUM_ROWS, ROW_GROUPS = 2, 3, 4  # FileMetaData
KIND, REPETITION, NAME, NUM_CHILDREN, OLD_MEANING, MEANING = 1, 3, 4, 5, 6, 10  # SchemaElement
BYTE_ARRAY, OPTIONAL, REPEATED, OLD_UTF8, STRING = 6, 1, 2, 0, 1  # values of these
COLUMNS, ROWS = 1, 3  # RowGroup
METADATA = 3  # ColumnChunk
PATH, CODEC, PACKED_SIZE, DATA_PLACE, DICTIONARY_PLACE = 3, 4, 7, 9, 11  # ColumnMetaData
UNPACKED, PACKED, DATA, DICTIONARY, DATA_V2 = 2, 3, 5, 7, 8  # PageHeader
NUM_VALUES, ENCODING, LEVEL_ENCODING = 1, 2, 3  # DataPageHeader; but for the last, DictionaryPageHeader
ENCODING_V2, LEVELS, REPETITION_LEVELS, IS_PACKED = 4, 5, 6, 7  # DataPageHeaderV2
RLE = 3
NOT_PACKED = 0


def these(*fields: int) -> Wanted:
    """All of each."""
    return {field: {} for field in fields}


ELEMENT: Wanted = {**these(KIND, REPETITION, NAME, NUM_CHILDREN, OLD_MEANING), MEANING: these(STRING)}
COLUMN_CHUNK: Wanted = {METADATA: these(PATH, CODEC, PACKED_SIZE, DATA_PLACE, DICTIONARY_PLACE)}
HEADER: Wanted = {
    **these(UNPACKED, PACKED),
    DATA: these(NUM_VALUES, ENCODING, LEVEL_ENCODING),
    DICTIONARY: these(NUM_VALUES, ENCODING),
    DATA_V2: these(NUM_VALUES, ENCODING_V2, LEVELS, REPETITION_LEVELS, IS_PACKED),
}


class Column(NamedTuple):
    """At the top of a table."""

    name: str
    kind: str
    """TEXT, or what else stands in it."""
    is_optional: bool


class Page(NamedTuple):
    """What a header says."""

    start: int
    """Place of its content in the file."""
    packed: int
    """Bytes there."""
    unpacked: int
    """Bytes of it in memory."""
    codec: int
    """What packed it, or NOT_PACKED."""
    num_values: int
    """Rows, or entries of a dictionary."""
    encoding: int
    """Of its values."""
    is_dictionary: bool = False
    levels: int | None = None
    """Bytes of levels in front, which are never packed; None where they are packed with the values and say their length."""

    @property
    def size(self) -> int:
        """Bytes in memory while it is unpacked."""
        return self.packed + (0 if self.codec == NOT_PACKED else self.unpacked)


@contextmanager
def kinds_checked() -> Iterator[None]:
    """Fields that lack, or are of another kind, are damage."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        raise DamagedError from None


def num_rows(footer: bytes) -> int:
    """Rows of the file, as it says. Raises DamagedError."""
    content = Compact(footer)
    for number, kind in content.fields():
        value = content.value(kind)
        if number == NUM_ROWS and isinstance(value, int):
            return value
    raise DamagedError


def columns(footer: bytes) -> Iterator[Column]:
    """All at the top; those within others are passed over. Raises DamagedError."""
    within = 0
    with kinds_checked():
        for number, element in enumerate(_elements(Compact(footer))):
            children = element.get(NUM_CHILDREN, 0)
            if children < 0:
                raise DamagedError
            if number == 0:  # the table
                continue
            if within:
                within += children - 1
                continue
            within = children
            yield Column(
                element[NAME].decode(errors="backslashreplace"), _kind(element), element.get(REPETITION) == OPTIONAL
            )


def _elements(content: Compact) -> Iterator[dict[int, Any]]:
    for number, kind in content.fields():
        if number == SCHEMA:
            for one in content.kinds(kind):
                yield content.value(one, ELEMENT)
            return
        content.value(kind)
    raise DamagedError


def _kind(element: dict[int, Any]) -> str:
    if element.get(REPETITION) == REPEATED:
        return "a list"
    if KIND not in element:
        return "a list or struct"
    is_text = element.get(OLD_MEANING) == OLD_UTF8 or STRING in element.get(MEANING, {})
    return TEXT if element[KIND] == BYTE_ARRAY and is_text else KINDS[element[KIND]]


def row_groups(file: IO[bytes], footer: bytes, column: str) -> Iterator[Iterator[Page]]:
    """Of each row group, the pages of a column; to be taken before the next group is. Raises DamagedError."""
    content = Compact(footer)
    with kinds_checked():
        for number, kind in content.fields():
            if number != ROW_GROUPS:
                content.value(kind)
                continue
            for _ in content.kinds(kind):
                yield _of_group(file, *_group(content, [column.encode()]))


def _group(content: Compact, path: list[bytes]) -> tuple[dict[int, Any], int]:
    """(its column chunk, rows) of a row group."""
    found, rows = None, None
    for number, kind in content.fields():
        if number == COLUMNS:
            for one in content.kinds(kind):
                chunk = content.value(one, COLUMN_CHUNK)[METADATA]
                found = chunk if chunk[PATH] == path else found
        else:
            value = content.value(kind)
            rows = value if number == ROWS else rows
    if found is None or rows is None:
        raise DamagedError
    return found, rows


def _of_group(file: IO[bytes], chunk: dict[int, Any], rows: int) -> Iterator[Page]:
    with kinds_checked():
        start = chunk[DATA_PLACE]
        if chunk.get(DICTIONARY_PLACE, 0) > 0:
            start = min(start, chunk[DICTIONARY_PLACE])
        stop = start + chunk[PACKED_SIZE]
        while rows > 0:
            page = _page(file, start, stop, chunk[CODEC])
            rows -= 0 if page.is_dictionary else page.num_values
            if rows < 0:
                raise DamagedError
            if page.num_values or page.is_dictionary:
                yield page
            start = page.start + page.packed


def _page(file: IO[bytes], start: int, stop: int, codec: int) -> Page:
    fields, length = _header(file, start, stop)
    packed, unpacked = fields[PACKED], fields[UNPACKED]
    if min(start, packed, unpacked) < 0:
        raise DamagedError
    start += length
    if old := fields.get(DATA) or fields.get(DICTIONARY):
        if old.get(LEVEL_ENCODING, RLE) != RLE:
            raise DamagedError
        page = Page(start, packed, unpacked, codec, old[NUM_VALUES], old[ENCODING], DATA not in fields)
    elif new := fields.get(DATA_V2):
        if new[REPETITION_LEVELS] or not 0 <= new[LEVELS] <= min(packed, unpacked):
            raise DamagedError
        codec = codec if new.get(IS_PACKED, True) else NOT_PACKED
        page = Page(start, packed, unpacked, codec, new[NUM_VALUES], new[ENCODING_V2], levels=new[LEVELS])
    else:
        page = Page(start, packed, unpacked, codec, 0, 0)  # of an index
    if page.num_values < 0:
        raise DamagedError
    return page


def _header(file: IO[bytes], start: int, stop: int) -> tuple[dict[int, Any], int]:
    """(fields, length)."""
    for most in HEADER_BYTES:
        file.seek(start)
        header = Compact(file.read(max(0, min(most, stop - start))))
        with suppress(DamagedError):
            return header.struct(HEADER), header.place
    raise DamagedError

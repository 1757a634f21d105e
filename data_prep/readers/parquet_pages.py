"""The pages of a column of a Parquet file, by their headers: what each will take, before Arrow unpacks it whole.

The footer names the column chunks of each row group; a column chunk is a sequence of pages, each behind a header. Both are
structs in Thrift's compact protocol (https://github.com/apache/parquet-format, parquet.thrift;
https://github.com/apache/thrift, doc/specs/thrift-compact-protocol.md). Arrow goes the same way and takes what the headers
say, so that no page can be more. They are read here because pyarrow's own view of a forged footer ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, NamedTuple

HEADER_BYTES = (1 << 10, 1 << 20)
"""Read of a page's header at first, and at most: statistics of long texts may stand in it."""
DEEPEST = 12
# fields of the structs, by their numbers
ROW_GROUPS = 4  # FileMetaData
COLUMNS = 1  # RowGroup
METADATA = 3  # ColumnChunk
PATH, PACKED_SIZE, DATA_PLACE, DICTIONARY_PLACE = 3, 7, 9, 11  # ColumnMetaData
UNPACKED, PACKED, DATA, DICTIONARY, DATA_V2 = 2, 3, 5, 7, 8  # PageHeader
ENCODING = {DATA: 2, DICTIONARY: 2, DATA_V2: 4}
NUM_VALUES = 1
# kinds of values
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)


class DamagedError(Exception):
    """What stands there is no footer, or no header of a page."""


class Page(NamedTuple):
    """What a header says."""

    size: int
    """Bytes as they are packed or unpacked, whichever are more."""
    num_values: int
    """Rows; 0 for a dictionary."""
    encoding: int
    """Of its values; -1 for a page without values."""


def pages(file: IO[bytes], footer: bytes, column: str) -> Iterator[list[Page]]:
    """Of each row group, the pages of a column. Raises DamagedError."""
    try:
        for group in Compact(footer).struct()[ROW_GROUPS]:
            chunks = [chunk[METADATA] for chunk in group[COLUMNS]]
            own = [chunk for chunk in chunks if chunk[PATH] == [column.encode()]]
            yield [page for chunk in own for page in _of_chunk(file, chunk)]
    except (KeyError, TypeError, ValueError, OverflowError):  # fields that lack, or are of another kind
        raise DamagedError from None


def _of_chunk(file: IO[bytes], chunk: dict[int, Any]) -> Iterator[Page]:
    start = chunk[DATA_PLACE]
    if chunk.get(DICTIONARY_PLACE, 0) > 0:
        start = min(start, chunk[DICTIONARY_PLACE])
    stop = start + chunk[PACKED_SIZE]
    if start < 0:
        raise DamagedError
    while start < stop:
        fields, length = _header(file, start, stop)
        kind = next((kind for kind in ENCODING if kind in fields), None)
        described = fields[kind] if kind is not None else {}
        size = max(fields[UNPACKED], fields[PACKED])
        if min(fields[UNPACKED], fields[PACKED]) < 0:
            raise DamagedError
        num_values = 0 if kind in (None, DICTIONARY) else described[NUM_VALUES]
        yield Page(size, num_values, -1 if kind is None else described[ENCODING[kind]])
        start += length + fields[PACKED]


def _header(file: IO[bytes], start: int, stop: int) -> tuple[dict[int, Any], int]:
    """(fields, length)."""
    for most in HEADER_BYTES:
        file.seek(start)
        header = Compact(file.read(min(most, stop - start)))
        with suppress(DamagedError):
            return header.struct(), header.place
    raise DamagedError


class Compact:
    """Reads values of Thrift's compact protocol; DamagedError where none stands."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Field -> value."""
        if depth > DEEPEST:
            raise DamagedError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in INTEGERS:
            return self._integer()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in (BINARY, DOUBLE):
            return self._bytes(8 if kind == DOUBLE else self._natural())
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind in (LIST, SET, MAP) and depth < DEEPEST:
            return self._many(kind, depth + 1)
        raise DamagedError

    def _many(self, kind: int, depth: int) -> list[Any]:
        """Values one after the other; those of a map behind their keys."""
        if kind == MAP:
            count = self._natural()
            kinds = self._byte() if count else 0
            return [self._value(one, depth) for _ in range(count) for one in (kinds >> 4, kinds & 15)]
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._natural()
        return [self._value(head & 15, depth) for _ in range(count)]

    def _byte(self) -> int:
        if self.place >= len(self._content):
            raise DamagedError
        self.place += 1
        return self._content[self.place - 1]

    def _bytes(self, length: int) -> bytes:
        start, self.place = self.place, self.place + length
        if self.place > len(self._content):
            raise DamagedError
        return self._content[start : self.place]

    def _natural(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise DamagedError
        return value | byte << shift

    def _integer(self) -> int:
        value = self._natural()
        return (value >> 1) ^ -(value & 1)

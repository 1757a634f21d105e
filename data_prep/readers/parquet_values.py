"""The texts of a page, one after the other, so that no more of it is in memory than its bytes.

A page has a level for each row where the column is optional (0: no text); then the texts, each behind its length, or their
places in the dictionary of the row group (https://github.com/apache/parquet-format, Encodings.md).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from typing import IO

import numpy as np
import pyarrow as pa

from data_prep.readers.parquet_pages import NOT_PACKED, Page
from data_prep.readers.thrift import Compact, DamagedError

PLAIN = 0
ENCODINGS = (PLAIN, 2, 8)
"""PLAIN, and places in a dictionary: no text takes more than the page that it stands in."""
CODECS = {NOT_PACKED: "", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
STREAMED, UNCHECKED = ("gzip", "brotli"), ("snappy", "lz4_raw")
LENGTH_BYTES = 4
GROUPS_AT_ONCE = 512


class Texts:
    """Of the rows of one page after the other; a dictionary serves the pages that follow it, to the end of the row group."""

    def __init__(self, is_optional: bool) -> None:
        self._is_optional = is_optional
        self._dictionary: _Dictionary | None = None

    def of(self, file: IO[bytes], page: Page) -> Iterator[memoryview | None]:
        """Of each row its text or None; of a dictionary nothing. Raises DamagedError, or Arrow's errors of its codecs."""
        file.seek(page.start)
        levels = file.read(page.levels or 0)
        content = unpacked(file.read(page.packed - len(levels)), page.codec, page.unpacked - len(levels))
        if page.is_dictionary:
            self._dictionary = _Dictionary(content, page.num_values)
            return
        values = memoryview(content)
        if self._is_optional and page.levels is None:
            length = int.from_bytes(values[:LENGTH_BYTES], "little")
            levels, values = bytes(values[LENGTH_BYTES:][:length]), values[LENGTH_BYTES + length :]
        present: Iterable[int] = (
            islice(integers(levels, 1), page.num_values) if self._is_optional else repeat(1, page.num_values)
        )
        texts = plain(values) if page.encoding == PLAIN else self._of_places(values)
        for is_there in present:
            yield next(texts) if is_there else None

    def _of_places(self, values: memoryview) -> Iterator[memoryview]:
        if self._dictionary is None or not values:
            raise DamagedError
        for place in integers(values[1:], values[0]):
            yield self._dictionary[place]


class _Dictionary:
    """Texts by their places: four bytes each beside the page."""

    def __init__(self, content: bytes, count: int) -> None:
        self._content = memoryview(content)
        self._starts = array("I", (start for start, _ in islice(_spans(self._content), count)))

    def __getitem__(self, place: int) -> memoryview:
        """Raises DamagedError where there is none."""
        if place >= len(self._starts):
            raise DamagedError
        return next(plain(self._content[self._starts[place] - LENGTH_BYTES :]))


def unpacked(packed: bytes, codec: int, size: int) -> bytes:
    """What it was, if that is as long as said. Raises DamagedError, or Arrow's errors."""
    name = CODECS[codec]
    if not name or not packed:
        content = packed
    elif name in STREAMED:
        with pa.CompressedInputStream(pa.BufferReader(packed), name) as stream:
            content = stream.read(size + 1)
    elif name in UNCHECKED and size and _fits(packed, name, size - 1):  # the rest of `content` would be whatever memory held
        raise DamagedError
    else:
        content = pa.Codec(name).decompress(packed, size, asbytes=True)
    if len(content) != size:
        raise DamagedError
    return content


def _fits(packed: bytes, name: str, size: int) -> bool:
    try:
        pa.Codec(name).decompress(packed, size, asbytes=True)
    except (pa.ArrowException, OSError):
        return False
    return True


def plain(content: memoryview) -> Iterator[memoryview]:
    """Texts behind their lengths. Raises DamagedError when it is asked for more than there are."""
    return (content[start:stop] for start, stop in _spans(content))


def _spans(content: memoryview) -> Iterator[tuple[int, int]]:
    stop, end = 0, len(content)
    while True:
        start = stop + LENGTH_BYTES
        stop = start + int.from_bytes(content[stop:start], "little")
        if stop > end:
            raise DamagedError
        yield start, stop


def integers(content: bytes | memoryview, width: int) -> Iterator[int]:
    """Of `width` bits, in runs of one value or packed by eights. Raises DamagedError behind the last."""
    return chain.from_iterable(_runs(Compact(content), width))


def _runs(content: Compact, width: int) -> Iterator[Iterable[int]]:
    if width > 32:
        raise DamagedError
    while True:
        head = content.natural()
        if not head & 1:
            yield repeat(int.from_bytes(content.take(-(-width // 8)), "little"), head >> 1)
        elif not width:
            yield repeat(0, head >> 1 << 3)
        else:
            for first in range(0, head >> 1, GROUPS_AT_ONCE):
                groups = min(GROUPS_AT_ONCE, (head >> 1) - first)
                bits = np.unpackbits(np.frombuffer(content.take(groups * width), np.uint8), bitorder="little")
                padded = np.zeros((groups * 8, 32), np.uint8)
                padded[:, :width] = bits.reshape(-1, width)
                yield np.packbits(padded, axis=1, bitorder="little").view("<u4").ravel().tolist()

"""What is refused in a stranger's file: memory is bounded by a chunk, never by the file, and time grows as the text does.

A few hundred bytes of .bz2 can stand for gigabytes, one header or tag for as much as the file is long. What no corpus
needs is refused by name. A catalog may raise a limit for one corpus: `limits: {expansion: 5000}`.
"""

from __future__ import annotations

import io
from typing import Annotated

from data_prep.inputs import Input, raw
from ernie_m.base.config import Section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range

FREE_EXPANSION_BYTES = 1 << 30
"""So much text may come out of a packed file, however small it is."""


@section
class Limits(Section):
    """Of one corpus."""

    expansion: Annotated[int, Range(least=1, most=10**9)] = 1000
    """Bytes of text per packed byte, beyond the first GiB of text."""
    xz_memory_mib: Annotated[int, Range(least=1, most=1 << 16)] = 128
    """Memory that unpacking an .xz may need: `xz -9` takes 65 MiB, larger dictionaries more."""
    tar_header_bytes: Annotated[int, Range(least=512, most=1 << 30)] = 1 << 14
    """Header of one member of a tar archive, with its long name and attributes; of all members together 256 times that."""
    zip_directory_bytes: Annotated[int, Range(least=1 << 17, most=1 << 30)] = 1 << 21
    """The list of members in a zip archive."""
    parquet_page_bytes: Annotated[int, Range(least=1 << 16, most=1 << 31)] = 24 << 20
    """A page of a Parquet file's text column, packed and unpacked together: a thousand documents in what pyarrow writes."""
    parquet_footer_bytes: Annotated[int, Range(least=1 << 12, most=1 << 31)] = 1 << 22
    """The list of row groups and columns at the end of a Parquet file."""


DEFAULT_LIMITS = Limits()


def refuse(path: Input, found: str, key: str, limits: Limits) -> InputError:
    """The error of a file that goes beyond the limit `key`."""
    return InputError(
        f"{path}: {found}; no corpus needs that, so it is taken for damage or an attack; if you trust the file, raise "
        f"`limits: {{{key}: {getattr(limits, key)}}}` of this corpus in the catalog"
    )


class Expansion:
    """Compares what came out of a packed file with what went in."""

    def __init__(self, path: Input, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._packed = self._plain = 0

    def add(self, packed: int = 0, plain: int = 0) -> None:
        """Raise InputError when the text is out of all proportion to the file."""
        self._packed += packed
        self._plain += plain
        if self._plain > FREE_EXPANSION_BYTES and self._plain > self._limits.expansion * self._packed:
            found = f"its first {self._packed:,} bytes unpack to more than {self._plain:,}"
            raise refuse(self._path, found, "expansion", self._limits)


class ShortReads(io.BufferedReader):
    """A file of which a library may read only so much at once: what it wants in one piece, it keeps in memory."""

    def __init__(self, path: Input, most: int, most_reads: int | None = None) -> None:
        super().__init__(raw(path))
        self._size = path.stat().st_size
        self.most: int | None = most
        self.most_reads = most_reads
        self._num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._num_reads += 1
        if self.most_reads is not None and self._num_reads > self.most_reads:
            raise TooLongError(f"more than {self.most_reads:,} pieces")
        if size is None or size < 0:
            size = self._size - self.tell()
        if self.most is not None and size > self.most:
            raise TooLongError(f"{size:,}")
        return super().read(size)


class TooLongError(Exception):
    """More was asked for at once than a limit allows."""

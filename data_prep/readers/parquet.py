"""Parquet: streamed page by page, of which only those of the text column are read; each row becomes a line, a JSON string.

What a page takes is in its header, so that none is unpacked that would take more than the limit; its texts are cut out of
it one by one. Arrow, which copies a page two or three times, is there for its codecs alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from data_prep.catalog import Corpus
from data_prep.inputs import Input
from data_prep.limits import Expansion, Limits, refuse
from data_prep.readers.lines import MAX_LINE_BYTES
from data_prep.readers.parquet_pages import TEXT, Column, Page, columns, num_rows, row_groups
from data_prep.readers.parquet_values import CODECS, ENCODINGS, Texts
from data_prep.readers.streams import require_content
from data_prep.readers.thrift import DamagedError
from data_prep.records import Chunk, Count
from ernie_m.base.console import InputError

SHARE_OF_DICTIONARY = 4  # of what a page may take: it stays beside the pages that follow it, and writers end theirs at a MiB
SHOWN = 50
MARK = b"PAR1"
TAIL = 8  # the footer's length and the mark that ends the file
DELTA = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
ESCAPES = [(byte.encode(), json.dumps(byte)[1:-1].encode()) for byte in ("\\", '"', *map(chr, range(32)))]
"""JSON's, the backslash first: the bytes are searched ten times as fast as a text is decoded, escaped and encoded again."""


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of rows. Raises InputError for a damaged file, one beyond the limits or one without the text column."""
    path = corpus.files[0]
    require_content(path)
    index, content = 0, io.BytesIO()
    expansion = Expansion(path, corpus.limits)
    expansion.add(packed=path.stat().st_size)
    try:
        for text, page_bytes in _texts(corpus, count):
            expansion.add(plain=content.write(_line(text)))
            if content.tell() >= _room(chunk_bytes, page_bytes):
                chunk, content = Chunk(index, (content.getvalue(),)), io.BytesIO()
                index += 1
                yield chunk
                del chunk  # whoever took it may drop it
    except DamagedError:
        raise InputError(f"{path}: truncated, damaged or no Parquet file; download it again") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: truncated, damaged or no Parquet file ({error}); download it again") from None
    if content.tell():
        yield Chunk(index, (content.getvalue(),))


def _room(chunk_bytes: int, page_bytes: int) -> int:
    """How long a chunk may get beside a page: whoever takes it unpacks it too, and the page waits in memory meanwhile."""
    return max(chunk_bytes // 8, min(chunk_bytes, chunk_bytes * 3 // 2 - page_bytes))


def _texts(corpus: Corpus, count: Count) -> Iterator[tuple[memoryview | None, int]]:
    """Of each row, and the bytes of its page; `count` is told of the file's bytes in proportion to the rows."""
    path = corpus.files[0]
    footer = _footer(path, corpus.limits)
    column = _column(corpus, footer)
    total, rows, seen = path.stat().st_size, max(1, num_rows(footer)), 0
    with path.open("rb") as file:
        for pages in row_groups(file, footer, corpus.text):
            texts = Texts(column.is_optional)
            for page in pages:
                _check(page, corpus)
                for text in texts.of(file, page):
                    yield text, page.unpacked
                before, seen = seen, min(rows, seen + (0 if page.is_dictionary else page.num_values))
                count(total * seen // rows - total * before // rows)


def _check(page: Page, corpus: Corpus) -> None:
    """Raise InputError for a page that is not to be unpacked."""
    path, most = corpus.files[0], corpus.limits.parquet_page_bytes
    if page.size > (most // SHARE_OF_DICTIONARY if page.is_dictionary else most):
        found = f"a {'dictionary' if page.is_dictionary else 'page'} of its column {corpus.text} has {page.size:,} bytes"
        raise refuse(path, found, "parquet_page_bytes", corpus.limits)
    for found, known, expected in (
        (f"in the encoding {DELTA.get(page.encoding, page.encoding)}", page.encoding in ENCODINGS, "PLAIN or a dictionary"),
        (f"packed by codec {page.codec}", page.codec in CODECS, "none or " + ", ".join(filter(None, CODECS.values()))),
    ):
        if not known:
            raise InputError(
                f"{path}: column {corpus.text} has pages {found}, expected {expected}; "
                "write the file again, e.g. by pyarrow.parquet.write_table"
            )


def _line(text: memoryview | None) -> bytes:
    """A row as a JSON string, UTF-8 or not; what is too long for a line stays too long, and no longer."""
    if text is None:
        return b"null\n"
    content = bytes(text[: MAX_LINE_BYTES + 1])
    for byte, escaped in ESCAPES:
        content = content.replace(byte, escaped)
    return b'"%b"\n' % content[:MAX_LINE_BYTES]


def _footer(path: Input, limits: Limits) -> bytes:
    """What the end of the file says of its columns and row groups. Raises DamagedError for a file without such an end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        length = int.from_bytes(file.read(len(MARK)), "little")
        if file.read() != MARK or length > size - TAIL:
            raise DamagedError
        if length > limits.parquet_footer_bytes:
            raise refuse(path, f"its list of row groups and columns has {length:,} bytes", "parquet_footer_bytes", limits)
        file.seek(size - TAIL - length)
        return file.read(length)


def _column(corpus: Corpus, footer: bytes) -> Column:
    """The one of texts. Raises InputError."""
    own = list(islice((column for column in columns(footer) if column.name == corpus.text), 2))
    if len(own) != 1:
        many = "several columns" if own else "no column"
        raise InputError(f"{corpus.files[0]}: {many} {corpus.text}; it has {_listed(footer)}; give one of them as `text`")
    if own[0].kind != TEXT:
        raise InputError(f"{corpus.files[0]}: column {corpus.text} is {own[0].kind}, expected text")
    return own[0]


def _listed(footer: bytes) -> str:
    names = (column.name[:SHOWN] for column in columns(footer))
    shown = ", ".join(islice(names, SHOWN))
    more = sum(1 for _ in names)
    return shown + (f" and {more} more" if more else "")

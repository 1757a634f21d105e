"""From the files of a corpus to lines: each format can cut its files into chunks, and parse a chunk.

Cutting is the part that one process does for a stream, and cheap; parsing is done by whoever converts the chunk. Files are
streamed: memory is bounded by a chunk, never by the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from data_prep.catalog import Corpus
from data_prep.readers import cc100, documents, lines, moses, parquet, sampling, text_file, tmx, tsv, wikimatrix
from data_prep.readers.archives import is_tar
from data_prep.readers.sniffing import refuse_other_content
from data_prep.readers.text_file import Cut
from data_prep.records import Chunk, Count, Lines, no_count
from ernie_m.base.console import InputError

CHUNK_BYTES = 16 << 20
"""Nominal size of a chunk, in plain text: a second or two of work, and a shard of about as many bytes."""
SAMPLE_BYTES = 1 << 19


class Reader(NamedTuple):
    """How the files of one format are read."""

    chunks: Callable[[Corpus, int, Count], Iterator[Chunk]]
    """(corpus, nominal bytes of plain text, count) -> all of its chunks, in one pass."""
    parse: Callable[[Corpus, Chunk], Iterator[Lines]]
    at_empty_lines: bool | None = None
    """Of formats that are one text: whether chunks end at empty lines. Such files may be cut up without being read."""


MOSES = Reader(moses.chunks, moses.parse)
READERS: dict[str, Reader] = {
    "cc100": Reader(partial(text_file.chunks, at_empty_lines=True), cc100.parse, at_empty_lines=True),
    "moses": MOSES,
    "tmx": Reader(tmx.chunks, tmx.parse),
    "wikimatrix": Reader(partial(text_file.chunks, at_empty_lines=False), wikimatrix.parse, at_empty_lines=False),
    "multiun": MOSES,
    "iitb": MOSES,
    "jsonl": Reader(partial(text_file.chunks, at_empty_lines=False), documents.parse_jsonl, at_empty_lines=False),
    "parquet": Reader(parquet.chunks, documents.parse_parquet),
    "documents": Reader(partial(text_file.chunks, at_empty_lines=False), documents.parse_lines, at_empty_lines=False),
    "tsv": Reader(partial(text_file.chunks, at_empty_lines=False), tsv.parse, at_empty_lines=False),
}


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """All chunks of a corpus in one pass; `count` is told about input bytes as they are read."""
    return READERS[corpus.format].chunks(corpus, chunk_bytes, count)


def cuts(corpus: Corpus, chunk_bytes: int) -> list[Cut] | None:
    """The places of the chunks of a corpus whose file can be entered there; None for a stream."""
    if READERS[corpus.format].at_empty_lines is None:
        return None
    return text_file.cuts(corpus.files[0], chunk_bytes)


def cut_chunk(corpus: Corpus, cut: Cut) -> Chunk:
    """Read the chunk at one of the places that `cuts` gave."""
    return text_file.cut_chunk(corpus.files[0], cut, bool(READERS[corpus.format].at_empty_lines))


def all_chunks(corpus: Corpus, chunk_bytes: int) -> Iterator[Chunk]:
    """All chunks, one after the other, as a build of that many bytes a chunk cuts them."""
    places = cuts(corpus, chunk_bytes)
    if places is None:
        yield from chunks(corpus, chunk_bytes, no_count)
    else:
        yield from (cut_chunk(corpus, place) for place in places)


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """The lines of a chunk, some thousands at once."""
    return READERS[corpus.format].parse(corpus, chunk)


def num_lines(chunk: Chunk) -> int:
    """Lines (units) of a chunk, empty ones included."""
    return lines.num_lines(chunk.content[0])


def text_bytes(chunk: Chunk) -> int:
    """Plain text in a chunk: the bytes of its lines, or of its units' texts."""
    return sum(map(len, chunk.content))


def first_chunk(corpus: Corpus) -> Chunk:
    """The beginning of a corpus, so that a wrong path or file is known at once and not hours later.

    Raises InputError, naming the corpus, when its files are missing, not what they seem, or without any line.
    """
    with named(corpus):
        refuse_other_content(corpus)
        chunk = next(chunks(corpus, SAMPLE_BYTES, no_count), None)
        if chunk is None or not any(len(some.numbers) for some in parse(corpus, chunk)):
            raise InputError(f"{corpus.files[0]}: no usable line; expected text in the format {corpus.format}")
    return chunk


def sample(corpus: Corpus, most_text: int = sampling.MOST_TEXT) -> sampling.Sample:
    """Chunks from all over a corpus. Raises InputError, naming the corpus, as `first_chunk`."""
    with named(corpus):
        refuse_other_content(corpus)
        reader = READERS[corpus.format]
        found = None if reader.at_empty_lines is None else sampling.of_places(corpus, reader.at_empty_lines)
        if found is None:
            limit = most_text // (sampling.SLOW_SHARE if corpus.format == "tmx" else 1)
            stream = partial(chunks, corpus, sampling.PLACE_BYTES)
            found = sampling.of_stream(stream, text_bytes, input_bytes(corpus), limit)
        if not any(len(some.numbers) for chunk in found.chunks for some in parse(corpus, chunk)):
            raise InputError(f"{corpus.files[0]}: no usable line; expected text in the format {corpus.format}")
    return found


def input_bytes(corpus: Corpus) -> int:
    """About how many bytes `chunks` will count, for an ETA; a tar archive is read once a side. 0 for a missing file."""
    times = 2 if READERS[corpus.format] is MOSES and len(corpus.files) == 1 and is_tar(corpus.files[0]) else 1
    return times * sum(path.stat().st_size for path in corpus.files if path.is_file())


@contextlib.contextmanager
def named(corpus: Corpus) -> Iterator[None]:
    """Put the corpus's name in front of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"corpus {corpus.name}: {error}") from None

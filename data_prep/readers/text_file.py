"""Corpora of one text file: read in order, or, if it can be entered at many places, divided without reading it.

A plain file can be entered anywhere, an .xz file at its blocks (`xz -T` and `pixz` write many; the index at the end tells
where). All else is one stream, which one process reads for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import xz

from data_prep.catalog import Corpus
from data_prep.inputs import Input
from data_prep.limits import ShortReads, TooLongError
from data_prep.readers.archives import is_tar, is_zip, read_pieces
from data_prep.readers.cutting import cut_out, cut_stream
from data_prep.readers.lines import judge_encoding, some_at_once, split_lines, stretches
from data_prep.readers.streams import DECOMPRESSORS, damage_named, require_content
from data_prep.records import Chunk, Count

PIECE_BYTES = 1 << 18
MOST_INDEX_BYTES, MOST_INDEX_READS = 1 << 16, 1 << 15  # of an .xz file: 10,000 blocks in one stream, or 8,000 streams
MOST_NOMINAL_CHUNKS = 4  # a block larger than so many chunks is no place to cut at: a chunk is held in memory


@dataclass(frozen=True)
class Cut:
    """Chunk `index` lies between the borders behind two offsets of the plain text; a `stop` of None is the file's end."""

    index: int
    start: int
    stop: int | None


def chunks(corpus: Corpus, chunk_bytes: int, count: Count, at_empty_lines: bool) -> Iterator[Chunk]:
    """The file as chunks, in one pass."""
    pieces = read_pieces(corpus.files[0], count, corpus.limits)
    index = 0  # enumerate would keep a chunk until the next is there
    for content, starts_document in cut_stream(pieces, chunk_bytes, at_empty_lines):
        yield Chunk(index, (content,), starts_document)
        del content  # whoever took it may drop it
        index += 1  # noqa: SIM113 - see above


def cuts(path: Input, chunk_bytes: int) -> list[Cut] | None:
    """Where the file can be cut up, or None when it has to be read in one pass."""
    if is_zip(path) or is_tar(path):
        return None
    require_content(path)
    if path.suffix.lower() == ".xz":
        file = _enterable(path)
        if file is None:
            return None
        offsets, length = _grouped(file.block_boundaries, chunk_bytes), len(file)
    elif path.suffix.lower() not in DECOMPRESSORS:
        length = path.stat().st_size
        offsets = list(range(0, length, chunk_bytes))
    else:
        return None
    stretches = [stop - start for start, stop in pairwise([*offsets, length])]
    if len(offsets) < 2 or max(stretches) > MOST_NOMINAL_CHUNKS * chunk_bytes:
        return None
    return [Cut(i, start, stop) for i, (start, stop) in enumerate(pairwise([*offsets, None])) if start is not None]


def places(path: Input, count: int, size: int) -> tuple[list[Cut], int] | None:
    """Up to `count` stretches of about `size` bytes, evenly over a file that can be entered there; the bytes of its text.

    None for a file that is read in one pass. A file of about as many bytes is one stretch.
    """
    if is_zip(path) or is_tar(path) or (path.suffix.lower() in DECOMPRESSORS and path.suffix.lower() != ".xz"):
        return None
    require_content(path)
    if path.suffix.lower() == ".xz":
        file = _enterable(path)
        if file is None:
            return None
        borders, length = file.block_boundaries, len(file)
        if len(borders) < 2:
            return None
        starts = [borders[number * len(borders) // count] for number in range(count)]
    else:
        length = path.stat().st_size
        starts = [number * max(0, length - size) // max(1, count - 1) for number in range(count)]
    if length <= count * size:
        return [Cut(0, 0, None)], length
    starts = sorted(set(starts))
    return [Cut(i, start, start + size if start + size < length else None) for i, start in enumerate(starts)], length


def cut_chunk(path: Input, cut: Cut, at_empty_lines: bool) -> Chunk:
    """Read one chunk of a file that `cuts` divided; each block that it takes bytes from is checked completely."""

    def pieces_from(offset: int) -> Iterator[bytes]:
        if path.suffix.lower() == ".xz":
            file = _xz_file(path)
            file.seek(offset)
            while piece := file.read(PIECE_BYTES):
                yield bytes(piece)
        else:
            with path.open("rb") as plain:
                plain.seek(offset)
                while piece := plain.read(PIECE_BYTES):
                    yield piece

    with damage_named(path, "xz"):
        content, starts_document = cut_out(pieces_from, cut.start, cut.stop, at_empty_lines)
    return Chunk(cut.index, (content,), starts_document)


def lines_of(corpus: Corpus, chunk: Chunk) -> Iterator[tuple[int, Sequence[bytes]]]:
    """(index of the first in the chunk, some lines); the encoding of the file is judged by its first ones."""
    first = 0
    for content in stretches(chunk.content[0]):
        is_file_start = chunk.index == 0 and first == 0
        lines = split_lines(content, is_file_start)
        if is_file_start:
            judge_encoding(lines, str(corpus.files[0]))
        for index, some in some_at_once(lines):
            yield first + index, some
        first += len(lines)


def _enterable(path: Input) -> xz.XZFile | None:
    """An .xz file that can be entered at its blocks; None for one whose index is too large, which is read as a stream."""
    with damage_named(path, "xz"):
        try:
            return _xz_file(path)
        except TooLongError:
            return None


def _xz_file(path: Input) -> xz.XZFile:
    status = path.stat()
    return _opened_xz(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _opened_xz(path: Input, size: int, changed: int) -> xz.XZFile:
    """Open an .xz file, with its index of thousands of blocks kept from chunk to chunk until the file changes.

    Raises TooLongError when there are so many that they would fill the memory: such a file is read as a stream.
    """
    file = ShortReads(path, MOST_INDEX_BYTES, MOST_INDEX_READS)
    opened = xz.XZFile(file)
    file.most = file.most_reads = None
    return opened


def _grouped(boundaries: list[int], chunk_bytes: int) -> list[int]:
    """The block boundaries that stand at least a chunk apart."""
    offsets: list[int] = []
    for boundary in boundaries:
        if not offsets or boundary - offsets[-1] >= chunk_bytes:
            offsets.append(boundary)
    return offsets

"""Chunks from all over a corpus, for what is to be known before it is read: the head of a sorted file is not its like.

A file that can be entered anywhere is entered at `PLACES` places. A stream is read up to `most_text` bytes of its text,
which is cheap, and of the chunks passed about as many are kept as there are places, evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from data_prep.catalog import Corpus
from data_prep.readers import text_file
from data_prep.records import Chunk, Count

PLACES = 8
PLACE_BYTES = 1 << 15
MOST_TEXT = 4 << 20
"""Of a stream, at the start of a build, which reads it again."""
MOST_TEXT_OF_ESTIMATE = 1 << 30
"""For --estimate, which is asked for more exactly."""
SLOW_SHARE = 8
"""Formats whose reader parses while it cuts (TMX) are read so many times less far."""


class Sample(NamedTuple):
    """Some chunks of a corpus."""

    chunks: list[Chunk]
    text_bytes: int
    """Plain text of the whole corpus; guessed for a stream that was not read to its end."""


def of_places(corpus: Corpus, at_empty_lines: bool) -> Sample | None:
    """Chunks at places of a file that can be entered there; None for a stream."""
    path = corpus.files[0]
    found = text_file.places(path, PLACES, PLACE_BYTES)
    if found is None:
        return None
    cuts, length = found
    return Sample([text_file.cut_chunk(path, cut, at_empty_lines) for cut in cuts], length)


def of_stream(
    chunks: Callable[[Count], Iterator[Chunk]], text_bytes: Callable[[Chunk], int], input_bytes: int, most_text: int
) -> Sample:
    """Chunks of a stream, evenly from what is read of it."""
    counted = 0

    def count(num_bytes: int) -> None:
        nonlocal counted
        counted += num_bytes

    kept: list[Chunk] = []
    stride, passed, is_whole = 1, 0, True
    for index, chunk in enumerate(chunks(count)):
        passed += text_bytes(chunk)
        if index % stride == 0:
            kept.append(chunk)
        if len(kept) == 2 * PLACES:
            kept, stride = kept[::2], 2 * stride
        if passed >= most_text:
            is_whole = False
            break
    return Sample(kept, passed if is_whole else int(passed * max(1.0, input_bytes / max(1, counted))))

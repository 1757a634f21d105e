"""CC-100 (https://data.statmt.org/cc-100/): XX.txt.xz, a paragraph a line, an empty line between documents."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.catalog import Corpus
from data_prep.readers.lines import decode_lines, split_lines
from data_prep.readers.streams import read_pieces
from data_prep.records import Count, Record


def read(corpus: Corpus, count: Count) -> Iterator[Record]:
    """A record a non-empty line; records of one document carry the same `document`."""
    path = corpus.files[0]
    document = 0
    for number, (text, reason) in enumerate(decode_lines(split_lines(read_pieces(path, count)), str(path)), start=1):
        if text or reason:
            yield Record(number, (text,), document, reason)
        else:
            document += 1

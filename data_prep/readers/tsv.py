"""Pairs as plain TSV: text 1 TAB text 2, in the order of the catalog's `languages`."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.catalog import Corpus
from data_prep.readers.lines import columns, decode_lines, split_lines
from data_prep.readers.streams import read_pieces
from data_prep.records import Count, Record


def read(corpus: Corpus, count: Count) -> Iterator[Record]:
    """A record a line."""
    path = corpus.files[0]
    for number, cells, reason in columns(decode_lines(split_lines(read_pieces(path, count)), str(path)), 2):
        yield Record(number, tuple(cells), reason=reason)

"""Pairs as plain TSV: text 1 TAB text 2, in the order of the catalog's `languages`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.lines import decode
from data_prep.readers.text_file import lines_of
from data_prep.records import Chunk, Lines


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """A pair a line."""
    for numbers, (source, target), rejected in columns(corpus, chunk, 2):
        yield Lines(numbers, (source, target), rejected, np.zeros_like(numbers))


def columns(corpus: Corpus, chunk: Chunk, num_columns: int) -> Iterator[tuple[np.ndarray, list[list[str]], dict[int, str]]]:
    """Tab-separated lines, some at once: (line numbers, columns, index -> reason)."""
    for first, lines in lines_of(corpus, chunk):
        texts, rejected = decode(lines)
        rows = [text.split("\t") for text in texts]
        for index, cells in enumerate(rows):
            if len(cells) != num_columns or index in rejected:
                rejected.setdefault(index, f"not {num_columns} columns")
                rows[index] = [texts[index]] + [""] * (num_columns - 1)
        yield first + 1 + np.arange(len(rows)), [list(column) for column in zip(*rows, strict=True)], rejected

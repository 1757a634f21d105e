"""CC-100 (https://data.statmt.org/cc-100/): XX.txt.xz, a paragraph a line, an empty line between documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.lines import decode
from data_prep.readers.text_file import lines_of
from data_prep.records import Chunk, Lines


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """The lines that are not empty; those of one document carry the same number."""
    document = 0
    for first, lines in lines_of(corpus, chunk):
        texts, rejected = decode(lines)
        is_text = np.fromiter(map(bool, lines), np.bool_, len(lines))
        documents = document + np.cumsum(~is_text)
        document = int(documents[-1])
        where = np.flatnonzero(is_text)
        yield Lines(
            where + first + 1,
            (list(compress(texts, is_text)),),
            {int(np.searchsorted(where, index)): reason for index, reason in rejected.items()},
            documents[where],
        )

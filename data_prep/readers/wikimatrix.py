"""WikiMatrix (https://github.com/facebookresearch/LASER, tasks/WikiMatrix): WikiMatrix.<xx>-<yy>.tsv.gz with
margin score TAB text in xx TAB text in yy, best score first. The authors suggest a threshold of 1.04.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from data_prep.catalog import Corpus
from data_prep.readers.lines import columns, decode_lines, split_lines
from data_prep.readers.streams import matches, read_pieces
from data_prep.records import Count, Record

PAIR_IN_NAME = re.compile(r"\.([A-Za-z_]+)-([A-Za-z_]+)\.tsv")


def read(corpus: Corpus, count: Count) -> Iterator[Record]:
    """A record a line; rejected below the catalog's `threshold`."""
    path = corpus.files[0]
    is_reversed = has_reversed_columns(path.name, corpus.languages)
    for number, cells, reason in columns(decode_lines(split_lines(read_pieces(path, count)), str(path)), 3):
        reason = reason or _reason(cells[0], corpus.threshold)
        texts = (cells[2], cells[1]) if is_reversed and len(cells) == 3 else tuple(cells[1:])
        yield Record(number, texts, reason=reason)


def has_reversed_columns(name: str, languages: tuple[str, ...]) -> bool:
    """Whether the file's name puts the catalog's languages the other way round."""
    pair = PAIR_IN_NAME.search(name)
    return pair is not None and matches(pair[1], languages[1]) and matches(pair[2], languages[0])


def _reason(score: str, threshold: float) -> str | None:
    try:
        value = float(score)
    except ValueError:
        return "no score"
    if math.isnan(value):
        return "no score"
    return None if value >= threshold else f"score below {threshold:g}"

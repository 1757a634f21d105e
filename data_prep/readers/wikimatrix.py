"""WikiMatrix (https://github.com/facebookresearch/LASER, tasks/WikiMatrix): WikiMatrix.<xx>-<yy>.tsv.gz with
margin score TAB text in xx TAB text in yy, best score first. The authors suggest a threshold of 1.04.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.tsv import columns
from data_prep.records import Chunk, Lines
from ernie_m.base.language_codes import agree

PAIR_IN_NAME = re.compile(r"\.([A-Za-z_]+)-([A-Za-z_]+)\.tsv")


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """A pair a line; rejected below the catalog's `threshold`."""
    is_reversed = has_reversed_columns(corpus.files[0].name, corpus.languages)
    for numbers, (scores, first, second), rejected in columns(corpus, chunk, 3):
        for index, score in enumerate(scores):
            if index not in rejected and (reason := _reason(score, corpus.threshold)):
                rejected[index] = reason
        yield Lines(numbers, (second, first) if is_reversed else (first, second), rejected, np.zeros_like(numbers))


def has_reversed_columns(name: str, languages: tuple[str, ...]) -> bool:
    """Whether the file's name puts the catalog's languages the other way round."""
    pair = PAIR_IN_NAME.search(name)
    if pair is None:
        return False
    for exactly in (True, False):  # of en-simple both sides are English
        for is_reversed in (False, True):
            ours = languages[::-1] if is_reversed else languages
            if all(agree(code, language, exactly) for code, language in zip(pair.groups(), ours, strict=True)):
                return is_reversed
    return False


def _reason(score: str, threshold: float) -> str | None:
    try:
        value = float(score)
    except ValueError:
        return "no score"
    if math.isnan(value):
        return "no score"
    return None if value >= threshold else f"score below {threshold:g}"

"""Which lines are kept, and in which form. A pair is kept or rejected as a whole, so its sides stay aligned."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_prep import readers
from data_prep.catalog import NONE, SPLIT, Corpus
from data_prep.chosen_by_hash import is_chosen
from data_prep.filters import faults as faults_found
from data_prep.filters.stretch import Stretch
from data_prep.records import Count, Lines
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import HELD_OUT, TRAIN

EMPTY = "empty"
NO_TOKENS = "no tokens"
NOT_SEGMENTED = "a text that the tokenizer cannot segment"
LONG_TEXT = 10_000  # characters; a text of so many has tokens, or the tokenizer has failed
DUPLICATE = "duplicate of an earlier line"
DUPLICATE_ELSEWHERE = "duplicate of a line of an earlier corpus"
NEAR_DUPLICATE = "near duplicate of an earlier line"
NEAR_DUPLICATE_ELSEWHERE = "near duplicate of a line of an earlier corpus"


def too_long(corpus: Corpus) -> str:
    """Why a line of more than max_characters is rejected."""
    return f"more than {corpus.max_characters} characters"


def clean(lines: Lines, corpus: Corpus) -> tuple[np.ndarray, tuple[list[str], ...], dict[int, str]]:
    """(indices of the lines to keep, the stripped texts of all lines a side, index -> reason of the others)."""
    texts = tuple([text.strip() for text in side] for side in lines.texts)
    if corpus.normalise != NONE:
        form: Any = corpus.normalise.upper()
        texts = tuple([unicodedata.normalize(form, text) for text in side] for side in texts)
    lengths = np.array([np.fromiter(map(len, side), np.int64, len(side)) for side in texts])
    shortest, longest = lengths.min(axis=0), lengths.max(axis=0)
    reasons = dict(lines.rejected)
    faults = [
        (EMPTY, shortest == 0),
        (f"fewer than {corpus.min_characters} characters", shortest < corpus.min_characters),
        (too_long(corpus), longest > corpus.max_characters),
    ]
    is_kept = np.ones(len(lines.numbers), np.bool_)
    is_kept[list(reasons)] = False
    for reason, is_faulty in faults:
        for index in np.flatnonzero(is_faulty & is_kept).tolist():
            reasons[index] = reason
        is_kept &= ~is_faulty
    kept = np.flatnonzero(is_kept)
    if not corpus.filters or not len(kept):
        return kept, texts, reasons
    sides = [[side[index] for index in kept.tolist()] for side in texts]
    for reason, is_faulty in faults_found(Stretch(sides, corpus.languages, lines.documents[kept]), corpus.filters):
        reasons |= dict.fromkeys(kept[is_faulty].tolist(), reason)
        is_kept[kept[is_faulty]] = False
    return np.flatnonzero(is_kept), texts, reasons


def split_long(lines: Lines, most: int) -> Lines:
    """The same with texts of more than `most` characters cut up, at a space where there is one; for text of one language."""
    (texts,) = lines.texts
    if max(map(len, texts), default=0) <= most:
        return lines
    parts = [[text] if index in lines.rejected else list(_cut(text, most)) for index, text in enumerate(texts)]
    counts = np.fromiter(map(len, parts), np.int64, len(parts))
    firsts = np.cumsum(counts) - counts
    return Lines(
        np.repeat(lines.numbers, counts),
        ([part for some in parts for part in some],),
        {int(firsts[index]): reason for index, reason in lines.rejected.items()},
        np.repeat(lines.documents, counts),
        {**lines.noted, "lines were cut up at spaces": int((counts > 1).sum())},
    )


def _cut(text: str, most: int) -> Iterator[str]:
    while len(text) > most:
        stop = text.rfind(" ", most // 2, most + 1)
        stop = stop if stop > 0 else most
        yield text[:stop]
        text = text[stop:].lstrip()
    yield text


def usable(corpus: Corpus, count: Count, left_out: Counter[str] | None = None) -> Iterator[tuple[str, ...]]:
    """The texts of every line that is kept, one by one, in the order of the file and of the catalog's languages.

    `left_out` is told the reasons of the others. Raises InputError at the end, if no line is kept.
    """
    left_out, found = Counter() if left_out is None else left_out, 0
    for chunk in readers.chunks(corpus, readers.CHUNK_BYTES, count):
        for lines in readers.parse(corpus, chunk):
            if corpus.long_lines == SPLIT:
                lines = split_long(lines, corpus.max_characters)
            kept, texts, reasons = clean(lines, corpus)
            left_out.update(reasons.values())
            found += len(kept)
            yield from (tuple(side[index] for side in texts) for index in kept.tolist())
    if not found:
        raise no_usable_line(corpus, left_out)


def no_usable_line(corpus: Corpus, left_out: Mapping[str, int]) -> InputError:
    """What is said of a corpus of which nothing is kept."""
    return InputError(
        f"{corpus.files[0]}: no usable line ({reasons_told(left_out) or 'the file holds none'}); "
        f"expected text in the format {corpus.format}; correct the catalog or take the corpus out of it"
    )


def reasons_told(left_out: Mapping[str, int]) -> str:
    """Why so many lines were left out: `2 empty, 1 not 2 columns`."""
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(left_out.items()))


def is_held_out(sources: list[str], fraction: float) -> np.ndarray:
    """Whether each text is held out. The text alone decides, so all copies of a sentence, in any corpus, are in one split.

    A text held out at one fraction is held out at every larger one. bool [texts].
    """
    return np.fromiter((is_chosen(text, fraction) for text in sources), np.bool_, len(sources))


def split_of(source: str, fraction: float) -> str:
    """`train` or `held_out`."""
    return HELD_OUT if is_chosen(source, fraction) else TRAIN

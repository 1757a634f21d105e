"""Moses, as OPUS gives it (https://opus.nlpl.eu): a zip with <name>.<xx-yy>.<xx> and <name>.<xx-yy>.<yy>, aligned by
line, beside README, LICENSE and .ids or .xml files; or the same two texts as files of their own. MultiUN (Eisele &
Chen 2010) comes so from OPUS, or as a tar archive with the two texts, and so does IIT Bombay's parallel.tgz
(https://www.cfilt.iitb.ac.in/iitb_parallel/) with parallel/IITB.en-hi.en and parallel/IITB.en-hi.hi.

The order of the catalog's `languages` says which side is the source, whatever the order in the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.archives import (
    choose_language_member,
    is_language_file,
    is_tar,
    read_pieces,
    read_tar_member,
    read_zip_member,
)
from data_prep.readers.cutting import Cutter, bounded, cut_stream
from data_prep.readers.lines import decode, end_of_line, judge_encoding, num_lines, side_by_side, some_at_once, split_lines
from data_prep.records import Chunk, Count, Lines
from ernie_m.base.console import InputError

MOST_OF_TARGET = 7 / 4
"""Chunks of text: a longer target of half a chunk of source is no translation of it, and is cut up."""


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of the source of half a chunk each, with as many lines of the target.

    Raises InputError, with both counts, when the two sides do not have the same number of lines.
    """
    source, target = (_pieces(corpus, side, count) for side in (0, 1))
    other = Cutter(bounded(target), at_empty_lines=False)
    total = index = 0
    ours = cut_stream(source, max(1, chunk_bytes // 2), at_empty_lines=False)
    for content, _ in ours:
        while content:
            wanted = num_lines(content)
            matching, found = other.lines(wanted, int(MOST_OF_TARGET * chunk_bytes))
            if found < wanted and other.is_at_end():
                _refuse(corpus, total + wanted + sum(num_lines(rest) for rest, _ in ours), total + found)
            stop = len(content) if found == wanted else end_of_line(content, found)
            yield Chunk(index, (content[:stop], matching))
            del matching  # whoever took it may drop it
            content, total, index = content[stop:], total + found, index + 1
    if left := sum(found for _, found in iter(lambda: other.lines(100_000, chunk_bytes), (b"", 0))):
        _refuse(corpus, total, total + left)


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """Line i of one side with line i of the other."""
    first = 0
    for contents in side_by_side(*chunk.content):
        is_file_start = chunk.index == 0 and first == 0
        source, target = (split_lines(content, is_file_start) for content in contents)
        if is_file_start:
            for lines, name in zip((source, target), side_names(corpus), strict=True):
                judge_encoding(lines, name)
        for (offset, ours), (_, theirs) in zip(some_at_once(source), some_at_once(target), strict=True):
            texts, rejected = decode(ours)
            other_texts, other_rejected = decode(theirs)
            numbers = first + offset + 1 + np.arange(len(texts))
            yield Lines(numbers, (texts, other_texts), {**other_rejected, **rejected}, np.zeros_like(numbers))
        first += len(source)


def side_names(corpus: Corpus) -> tuple[str, str]:
    """How messages call the two sides."""
    if len(corpus.files) == 2:
        return str(corpus.files[0]), str(corpus.files[1])
    return f"{corpus.files[0]} ({corpus.languages[0]})", f"{corpus.files[0]} ({corpus.languages[1]})"


def _refuse(corpus: Corpus, num_source: int, num_target: int) -> None:
    names = side_names(corpus)
    raise InputError(
        f"{names[0]} has {num_source:,} lines and {names[1]} has {num_target:,}: the two sides are not aligned; "
        "expected equal counts; download both again"
    )


def _pieces(corpus: Corpus, side: int, count: Count) -> Iterator[bytes]:
    if len(corpus.files) == 2:
        return read_pieces(corpus.files[side], count, corpus.limits)
    path, language = corpus.files[0], corpus.languages[side]  # opened once a side: both members are streamed side by side
    if is_tar(path):
        is_wanted = partial(is_language_file, language=language)
        return read_tar_member(path, is_wanted, f"a text ending in .{language}", count, corpus.limits)
    return read_zip_member(path, partial(choose_language_member, language=language), count, corpus.limits)

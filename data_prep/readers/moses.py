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
from data_prep.readers.cutting import Cutter, bounded, cut_stream
from data_prep.readers.lines import decode, judge_encoding, some_at_once, split_lines
from data_prep.readers.streams import (
    choose_language_member,
    is_language_file,
    is_tar,
    read_pieces,
    read_tar_member,
    read_zip_member,
)
from data_prep.records import Chunk, Count, Lines
from ernie_m.base.console import InputError


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of the source of half a chunk each, with as many lines of the target.

    Raises InputError, with both counts, when the two sides do not have the same number of lines.
    """
    source, target = (_pieces(corpus, side, count) for side in (0, 1))
    other = Cutter(bounded(target), at_empty_lines=False)
    total = 0
    ours = cut_stream(source, max(1, chunk_bytes // 2), at_empty_lines=False)
    for index, (content, _) in enumerate(ours):
        wanted = num_lines(content)
        matching, found = other.lines(wanted)
        total += wanted
        if found < wanted:
            _refuse(corpus, total + sum(num_lines(rest) for rest, _ in ours), total - wanted + found)
        yield Chunk(index, (content, matching))
    if left := sum(found for _, found in iter(lambda: other.lines(100_000), (b"", 0))):
        _refuse(corpus, total, total + left)


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """Line i of one side with line i of the other."""
    source, target = (split_lines(content, chunk.index == 0) for content in chunk.content)
    if chunk.index == 0:
        for lines, name in zip((source, target), side_names(corpus), strict=True):
            judge_encoding(lines, name)
    for (first, ours), (_, theirs) in zip(some_at_once(source), some_at_once(target), strict=True):
        texts, rejected = decode(ours)
        other_texts, other_rejected = decode(theirs)
        numbers = first + 1 + np.arange(len(texts))
        yield Lines(numbers, (texts, other_texts), {**other_rejected, **rejected}, np.zeros_like(numbers))


def num_lines(content: bytes) -> int:
    """Lines of a chunk; the last may lack its end."""
    return content.count(b"\n") + (bool(content) and not content.endswith(b"\n"))


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
        return read_pieces(corpus.files[side], count)
    path, language = corpus.files[0], corpus.languages[side]  # opened once a side: both members are streamed side by side
    if is_tar(path):
        return read_tar_member(path, partial(is_language_file, language=language), f"a text ending in .{language}", count)
    return read_zip_member(path, partial(choose_language_member, language=language), count)

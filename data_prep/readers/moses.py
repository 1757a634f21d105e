"""Moses, as OPUS gives it (https://opus.nlpl.eu): a zip with <name>.<xx-yy>.<xx> and <name>.<xx-yy>.<yy>, aligned by
line, beside README, LICENSE and .ids or .xml files; or the same two texts as files of their own.

The order of the catalog's `languages` says which side is the source, whatever the order in the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.catalog import Corpus
from data_prep.readers.lines import aligned, decode_lines, split_lines
from data_prep.readers.streams import (
    choose_language_member,
    is_language_file,
    is_tar,
    read_pieces,
    read_tar_member,
    read_zip_member,
)
from data_prep.records import Count, Record


def read(corpus: Corpus, count: Count) -> Iterator[Record]:
    """A record a pair of lines."""
    if len(corpus.files) == 2:
        names = (str(corpus.files[0]), str(corpus.files[1]))
        pieces = [read_pieces(path, count) for path in corpus.files]
    else:
        names = (f"{corpus.files[0]} ({corpus.languages[0]})", f"{corpus.files[0]} ({corpus.languages[1]})")
        # two openings of the archive: both members are streamed side by side
        pieces = [_member(corpus, language, count) for language in corpus.languages]
    source, target = (decode_lines(split_lines(side), name) for side, name in zip(pieces, names, strict=True))
    return aligned(source, target, names)


def _member(corpus: Corpus, language: str, count: Count) -> Iterator[bytes]:
    path = corpus.files[0]
    if is_tar(path):
        return read_tar_member(path, partial(is_language_file, language=language), f"a text ending in .{language}", count)
    return read_zip_member(path, partial(choose_language_member, language=language), count)

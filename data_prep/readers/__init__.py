"""One file a format; each has `read(corpus, count)`, which yields `Record`s in the order of the file.

Files are streamed: memory is bounded by a piece of a file, never by the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from data_prep.catalog import Corpus
from data_prep.readers import cc100, iitb, moses, multiun, tmx, tsv, wikimatrix
from data_prep.readers.streams import is_tar
from data_prep.records import Count, Record, no_count
from ernie_m.console import InputError

READERS: dict[str, Callable[[Corpus, Count], Iterator[Record]]] = {
    "cc100": cc100.read,
    "moses": moses.read,
    "tmx": tmx.read,
    "wikimatrix": wikimatrix.read,
    "multiun": multiun.read,
    "iitb": iitb.read,
    "tsv": tsv.read,
}


def read(corpus: Corpus, count: Count) -> Iterator[Record]:
    """The records of a corpus; `count` is told about input bytes as they are read."""
    return READERS[corpus.format](corpus, count)


def input_bytes(corpus: Corpus) -> int:
    """About how many bytes `read` will count, for an ETA; a tar archive is read once a side. 0 for a missing file."""
    times = 2 if len(corpus.files) == 1 and len(corpus.languages) == 2 and is_tar(corpus.files[0]) else 1
    return times * sum(path.stat().st_size for path in corpus.files if path.is_file())


def check_readable(corpora: list[Corpus]) -> None:
    """Read the first record of every corpus, so that a wrong path or file is known at once and not hours later."""
    for corpus in corpora:
        with named(corpus):
            if next(read(corpus, no_count), None) is None:
                raise InputError(f"{corpus.files[0]}: no usable line; expected text in the format {corpus.format}")


@contextlib.contextmanager
def named(corpus: Corpus) -> Iterator[None]:
    """Put the corpus's name in front of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"corpus {corpus.name}: {error}") from None

"""A document a line or a row: JSON lines (HPLT, MADLAD-400, OSCAR), Parquet (FineWeb-2, CulturaX), plain text.

The text of a document is cut at its line ends; its lines are rows of one document, as CC-100's are. Parquet
(readers/parquet.py) is handed on as JSON strings, a line each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.lines import LINES_TO_JUDGE, decode
from data_prep.readers.text_file import lines_of
from data_prep.records import Chunk, Lines
from ernie_m.base.console import InputError, is_unicode

NOT_JSON = "not a JSON object"
NO_TEXT = "no text under its key"
MADLAD_LINE_END = "\\n"


def parse_jsonl(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """The lines of each object's text. Raises InputError for a file whose first lines are mostly no objects."""
    seen = strange = 0
    for lines in _parse(corpus, chunk, lambda line: _of_object(line, corpus.text)):
        if chunk.index == 0 and seen < LINES_TO_JUDGE:
            seen += len(np.unique(lines.numbers))
            strange += sum(reason == NOT_JSON for reason in lines.rejected.values())
        yield lines
    if strange * 2 > seen:
        raise InputError(
            f"{corpus.files[0]}: {strange:,} of the first {seen:,} lines are no JSON objects; expected an object a line; of "
            "a list, or of objects over several lines, `jq -c` makes such"
        )


def parse_parquet(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """The lines of each row's text."""
    yield from _parse(corpus, chunk, lambda line: (json.loads(line), None))


def parse_lines(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """Each line, a document of its own."""
    yield from _parse(corpus, chunk, lambda line: (line, None))


def _of_object(line: str, key: str) -> tuple[Any, str | None]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return line, NOT_JSON
    if not isinstance(content, dict):
        return line, NOT_JSON
    return content.get(key), None


def _parse(corpus: Corpus, chunk: Chunk, text_of: Callable[[str], tuple[Any, str | None]]) -> Iterator[Lines]:
    for first, lines in lines_of(corpus, chunk):
        yield _parsed(corpus, first, lines, text_of)  # nothing else keeps them


def _parsed(corpus: Corpus, first: int, lines: Sequence[bytes], text_of: Callable[[str], tuple[Any, str | None]]) -> Lines:
    raw, faults = decode(lines)
    numbers: list[int] = []
    texts: list[str] = []
    rejected: dict[int, str] = {}
    for number, line in enumerate(raw, start=first + 1):
        fault = faults.get(number - first - 1)
        if fault is None and not line.strip():
            continue
        text, fault = (line, fault) if fault else text_of(line)
        if fault is None and not (isinstance(text, str) and is_unicode(text)):
            text, fault = line, NO_TEXT
        if fault is not None:
            rejected[len(texts)] = fault
            parts = [text]
        else:
            parts = [part for part in _lines_of(text, corpus) if part.strip()] or [""]
        numbers += [number] * len(parts)
        texts += parts
    documents = np.array(numbers, np.int64)  # a line of the file is a document; none has the number 0
    return Lines(documents, (texts,), rejected, documents)


def _lines_of(text: str, corpus: Corpus) -> list[str]:
    """A document's lines. MADLAD-400 writes a line end inside a document as a backslash and an n."""
    if corpus.escaped_line_ends:
        text = text.replace(MADLAD_LINE_END, "\n")
    return text.split("\n")

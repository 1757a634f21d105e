"""Named entities in columns: the files of CoNLL-2002 and -2003 as published, and WikiANN's.

    CoNLL     a token a line, columns between spaces, the token first and the tag last; a blank line ends a sentence,
              -DOCSTART- a document; Latin-1 as often as UTF-8
              (XTREME's test files of it: a token a line, no tags)
    WikiANN   token TAB tag; in some copies each token carries its language (`de:Haus`)

1. Bytes are decoded as UTF-8 if they are valid, else as Latin-1. Only a newline ends a line, and only spaces or tabs end a
   column: `splitlines` and `split` would also break at the bytes 85 and A0 of Latin-1 text.
2. Tags become IOB2 by conlleval's rule: an entity starts at B-, or where the type is another than the previous token's. So
   IOB1 (B- only between neighbours of a type) and IOB2 come out right, and so do files that hold both.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.base.console import Choice, InputError

OUTSIDE = "O"
ENTITY_TYPES = ("LOC", "MISC", "ORG", "PER")
"""CoNLL's; WikiANN has no MISC. Anything else (the X of padded words) would be scored as an entity, so it is refused."""
DOCUMENT_START = "-DOCSTART-"

_BIOES = re.compile(r"[ESLU]-\w+")
_LANGUAGE_PREFIX = re.compile(r"([a-z]{2,3}(?:-[a-z]+)*):")
_ROOM = " \t\r"


@dataclass(frozen=True)
class Sentence:
    """Words and their tags in IOB2, none in a file without tags; `where` is file and line of the first word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class ColumnFile:
    """What a file holds, and how it was understood."""

    sentences: list[Sentence]
    prefix: str | None
    """The language that every token carried, if so."""
    choices: tuple[Choice, ...]
    """Encoding and tagging scheme where they are not UTF-8 and IOB2, with the reason."""


def read_columns(path: Path) -> ColumnFile:
    """Sentences of one file; raises InputError with the line number where there is no token and entity tag."""
    text, choices = _decoded(path)
    rows = list(_rows(text, path))
    if not any(row is not None for _, row in rows):
        raise InputError(f"{path}: no tokens; expected a token and its tag a line, a blank line between sentences")
    prefix = _common_prefix(rows) if "\t" in text else None
    sentences: list[Sentence] = []
    seen: Counter[str] = Counter()
    open_rows: list[tuple[int, str, str]] = []
    for number, row in [*rows, (0, None)]:
        if row is not None:
            open_rows.append((number, row[0][len(prefix) + 1 if prefix else 0 :], row[1]))
        elif open_rows:
            numbers, words, tags = zip(*open_rows, strict=True)
            tags = tuple(filter(None, tags))
            seen.update(_starts(tags))
            sentences.append(Sentence(words, to_iob2(tags), f"{path}, line {numbers[0]}"))
            open_rows = []
    return ColumnFile(sentences, prefix, (*choices, *_scheme(seen, path)))


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB1 or IOB2 tags of a sentence in IOB2: `I-PER I-PER B-PER` -> `B-PER I-PER B-PER`."""
    previous, converted = OUTSIDE, []
    for tag in tags:
        starts = tag != OUTSIDE and (tag[0] == "B" or previous[2:] != tag[2:])
        converted.append(f"B{tag[1:]}" if starts else tag)
        previous = tag
    return tuple(converted)


def _decoded(path: Path) -> tuple[str, list[Choice]]:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected token and tag columns (CoNLL, WikiANN)") from None
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: a NUL byte, as in UTF-16 and binary files; expected UTF-8 or Latin-1 text")
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return content.decode("latin-1"), [Choice(f"encoding of {path}", "Latin-1", f"line {line} is not UTF-8")]


def _rows(text: str, path: Path) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Line number with token and tag ("" in a file of tokens alone), or with None where a sentence ends."""
    has_tabs = "\t" in text
    expected: tuple[int, int] | None = None  # columns, and the line that showed it
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(_ROOM):
            yield number, None
            continue
        columns = line.rstrip("\r").split("\t") if has_tabs else re.split(" +", line.strip(_ROOM))
        if columns[0] == DOCUMENT_START:
            yield number, None
            continue
        expected = expected or (len(columns), number)
        if len(columns) != expected[0]:
            reason = f"as in line {expected[1]}: the token first, its tag last, or tokens alone"
            raise InputError(
                f"{path}, line {number}: number of {'tab' if has_tabs else 'space'}-separated columns: {len(columns)}; "
                f"expected {expected[0]}, {reason}"
            )
        tag = columns[-1].strip(_ROOM) if len(columns) > 1 else ""
        if len(columns) > 1:
            _check_tag(tag, path, number)
        yield number, (columns[0], tag)


def _check_tag(tag: str, path: Path, line: int) -> None:
    if tag == OUTSIDE or (tag[:2] in ("B-", "I-") and tag[2:] in ENTITY_TYPES):
        return
    where = f"{path}, line {line}: tag `{tag}`"
    if _BIOES.fullmatch(tag):
        raise InputError(f"{where} is of the BIOES scheme; expected IOB1 or IOB2: write S- and U- as B-, E- and L- as I-")
    raise InputError(f"{where}; expected {OUTSIDE}, or B- or I- with one of {', '.join(ENTITY_TYPES)}, in the last column")


def _common_prefix(rows: Sequence[tuple[int, tuple[str, str] | None]]) -> str | None:
    found = {match[1] if (match := _LANGUAGE_PREFIX.match(row[0])) else None for _, row in rows if row}
    return found.pop() if len(found) == 1 else None


def _starts(tags: Sequence[str]) -> Iterator[str]:
    """How the entities start: `I` where IOB2 would have B, `B` where IOB1 would have I, `either` between neighbours."""
    for previous, tag in zip((OUTSIDE, *tags), tags, strict=False):
        is_neighbour = previous[2:] == tag[2:]
        if tag != OUTSIDE and (tag[0] == "B" or not is_neighbour):
            yield "either" if is_neighbour else tag[0]


def _scheme(seen: Counter[str], path: Path) -> Iterator[Choice]:
    subject, total = f"tags of {path}", f"of {seen.total():,} entities"
    if seen["I"] and not seen["B"]:
        yield Choice(subject, "IOB1, read as IOB2", f"no entity starts with B- but beside one of its type, {total}")
    elif seen["I"]:
        reason = f"{seen['I']:,} {total} start with I-, {seen['B']:,} with B-"
        yield Choice(subject, "mixed, read as conlleval does", reason)

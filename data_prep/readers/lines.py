"""Bytes -> lines -> text, without shifting one side of a bitext.

Lines end at b"\\n" and nowhere else: U+2028, U+0085, a lone carriage return, NUL or a BOM inside a line are text
(`str.splitlines` would break there). Only the carriage return of a CRLF and a BOM at the start of a file are removed.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator

from data_prep.records import Record
from ernie_m.console import InputError

MAX_LINE_BYTES = 1 << 20
LINES_TO_JUDGE = 1000  # a file's encoding, by
NOT_UTF8 = "not UTF-8"
TOO_LONG = f"line longer than {MAX_LINE_BYTES} bytes"

Line = tuple[str, str | None]
"""The text of a line, and why it cannot be used (None: it can)."""


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file; of one above MAX_LINE_BYTES only the beginning is kept (decode_lines rejects it)."""
    pending, is_first = b"", True
    for piece in pieces:
        *whole, pending = (pending + piece).split(b"\n")
        pending = pending[: MAX_LINE_BYTES + 2]
        for line in whole:
            yield _without_bom(line, is_first).removesuffix(b"\r")
            is_first = False
    pending = _without_bom(pending, is_first)
    if pending:
        yield pending.removesuffix(b"\r")


def _without_bom(line: bytes, is_first: bool) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8) if is_first else line


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[Line]:
    """Lines as text; single lines that are not UTF-8 are marked.

    Raises InputError when more than half of the first lines are not UTF-8, or hold NUL as UTF-16 does.
    """
    judged = strange = 0
    for line in lines:
        text, reason = _decoded(line)
        yield text, reason
        if line and judged < LINES_TO_JUDGE:
            judged += 1
            strange += reason == NOT_UTF8 or b"\0" in line
            if judged == LINES_TO_JUDGE:
                _judge(strange, judged, name)
    if judged < LINES_TO_JUDGE:
        _judge(strange, judged, name)


def _decoded(line: bytes) -> Line:
    if len(line) > MAX_LINE_BYTES:
        return "", TOO_LONG
    try:
        return line.decode("utf-8"), None
    except UnicodeDecodeError:
        return "", NOT_UTF8


def _judge(strange: int, judged: int, name: str) -> None:
    if strange * 2 > judged:
        raise InputError(
            f"{name}: {strange:,} of the first {judged:,} lines are not UTF-8 text; expected UTF-8; "
            "convert it, e.g. `iconv -f UTF-16 -t UTF-8`"
        )


def aligned(source: Iterable[Line], target: Iterable[Line], names: tuple[str, str]) -> Iterator[Record]:
    """Line i of one file with line i of the other.

    Raises InputError, with both counts, when the files do not have the same number of lines.
    """
    sides = iter(source), iter(target)
    for number, pair in enumerate(itertools.zip_longest(*sides), start=1):
        if pair[0] is None or pair[1] is None:
            rest = [sum(1 for _ in side) for side in sides]
            counts = [number - 1 if line is None else number + rest[i] for i, line in enumerate(pair)]
            raise InputError(
                f"{names[0]} has {counts[0]:,} lines and {names[1]} has {counts[1]:,}: the two sides are not aligned; "
                "expected equal counts; download both again"
            )
        (text, reason), (other_text, other_reason) = pair
        yield Record(number, (text, other_text), reason=reason or other_reason)


def columns(lines: Iterable[Line], num_columns: int) -> Iterator[tuple[int, list[str], str | None]]:
    """Tab-separated lines: (line number, columns, reason)."""
    for number, (text, reason) in enumerate(lines, start=1):
        cells = text.split("\t")
        if reason is None and len(cells) != num_columns:
            reason = f"not {num_columns} columns"
        yield number, cells, reason

"""Bytes -> lines -> text, without shifting one side of a bitext.

Lines end at b"\\n" and nowhere else: U+2028, U+0085, a lone carriage return, NUL or a BOM inside a line are text
(`str.splitlines` would break there). Only the carriage return of a CRLF and a BOM at the start of a file are removed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from ernie_m.base.console import InputError

MAX_LINE_BYTES = 1 << 20
LINES_TO_JUDGE = 1000  # a file's encoding, by
LINES_AT_ONCE = 8192
STRETCH_BYTES, STRETCH_LINES = 1 << 19, 1 << 16  # whichever comes first
PIECE_BYTES = 1 << 16
BYTES_TO_JUDGE = 1 << 16
MOSTLY_NUL, LEAST_NUL_OF_UTF16, MOST_NUL_OF_UTF16, MOST_CONTROL = 0.9, 0.1, 0.65, 0.01
"""Shares of a file's first bytes."""
NUL, CONTROL = re.compile(rb"\0"), re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
NOT_UTF8 = "not UTF-8"
TOO_LONG = f"line longer than {MAX_LINE_BYTES} bytes"
T = TypeVar("T")


def split_lines(content: bytes, is_file_start: bool) -> list[bytes]:
    """The lines of a chunk, without their ends."""
    if is_file_start:
        content = content.removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()  # what follows the last newline is no line
    return [line.removesuffix(b"\r") for line in lines] if b"\r" in content else lines


def decode(lines: Sequence[bytes]) -> tuple[list[str], dict[int, str]]:
    """Lines as text, and index -> reason of those that are too long or not UTF-8 (their bytes shown with escapes)."""
    if len(max(lines, key=len, default=b"")) <= MAX_LINE_BYTES:
        try:
            return list(map(bytes.decode, lines)), {}
        except UnicodeDecodeError:
            pass
    texts, rejected = [], {}
    for index, line in enumerate(lines):
        try:
            if len(line) > MAX_LINE_BYTES:
                rejected[index], line = TOO_LONG, line[:1000]
            texts.append(line.decode())
        except UnicodeDecodeError:
            rejected.setdefault(index, NOT_UTF8)
            texts.append(line.decode(errors="backslashreplace"))
    return texts, rejected


def judge_encoding(lines: list[bytes], name: str) -> None:
    """Raise InputError when more than half of a file's first lines are not UTF-8, or hold NUL as UTF-16 does."""
    first = [line for line in lines if line][:LINES_TO_JUDGE]
    strange = sum(b"\0" in line or bool(decode([line])[1].get(0) == NOT_UTF8) for line in first)
    if strange * 2 > len(first):
        raise InputError(
            f"{name}: {strange:,} of the first {len(first):,} lines are not UTF-8 text; expected UTF-8; {_way_out(first)}"
        )


def _way_out(lines: list[bytes]) -> str:
    """What to do about lines that are not UTF-8: by the bytes that text has none of."""
    content = b"\n".join(lines)[:BYTES_TO_JUDGE]
    nul, control = (len(found.findall(content)) / max(1, len(content)) for found in (NUL, CONTROL))
    if nul > MOSTLY_NUL:
        return "it is empty space (NUL), as a download leaves that broke off; download it again"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or nul > LEAST_NUL_OF_UTF16:
        return f"convert it, e.g. `iconv -f {'UTF-32' if nul > MOST_NUL_OF_UTF16 else 'UTF-16'} -t UTF-8`"
    if nul + control > MOST_CONTROL:
        return "it is a file of some program, not text; convert it to text, or take it out of the catalog"
    return (
        "its text is in an older encoding; convert it, e.g. `iconv -f ISO-8859-1 -t UTF-8`, with the name of that encoding"
    )


def stretches(content: bytes) -> Iterator[bytes]:
    """A chunk in parts that end at line ends: a list of all its lines would need three times its memory."""
    start = 0
    while start < len(content):
        stop = _stretch_end(content, start)
        yield content[start:stop]
        start = stop


def side_by_side(source: bytes, target: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Two texts of as many lines in parts that have as many lines, each about as long as a stretch at most."""
    start, other_start = 0, 0
    while start < len(source) or other_start < len(target):
        stop, other_stop = _stretch_end(source, start), _stretch_end(target, other_start)
        count, other_count = num_lines(source, start, stop), num_lines(target, other_start, other_stop)
        if count > other_count:
            stop = end_of_line(source, other_count, start)
        elif other_count > count:
            other_stop = end_of_line(target, count, other_start)
        yield source[start:stop], target[other_start:other_stop]
        start, other_start = stop, other_stop


def _stretch_end(content: bytes, start: int) -> int:
    stop = content.find(b"\n", start + STRETCH_BYTES) + 1 or len(content)
    if content.count(b"\n", start, stop) > STRETCH_LINES:
        stop = end_of_line(content, STRETCH_LINES, start)
    return stop


def num_lines(content: bytes, start: int = 0, stop: int | None = None) -> int:
    """Lines of a text, or between two places of it; the last may lack its end."""
    stop = len(content) if stop is None else stop
    return content.count(b"\n", start, stop) + (stop > start and content[stop - 1] != 10)


def end_of_line(content: bytes, number: int, start: int = 0) -> int:
    """The offset behind the `number`-th newline from `start` on, of a text that has as many."""
    while number > 0:
        assert start < len(content), "fewer lines than were counted"
        piece = np.frombuffer(content, np.uint8, min(PIECE_BYTES, len(content) - start), start)
        ends = np.flatnonzero(piece == ord("\n"))[:number]
        start += int(ends[-1]) + 1 if len(ends) == number else len(piece)
        number -= len(ends)
    return start


def some_at_once(lines: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """(index of the first, some lines): the lines are processed in groups, so that few texts and ids are in memory."""
    for first in range(0, len(lines), LINES_AT_ONCE):
        yield first, lines[first : first + LINES_AT_ONCE]

"""Lines and tab-separated columns of evaluation files, with the place of what is wrong in them.

Only a line feed ends a line, and quotation marks have no meaning: text of every language is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.corpus.texts import read_lines


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line of a UTF-8 file, without its line end; a byte order mark is left out.

    Raises InputError for a missing file and for bytes that are not UTF-8.
    """
    yield from enumerate(read_lines(path, "lines of text"), start=1)


def rows_of(path: Path, expected: str, num_columns: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of a tab-separated file; raises InputError for a line with another number of columns.

    `expected` names the columns in that message.
    """
    for number, line in lines_of(path):
        row = line.split("\t")
        if len(row) != num_columns:
            raise InputError(f"{path}, line {number}: {len(row)} columns; expected {num_columns}, tab-separated: {expected}")
        yield number, row


def first_row(path: Path) -> list[str]:
    """Columns of the first line, empty for an empty file: what tells one layout from another."""
    return next((line.split("\t") for _, line in lines_of(path)), [])

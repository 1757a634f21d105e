"""A dictionary as dictd has it: `.index` says where in `.dict.dz` an entry lies (dictzip, which gzip reads; UTF-8).

An index line is `headword TAB offset TAB length`, both in base 64, most significant digit first.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

DIGITS = {digit: value for value, digit in enumerate(f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/")}
ABOUT = ("00database", "00-database")
"""Beginnings of what is said of the dictionary."""


def entries(index: str, content: bytes) -> Iterator[str]:
    """The text of every entry once, in the order of the content: several headwords may lead to one.

    Raises ValueError where the index is none, or that of another content.
    """
    places = set()
    for line in index.splitlines():
        headword, *place = line.split("\t")[:3]
        if headword and not headword.startswith(ABOUT):
            offset, length = map(_number, place)
            places.add((offset, length))
    for offset, length in sorted(places):
        if offset + length > len(content):
            raise ValueError(f"the index names byte {offset + length:,} of {len(content):,}")
        yield content[offset : offset + length].decode("utf-8", "replace")


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        if digit not in DIGITS:
            raise ValueError(f"{digits!r} is no number in base 64")
        number = number * 64 + DIGITS[digit]
    return number

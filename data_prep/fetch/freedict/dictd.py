"""A dictionary as dictd has it: `.index` says where in `.dict.dz` an entry lies (dictzip, which gzip reads; UTF-8).

An index line is `headword TAB offset TAB length`, both in base 64, most significant digit first.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

DIGITS = {digit: value for value, digit in enumerate(f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/")}
ABOUT = ("00database", "00-database")
"""Beginnings of what is said of the dictionary."""
MOST_DIGITS, LONGEST_ENTRY = 11, 1 << 16
"""Of an offset or length, which has 64 bits at most; bytes of an entry."""
MOST_TIMES = 4
"""Bytes of all entries for each byte of the content: entries do not overlap, or hardly."""


def entries(index: str, content: bytes) -> Iterator[str]:
    """The text of every entry once, in the order of the content: several headwords may lead to one.

    Raises ValueError where the index is none, or that of another content, or its entries are too long or overlap.
    """
    places = set()
    for line in index.split("\n"):
        headword, *place = line.split("\t")[:3]
        if headword and not headword.startswith(ABOUT):
            offset, length = map(_number, place)
            places.add((offset, length))
    for offset, length in sorted(places):
        if offset + length > len(content):
            raise ValueError(f"the index names byte {offset + length:,} of {len(content):,}")
        if length > LONGEST_ENTRY:
            raise ValueError(f"an entry of {length:,} bytes; expected {LONGEST_ENTRY:,} at most")
    if sum(length for _, length in places) > MOST_TIMES * len(content):
        raise ValueError(f"its entries have more than {MOST_TIMES} times its {len(content):,} bytes: they overlap")
    for offset, length in sorted(places):
        yield content[offset : offset + length].decode("utf-8", "replace")


def _number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"{digits[:80]!r} has more than {MOST_DIGITS} digits")
    number = 0
    for digit in digits:
        if digit not in DIGITS:
            raise ValueError(f"{digits!r} is no number in base 64")
        number = number * 64 + DIGITS[digit]
    return number

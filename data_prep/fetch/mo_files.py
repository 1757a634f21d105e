"""Message catalogs of gettext (.mo): what a program says in English, and its translation.

The file: a magic number that tells the byte order, then how many messages there are and where the tables of English and of
translated messages lie; a table has the length and the offset of each. The context of a message stands before its English,
the forms of a plural one after another, and the message without English says in which encoding the others are.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
"""First bytes -> byte order."""
CONTEXT_ENDS, FORM_ENDS = b"\x04", b"\x00"
CHARSET = re.compile(rb"charset=([\w.-]+)")
OF_PYTHON = ("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape")
"""Encodings that no catalog has; some take time by the square of a text."""
MOST_TIMES = 4
"""Bytes of all messages for each byte of the file: programs that write catalogs let no two texts share many."""


class Message(NamedTuple):
    """One message; of a plural its first form in both languages."""

    context: str
    """What tells messages with the same English apart; "" for most."""
    english: str
    translation: str


def messages(content: bytes) -> Iterator[Message]:
    """All messages of a catalog, by context and English. Raises ValueError if it is none."""
    try:
        found = dict(_entries(content))
        about = CHARSET.search(found.pop(b"", b""))
        encoding = codecs.lookup(about[1].decode() if about else "utf-8").name
        if encoding in {codecs.lookup(name).name for name in OF_PYTHON}:
            raise LookupError(f"{encoding} is no encoding of catalogs")
        decoded = {_text(key, encoding): _text(text, encoding) for key, text in found.items()}
    except (struct.error, LookupError, UnicodeError) as error:
        raise ValueError(f"not a catalog of gettext ({error})") from None
    for key in sorted(decoded):
        context, is_given, english = key.rpartition(CONTEXT_ENDS.decode())
        yield Message(context if is_given else "", english, decoded[key])


def _text(content: bytes, encoding: str) -> str:
    text = content.decode(encoding)
    text.encode()  # halves of a character, which UTF-7 can spell, are no text
    return text


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    left = MOST_TIMES * len(content)
    order = MAGIC[content[:4]]
    count, english, translated = struct.unpack_from(f"{order}4x4x3I", content)
    for number in range(count):
        (length, start), (translated_length, translated_start) = (
            struct.unpack_from(f"{order}2I", content, table + 8 * number) for table in (english, translated)
        )
        if max(start + length, translated_start + translated_length) > len(content):
            raise LookupError(f"message {number} lies behind the end")
        left -= length + translated_length
        if left < 0:
            raise LookupError(f"its messages have more than {MOST_TIMES} times its bytes: they share their text")
        text = content[translated_start : translated_start + translated_length]
        yield content[start : start + length].partition(FORM_ENDS)[0], text.partition(FORM_ENDS)[0]

"""The text of a piece, for any kind of tokenizer: U+2581 if a space stands before it, then its characters.

WordPiece writes ##x inside a word and x at its beginning; byte-level BPE writes bytes as characters (a space as U+0120).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.corpus.joins import SPACE
from ernie_m.corpus.tokenizer_files import is_json, read_object

INSIDE = "##"


def _byte_characters() -> dict[int, str]:
    """GPT-2's: bytes that are printable characters stand for themselves, the others for those from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


CHARACTER_OF = _byte_characters()
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


@dataclass(frozen=True)
class Spelling:
    """How a kind of tokenizer writes pieces."""

    text: Callable[[str], str | None]
    """A piece's name -> what it stands for; None for bytes that are no whole characters."""
    name: Callable[[str], str]
    """The other way."""
    joined: Callable[[str, str], str] = str.__add__
    """The name of two neighbours as one piece."""


def _text_of_bytes(name: str) -> str | None:
    try:
        text = bytes(BYTE_OF[character] for character in name).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None
    return SPACE + text[1:] if text.startswith(" ") else text


def _name_of_bytes(text: str) -> str:
    spaced = " " + text[1:] if text.startswith(SPACE) else text
    return "".join(CHARACTER_OF[byte] for byte in spaced.encode("utf-8"))


MARKED = Spelling(text=lambda name: name, name=lambda text: text)
WORD_PIECE = Spelling(
    text=lambda name: name.removeprefix(INSIDE) if name.startswith(INSIDE) else SPACE + name,
    name=lambda text: text[1:] if text.startswith(SPACE) else INSIDE + text,
    joined=lambda left, right: left + right.removeprefix(INSIDE),
)
BYTES = Spelling(text=_text_of_bytes, name=_name_of_bytes)


def spelling_of(content: Mapping[str, Any]) -> Spelling:
    """That of a tokenizer.json."""
    if content["model"]["type"] == "WordPiece":
        return WORD_PIECE
    return BYTES if any(step["type"] == "ByteLevel" for step in steps_of(content.get("pre_tokenizer"))) else MARKED


def spelling_at(path: Path) -> Spelling:
    """That of a tokenizer's file: a tokenizer.json, or a SentencePiece model, whose names are the text."""
    return spelling_of(read_object(path)) if is_json(path) else MARKED


def steps_of(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, sequences laid out flat."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return [step for one in inner for step in steps_of(one)] if part["type"] == "Sequence" else [part]

"""The strings of a Mozilla language pack: Fluent (.ftl) and properties files, id -> text.

Left out is what is not text of its own: terms, access keys and styles, selections by number, and strings with places for
something else (`{ $name }`, `%S`). The programs' names are filled in; tags are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_prep.fetch.places.wording import AMPERSAND, without_markup

NAMES = {"-brand-short-name", "-brand-shorter-name", "-brand-full-name", "-brand-product-name"}
VENDOR = "-vendor-short-name"
NO_TEXT = {"accesskey", "commandkey", "key", "keycode", "style", "size", "data-l10n-attrs"}
"""Attributes of a Fluent message that are not read by people as text."""

_MESSAGE = re.compile(r"([a-zA-Z][\w-]*) *= *(.*)")
_ATTRIBUTE = re.compile(r" +\.([a-zA-Z][\w-]*) *= *(.*)")
_PROPERTY = re.compile(r"\s*([^#!\s][^=:\s]*)\s*[=:]\s*(.*)")
_PLACEABLE = re.compile(r"\{ *([^{}]*?) *\}")
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")


def fluent(content: str, program: str) -> dict[str, str]:
    """Texts of a Fluent file by id, attributes as `id.attribute`, in its order."""
    return _kept(_fluent_entries(content), program)


def properties(content: str, program: str) -> dict[str, str]:
    """Texts of a properties file by key, in its order."""
    joined = re.sub(r"\\\r?\n\s*", "", content)
    entries = (found.groups() for line in joined.splitlines() if (found := _PROPERTY.fullmatch(line)))
    return _kept(((key, AMPERSAND.sub("", _unescaped(text))) for key, text in entries), program)


def _fluent_entries(content: str) -> Iterator[tuple[str, str]]:
    """(id, value as it stands there); a value goes on in lines that begin with a space."""
    message, key, lines = "", "", list[str]()
    for line in [*content.splitlines(), "#"]:
        attribute = _ATTRIBUTE.fullmatch(line) if message else None
        if line.startswith(" ") and attribute is None:
            lines.append(line)
            continue
        if not line.strip():
            continue  # a value may hold empty lines
        if key:
            yield key, "\n".join(lines)
        if attribute:
            is_text = attribute[1] not in NO_TEXT
            key, lines = f"{message}.{attribute[1]}" if is_text else "", [attribute[2]]
        else:
            found = _MESSAGE.fullmatch(line)
            message = key = found[1] if found else ""
            lines = [found[2] if found else ""]


def _kept(entries: Iterator[tuple[str, str]], program: str) -> dict[str, str]:
    return {key: text for key, value in entries if (text := _text(value, program))}


def _text(value: str, program: str) -> str:
    """The text that a person reads; "" where something else would be filled in."""

    def filled(found: re.Match[str]) -> str:
        return program if found[1] in NAMES else "Mozilla" if found[1] == VENDOR else found[0]

    text = without_markup(_PLACEABLE.sub(filled, value))
    return "" if "{" in text or "}" in text or "%" in text else text


def _unescaped(text: str) -> str:
    return _UNICODE.sub(lambda found: chr(int(found[1], 16)), text).replace("\\n", "\n").replace("\\", "")

"""The messages of LibreOffice's windows, from gettext's catalogs (.mo): English and its translation, by context."""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

CONTEXT_ENDS = "\x04"
SHORTCUT = re.compile(r"~|_(?=\w)")
"""Marks the letter that a key press chooses: `~File`, `_Open`."""
SPACES = re.compile(r"\s+")


class Message(NamedTuple):
    """One string of a window."""

    window: str
    """The first part of its context: what stands together in one window."""
    context: str
    english: str
    translation: str


def messages(catalog: bytes) -> Iterator[Message]:
    """All messages of a catalog, in the order of their English; of plurals the first form."""
    entries: dict[object, object] = gettext.GNUTranslations(io.BytesIO(catalog))._catalog  # type: ignore[attr-defined]
    singular = {key[0] if isinstance(key, tuple) else key: text for key, text in reversed([*entries.items()])}
    for key in sorted(map(str, singular)):
        context, is_given, english = key.rpartition(CONTEXT_ENDS)
        cleaned, translation = _cleaned(english), _cleaned(str(singular[key]))
        if is_given and cleaned and translation:
            yield Message(context.partition("|")[0], context, cleaned, translation)


def _cleaned(text: str) -> str:
    return SPACES.sub(" ", SHORTCUT.sub("", text)).strip()

"""The messages of LibreOffice's windows, from gettext's catalogs (.mo): English and its translation, by context."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.fetch import mo_files
from data_prep.fetch.places.wording import SPACES

SHORTCUT = re.compile(r"~|_(?=\w)")
"""Marks the letter that a key press chooses: `~File`, `_Open`."""


class Message(NamedTuple):
    """One string of a window."""

    window: str
    """The first part of its context: what stands together in one window."""
    context: str
    english: str
    translation: str


def messages(catalog: bytes) -> Iterator[Message]:
    """All messages of a catalog that have a context, in the order of their English; of plurals the first form."""
    for found in mo_files.messages(catalog):
        cleaned, translation = _cleaned(found.english), _cleaned(found.translation)
        if found.context and cleaned and translation:
            yield Message(found.context.partition("|")[0], found.context, cleaned, translation)


def _cleaned(text: str) -> str:
    return SPACES.sub(" ", SHORTCUT.sub("", text)).strip()

"""What of a program's string a person reads: without tags, and without the marks of the keys that choose it."""

from __future__ import annotations

import html
import re

SPACES = re.compile(r"\s+")
AMPERSAND = re.compile(r"&(?=[a-z])|(?<!\w)&(?=\w)")
"""Before the letter that a key press chooses: `&Open`, `Do&n't`; not in `R&D`."""
TAG = re.compile(r"<[^<>]+>")
_ENTITY = re.compile(r"&#?\w+;")
"""With its semicolon: `Do&not` has none."""


def without_markup(text: str) -> str:
    """Tags off, entities as what they stand for, one space where there are several."""
    return SPACES.sub(" ", _ENTITY.sub(lambda found: html.unescape(found[0]), TAG.sub(" ", text))).strip()

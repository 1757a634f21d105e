"""Every text of a program at its place: (page, element) -> language -> text, English among them.

What stands at one place translates each other, exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

PIVOT = "en"

Place: TypeAlias = tuple[str, str]
"""(page of the help, window or file of a program; paragraph or message)."""
Segments: TypeAlias = dict[Place, dict[str, str]]


def languages_of(asked: Sequence[tuple[str, str]]) -> list[str]:
    """All of the asked pairs, and English, in which every text stands."""
    return sorted({language for pair in asked for language in pair} | {PIVOT})


def same_as_english(texts: dict[str, str], languages: Collection[str]) -> bool:
    """Whether one of these texts is the English one, not translated."""
    english = texts[PIVOT].casefold()
    return any(texts[language].casefold() == english for language in languages if language != PIVOT)

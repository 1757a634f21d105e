"""Every text of LibreOffice's packages at its place: (page, element) -> language -> text, English among them.

Help pages have the same paragraph ids in every language, windows the same contexts: what stands at one place translates each
other, exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from data_prep.fetch.libreoffice.help_pages import paragraphs
from data_prep.fetch.libreoffice.messages import messages
from data_prep.fetch.packages import Package
from ernie_m.base.console import Progress

PIVOT = "en"
HELP = r"usr/share/libreoffice/help/[^/]+/text/(?P<page>.+)\.html"
CATALOGS = r"usr/lib/libreoffice/program/resource/[^/]+/LC_MESSAGES/(?P<program>.+)\.mo"

Place: TypeAlias = tuple[str, str]
"""(page of the help or window of a program, paragraph or message)."""
Segments: TypeAlias = dict[Place, dict[str, str]]


def add_help(segments: Segments, language: str, package: Package, progress: Progress) -> None:
    """The paragraphs of a help package; of another language than English those alone that English has, in its order."""
    for found, content in package.files(HELP):
        page = f"help/{found['page']}"
        for element, text in paragraphs(content.decode("utf-8", "replace")).items():
            place = (page, element)
            if language == PIVOT:
                segments[place] = {PIVOT: text}
            elif place in segments:
                segments[place][language] = text
        progress.advance(1)


def add_messages(segments: Segments, language: str, package: Package, progress: Progress) -> None:
    """The messages of a language package, with their English."""
    for found, content in package.files(CATALOGS):
        for message in messages(content):
            place = (f"{found['program']}/{message.window}", f"{message.context} {message.english}")
            segments.setdefault(place, {PIVOT: message.english})[language] = message.translation
        progress.advance(1)


def same_as_english(texts: dict[str, str], languages: Collection[str]) -> bool:
    """Whether one of these texts is the English one, not translated."""
    english = texts[PIVOT].casefold()
    return any(texts[language].casefold() == english for language in languages if language != PIVOT)

"""The texts of LibreOffice's packages at their places.

Help pages have the same paragraph ids in every language, windows the same contexts.
"""

from __future__ import annotations

from data_prep.fetch.libreoffice.help_pages import paragraphs
from data_prep.fetch.libreoffice.messages import messages
from data_prep.fetch.packages import Package
from data_prep.fetch.places.segments import PIVOT, Segments
from ernie_m.base.console import InputError, Progress

HELP = r"usr/share/libreoffice/help/[^/]+/text/(?P<page>.+)\.html"
CATALOGS = r"usr/lib/libreoffice/program/resource/[^/]+/LC_MESSAGES/(?P<program>.+)\.mo"


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
    """The messages of a language package, with their English. Raises InputError for a broken catalog.

    None is passed over: what is held out follows from all English messages.
    """
    for found, content in package.files(CATALOGS):
        try:
            of_program = [*messages(content)]
        except ValueError as error:
            raise InputError(
                f"{package.path}: {found['program']}.mo: {error}; remove it and give the command again"
            ) from None
        for message in of_program:
            place = (f"{found['program']}/{message.window}", f"{message.context} {message.english}")
            segments.setdefault(place, {PIVOT: message.english})[language] = message.translation
        progress.advance(1)

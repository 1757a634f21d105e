"""`python -m data_prep fetch --corpus libreoffice`: the text of a program in up to 94 languages, out of Debian's packages.

1. `packages` (beside this folder) downloads the help and the windows' messages of each language.
2. `reading` puts what stands at one place of a page or window together: exact translations of each other.
3. `data_prep.fetch.places` holds pages out, makes pairs and text of them and writes them.

Source: LibreOffice's documentation and translations, MPL-2.0 (the packages' copyright files).
"""

from __future__ import annotations

from pathlib import Path

from data_prep.fetch import packages
from data_prep.fetch.from_packages import Key, LanguagePair
from data_prep.fetch.libreoffice.reading import add_help, add_messages
from data_prep.fetch.places import writing
from data_prep.fetch.places.segments import PIVOT, Segments, languages_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import InputError, Progress

CORPUS = "libreoffice"
HELP, MESSAGES = "libreoffice-help-", "libreoffice-l10n-"
SUFFIXES = {"en": "en-us", "zh": "zh-cn", "zh-hans": "zh-cn", "zh-hant": "zh-tw", "no": "nb", "pa": "pa-in", "gn": "gug"}
"""What Debian calls a language, where it is not its code."""
ALL_MESSAGES = "en-gb"
"""Has every message, also those that English (en-us) leaves as they are in the program."""


def needed(asked: list[LanguagePair], folder: Path) -> dict[Key, str]:
    """(kind, language) -> the name of its package; a language may have no help."""
    helps, programs = packages.available(HELP, folder), packages.available(MESSAGES, folder)
    names: dict[Key, str] = {(HELP, PIVOT): f"{HELP}{SUFFIXES[PIVOT]}", (MESSAGES, PIVOT): f"{MESSAGES}{ALL_MESSAGES}"}
    for language in languages_of(asked):
        suffix = SUFFIXES.get(language.lower().replace("_", "-"), language.lower().replace("_", "-"))
        if language != PIVOT and suffix not in programs:
            known = f"expected one of {', '.join(sorted(programs))}" if programs else f"or apt knows none: {packages.UPDATE}"
            raise InputError(f"--lang {language}: Debian has no package {MESSAGES}{suffix}; {known}")
        if suffix in helps:
            names[HELP, language] = f"{HELP}{suffix}"
        if suffix in programs:
            names[MESSAGES, language] = f"{MESSAGES}{suffix}"
    return names


def write(to: Path, asked: list[LanguagePair], brought: dict[Key, packages.Package]) -> None:
    """Pairs of the asked languages, held-out pairs between all of them, and their text; `catalog.yaml` names them."""
    languages = languages_of(asked)
    segments, splits = _read(languages, brought)
    writing.write(to, CORPUS, asked, languages, segments, splits, brought.values())


def _read(languages: list[str], brought: dict[Key, packages.Package]) -> tuple[Segments, Splits]:
    progress = Progress("reading", None, "pages")
    segments: Segments = {}
    add_help(segments, PIVOT, brought[HELP, PIVOT], progress)
    all_messages: Segments = {}
    add_messages(all_messages, ALL_MESSAGES, brought[MESSAGES, PIVOT], progress)
    splits = Splits((page, texts[PIVOT]) for part in (segments, all_messages) for (page, _), texts in part.items())
    segments |= {place: {PIVOT: texts[PIVOT]} for place, texts in all_messages.items()}
    for language in languages:
        for kind, add in ((HELP, add_help), (MESSAGES, add_messages)):
            if language != PIVOT and (kind, language) in brought:
                add(segments, language, brought[kind, language], progress)
    progress.close()
    return segments, splits

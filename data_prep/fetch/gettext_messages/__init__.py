"""`python -m data_prep fetch --corpus gettext`: windows of many programs in many languages, of Debian's packages.

1. `packages` downloads those of a set of `package_sets`, or those that the user names.
2. `mo_files` reads their catalogs, `wording` makes text of a message. Its translations translate each other, exactly.
3. `data_prep.fetch.places` holds texts out, makes pairs and text of them and writes them.

Source: the programs' translations, each under its program's free licence (the packages' copyright files).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.fetch import mo_files, packages
from data_prep.fetch.from_packages import Key, LanguagePair
from data_prep.fetch.gettext_messages.package_sets import DEFAULT_SET, PACKAGE_SETS
from data_prep.fetch.gettext_messages.wording import texts
from data_prep.fetch.places import writing
from data_prep.fetch.places.segments import PIVOT, Segments, languages_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import InputError, Progress

CORPUS = "gettext"
REFERENCE = ("de", "es", "fr")
"""Whose catalogs are read beside: what they translate is, together, nearly all that the programs say in English."""
LOCALES = {"zh": "zh_cn", "zh_hans": "zh_cn", "zh_hant": "zh_tw", "no": "nb"}
"""What gettext calls a language, where it is not its code."""
CATALOGS = r"usr/.*/(?P<locale>%s)/LC_MESSAGES/(?P<program>[^/]+)\.mo"
ANY = r"[A-Za-z]{2,3}(?:_[A-Za-z]+)?"
"""Any locale, but for variants of a language such as `sr@latin`."""


def needed(asked: list[LanguagePair], folder: Path) -> dict[Key, str]:
    """(package,) -> package, those of the default set that this distribution has; says how many, if it has not all."""
    return named([DEFAULT_SET], folder)


def named(names: list[str], folder: Path) -> dict[Key, str]:
    """The same of the packages, and sets of packages, that the user names. InputError for a package that is not there."""
    wanted = [name for word in names for name in PACKAGE_SETS.get(word, (word,))]
    offered = packages.offered(wanted, folder)
    for word in names:
        members = PACKAGE_SETS.get(word, (word,))
        here = [name for name in members if name in offered]
        if not here:
            what = f"none of its {len(members)} packages" if word in PACKAGE_SETS else "no such package"
            raise InputError(
                f"--corpus {CORPUS} --packages {word}: apt offers {what}; expected a package of Debian or one of the sets "
                f"{', '.join(PACKAGE_SETS)}, or {packages.UPDATE}"
            )
        if len(here) < len(members):
            print(f"{len(here)} of {len(members)} packages of {word} are offered here", flush=True)
    return {(name,): name for name in dict.fromkeys(wanted) if name in offered}


def write(to: Path, asked: list[LanguagePair], brought: dict[Key, packages.Package]) -> None:
    """Pairs of the asked languages, held-out pairs between all of them, and their text; `catalog.yaml` names them."""
    languages = languages_of(asked)
    segments: Segments = {}
    reference: dict[tuple[str, str], str] = {}
    progress = Progress("reading", len(brought), "packages")
    for package in brought.values():
        for language, page, message in _messages(package, {*languages, *REFERENCE} - {PIVOT}):
            if found := texts(message):
                place = (page, f"{message.context}{mo_files.CONTEXT_ENDS.decode()}{message.english}")
                here = segments.setdefault(place, {PIVOT: found[0]})
                if language in REFERENCE:
                    reference[place] = found[0]
                if language in languages:
                    here[language] = found[1]
        progress.advance(1)
    progress.close()
    for language in languages:
        if not any(language in found for found in segments.values()):
            raise InputError(f"--lang {language}: none of the packages has a message in it; they have {_locales(brought)}")
    known = reference or {place: found[PIVOT] for place, found in segments.items()}
    splits = Splits(((page, english) for (page, _), english in known.items()), by_text=True)
    writing.write(to, CORPUS, asked, languages, segments, splits, brought.values())


def _messages(package: packages.Package, languages: set[str]) -> Iterator[tuple[str, str, mo_files.Message]]:
    """(language, program, message) of these languages; `br` is preferred to `br_FR`, where a program has both."""
    patterns = {language: _locale_pattern(language) for language in sorted(languages)}
    catalogs: dict[tuple[str, str], tuple[str, bytes]] = {}
    for found, content in package.files(CATALOGS % "|".join(patterns.values())):
        for language, pattern in patterns.items():
            if re.fullmatch(pattern, found["locale"]):
                key, here = (found["program"], language), (found["locale"], content)
                catalogs[key] = min(catalogs.get(key, here), here, key=lambda catalog: (len(catalog[0]), catalog[0]))
    for (program, language), (locale, content) in sorted(catalogs.items()):
        try:
            for message in mo_files.messages(content):
                yield language, program, message
        except ValueError as error:
            print(f"{package.path}: {program} in {locale} is passed over: {error}", file=sys.stderr, flush=True)


def _locale_pattern(language: str) -> str:
    code = language.replace("-", "_").lower()
    return f"(?i:{re.escape(LOCALES.get(code, code))})(?:_[A-Z]{{2}})?"


def _locales(brought: dict[Key, packages.Package]) -> str:
    found = (match["locale"] for package in brought.values() for match, _ in package.files(CATALOGS % ANY))
    return ", ".join(sorted(set(found)))

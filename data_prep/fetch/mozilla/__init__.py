"""`python -m data_prep fetch --corpus mozilla`: windows of Firefox and Thunderbird in many languages, of Debian's packages.

1. `packages` downloads the language packs of each language; English is that of Britain, which is a pack like the others.
2. `strings` reads them. What has one id in one file translates each other, exactly.
3. `data_prep.fetch.places` holds files out, makes pairs and text of them and writes them.

Source: Mozilla's localisations, MPL-2.0 (the packages' copyright files).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from data_prep.fetch import packages
from data_prep.fetch.from_packages import Key, LanguagePair
from data_prep.fetch.mozilla.strings import fluent, properties
from data_prep.fetch.places import writing
from data_prep.fetch.places.segments import PIVOT, Segments, languages_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import InputError, Progress

CORPUS = "mozilla"
PROGRAMS = {"firefox-esr-l10n-": "Firefox", "thunderbird-l10n-": "Thunderbird"}
"""Beginning of a package's name -> the program's own."""
SUFFIXES = {"en": "en-gb", "zh": "zh-cn", "zh-hans": "zh-cn", "zh-hant": "zh-tw", "no": "nb-no"}
"""What Debian calls a language, where it is neither its code nor that with a region."""
PACK = r"usr/lib/.+/langpack-(?P<locale>[\w-]+)@.+\.xpi"
FORMATS = {"ftl": fluent, "properties": properties}
LARGEST_FILE = 1 << 24
"""Bytes of one file of strings, unpacked; the largest there are have 200,000."""


def needed(asked: list[LanguagePair], folder: Path) -> dict[Key, str]:
    """(beginning of the name, language) -> package; a language may be in one program alone."""
    names: dict[Key, str] = {}
    known = {prefix: packages.available(prefix, folder) for prefix in PROGRAMS}
    for language in languages_of(asked):
        found = {prefix: suffix for prefix in PROGRAMS if (suffix := _suffix(language, known[prefix]))}
        if not found:
            there = sorted(set().union(*known.values()))
            expected = f"expected one of {', '.join(there)}" if there else f"or apt knows none: {packages.UPDATE}"
            raise InputError(f"--lang {language}: Debian has no package {next(iter(PROGRAMS))}{language}; {expected}")
        names |= {(prefix, language): f"{prefix}{suffix}" for prefix, suffix in found.items()}
    return names


def write(to: Path, asked: list[LanguagePair], brought: dict[Key, packages.Package]) -> None:
    """Pairs of the asked languages, held-out pairs between all of them, and their text; `catalog.yaml` names them."""
    languages = languages_of(asked)
    segments: Segments = {}
    progress = Progress("reading", len(brought), "packages")
    for language in (PIVOT, *(language for language in languages if language != PIVOT)):
        for prefix, program in PROGRAMS.items():
            if (prefix, language) in brought:
                _add(segments, language, program, brought[prefix, language])
                progress.advance(1)
    progress.close()
    splits = Splits((page, texts[PIVOT]) for (page, _), texts in segments.items())
    writing.write(to, CORPUS, asked, languages, segments, splits, brought.values())


def _suffix(language: str, known: Collection[str]) -> str | None:
    """`br` for br, `es-es` for es, `sv-se` for sv: the code, the code twice, or the only one with a region."""
    code = language.lower().replace("_", "-")
    code = SUFFIXES.get(code, code)
    of_regions = [name for name in known if name.startswith(f"{code}-")]
    for name in (code, f"{code}-{code}", *(of_regions if len(of_regions) == 1 else ())):
        if name in known:
            return name
    return None


def _add(segments: Segments, language: str, program: str, package: packages.Package) -> None:
    """The strings of a language pack; of another language than English those alone that English has, in its order."""
    for found, content in package.files(PACK):
        for filename, strings in _files(package, content):
            read = FORMATS[filename.rpartition(".")[2]]
            name = "/".join(part for part in filename.split("/") if part != found["locale"])
            for key, text in read(strings.decode("utf-8", "replace"), program).items():
                place = (f"{program}/{name}", key)
                if language == PIVOT:
                    segments[place] = {PIVOT: text}
                elif place in segments:
                    segments[place][language] = text


def _files(package: packages.Package, content: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of strings in a language pack."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as pack:
            for member in pack.infolist():
                if member.filename.rpartition(".")[2] not in FORMATS:
                    continue
                if member.file_size > LARGEST_FILE:
                    raise InputError(
                        f"{package.path}: {member.filename} has {member.file_size:,} bytes; not a file of strings"
                    )
                yield member.filename, pack.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{package.path}: not a whole language pack ({error}); remove it and give the command again"
        ) from None

"""`python -m data_prep fetch --corpus freedict`: FreeDict's dictionaries, words and phrases with their translations.

1. `packages` (beside this folder) downloads the dictionaries of each pair, both directions where there are two.
2. `dictd` reads their entries, `entry` finds headwords, translations and examples in one.
3. `collecting` takes a few translations of each headword and holds words out.

Source: FreeDict (https://freedict.org), GPL or another free licence (each package's copyright file).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from data_prep.fetch import packages, pair_files
from data_prep.fetch.freedict import dictd
from data_prep.fetch.freedict.collecting import LEFT_OUT, Collected
from data_prep.fetch.freedict.entry import Entry, read
from data_prep.fetch.from_packages import Key, LanguagePair
from ernie_m.base.console import InputError, Progress
from ernie_m.base.language_codes import canonical, three_letters, without_region

CORPUS = "freedict"
PREFIX = "dict-freedict-"
CODES = {"sw": "swh", "ro": "rom"}
"""What FreeDict calls a language, where it is not its code of three letters. Its `rom` is Romanian, not Romani."""
FILES = r"usr/share/dictd/freedict-.+\.(?P<kind>index|dict\.dz)"

LARGEST_CONTENT = 1 << 28
"""Bytes of a dictionary, unpacked; the largest there is has 100 million."""


def needed(asked: list[LanguagePair], folder: Path) -> dict[Key, str]:
    """(from, to) -> package, of both directions where there are two."""
    there, names = packages.available(PREFIX, folder), dict[Key, str]()
    for pair in asked:
        found = {way: name for way in (pair, pair[::-1]) if (name := "-".join(map(_code, way))) in there}
        if not found:
            name = "-".join(map(_code, pair))
            raise InputError(f"--lang {'-'.join(pair)}: Debian has no package {PREFIX}{name}; {_others(pair, there)}")
        names |= {way: f"{PREFIX}{name}" for way, name in found.items()}
    return names


def write(to: Path, asked: list[LanguagePair], brought: dict[Key, packages.Package]) -> None:
    """Pairs of the asked languages, and held-out pairs; a dictionary is no text, so there are no files of one language."""
    progress = Progress("reading", None, "entries")
    found = []
    for pair in asked:
        collected = Collected(pair)
        for way in (pair, pair[::-1]):
            for entry in _entries(brought[way]) if way in brought else ():
                collected.add(entry, is_turned=way != pair)
                progress.advance(1)
        found.append(collected.pairs())
    progress.close()
    pair_files.write(to, CORPUS, asked, found, {}, brought.values(), ("in the dictionaries", *LEFT_OUT))


def _code(language: str) -> str:
    return CODES.get(without_region(language)) or three_letters(language)


def _others(pair: LanguagePair, there: set[str]) -> str:
    """Which pairs these languages have, English aside."""
    if not there:
        return f"or apt knows none: {packages.UPDATE}"
    two = {code: language for language, code in CODES.items()}
    known = {tuple(sorted(two.get(code) or canonical(code) for code in name.split("-"))) for name in there}
    ours = {canonical(code) for code in pair} - {"en"}
    near = sorted("-".join(languages) for languages in known if ours & {*languages})
    if near:
        return f"expected one of {', '.join(near)}"
    return f"no dictionary has {' or '.join(sorted(ours))}; there are {', '.join(sorted({*sum(known, ())}))}"


def _entries(package: packages.Package) -> Iterator[Entry]:
    files = {found["kind"]: content for found, content in package.files(FILES)}
    try:
        content = _unpacked(files["dict.dz"])
        yield from map(read, dictd.entries(files["index"].decode("utf-8", "replace"), content))
    except (KeyError, ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{package.path}: not a dictionary of dictd ({error!r}); remove it and give the command again"
        ) from None


def _unpacked(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unpacked = file.read(LARGEST_CONTENT + 1)
    if len(unpacked) > LARGEST_CONTENT:
        raise ValueError(f"it unpacks to more than {LARGEST_CONTENT:,} bytes")
    return unpacked

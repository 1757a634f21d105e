"""`python -m data_prep fetch --corpus libreoffice`: the text of a program in up to 94 languages, out of Debian's packages.

1. `packages` (beside this folder) downloads the help and the windows' messages of each language.
2. `segments` puts what stands at one place of a page or window together: exact translations of each other.
3. `splits` holds whole pages out, and what is nearly the same elsewhere out of both sides.
4. `selection` makes pairs and text of them; here they are written, and named in the catalog.

Source: LibreOffice's documentation and translations, MPL-2.0 (the packages' copyright files).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from data_prep.fetch import catalog_file, packages
from data_prep.fetch.libreoffice.segments import PIVOT, Segments, add_help, add_messages
from data_prep.fetch.libreoffice.selection import LEFT_OUT, Judged, Pairs, documents_of, judged, pairs_of
from data_prep.fetch.libreoffice.splits import Splits
from data_prep.fetch.sources import Entry
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.table import table
from ernie_m.corpus.shard_table import HELD_OUT, TRAIN

CORPUS = "libreoffice"
HELP, MESSAGES = "libreoffice-help-", "libreoffice-l10n-"
SUFFIXES = {"en": "en-us", "zh": "zh-cn", "zh-hans": "zh-cn", "zh-hant": "zh-tw", "no": "nb", "pa": "pa-in", "gn": "gug"}
"""What Debian calls a language, where it is not its code."""
ALL_MESSAGES = "en-gb"
"""Has every message, also those that English (en-us) leaves as they are in the program."""


def fetch(to: Path, asked: Sequence[tuple[str, str]]) -> None:
    """Pairs of the asked languages, held-out pairs between all of them, and their text; `catalog.yaml` names them.

    Raises InputError where there is no apt, or no package of a language.
    """
    packages.require_apt(CORPUS)
    languages = sorted({language for pair in asked for language in pair} | {PIVOT})
    needed = _needed(languages)
    folder = to / CORPUS
    brought = dict(zip(needed, packages.bring([*needed.values()], folder / "packages"), strict=True))
    segments, splits = _read(languages, brought)
    places = judged(segments, splits)
    apart = [place for place in places if place.split == HELD_OUT]
    pairs = _all_pairs(languages, asked)
    progress = Progress("writing", len(pairs), "pairs of languages")
    tell = []
    for pair in pairs:
        tell.append(_write_pairs(folder, pair, places if pair in asked else apart, pair in asked))
        progress.advance(1)
    progress.close()
    for language in languages:
        _write_lines(folder / f"{CORPUS}.{language}.txt", _with_gaps(documents_of(places, language)))
    write_json(folder / "packages.json", [package.told() for package in brought.values()])
    for line in catalog_file.add(to / "catalog.yaml", _entries(languages, asked, tell)):
        print(f"  {to / 'catalog.yaml'}: {line}", flush=True)
    print(_summary(tell, asked))


def _needed(languages: list[str]) -> dict[tuple[str, str], str]:
    """(kind, language) -> the name of its package; a language may have no help."""
    helps, programs = packages.available(HELP), packages.available(MESSAGES)
    needed = {(HELP, PIVOT): f"{HELP}{SUFFIXES[PIVOT]}", (MESSAGES, PIVOT): f"{MESSAGES}{ALL_MESSAGES}"}
    for language in languages:
        suffix = SUFFIXES.get(language.lower().replace("_", "-"), language.lower().replace("_", "-"))
        if language != PIVOT and suffix not in programs:
            known = f"expected one of {', '.join(sorted(programs))}" if programs else f"or apt knows none: {packages.UPDATE}"
            raise InputError(f"--lang {language}: Debian has no package {MESSAGES}{suffix}; {known}")
        if suffix in helps:
            needed[HELP, language] = f"{HELP}{suffix}"
        if suffix in programs:
            needed[MESSAGES, language] = f"{MESSAGES}{suffix}"
    return needed


def _read(languages: list[str], brought: dict[tuple[str, str], packages.Package]) -> tuple[Segments, Splits]:
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


def _all_pairs(languages: list[str], asked: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The asked pairs as they were asked for, then all others."""
    present = {frozenset(pair) for pair in asked}
    return [*dict.fromkeys(asked), *(pair for pair in combinations(languages, 2) if frozenset(pair) not in present)]


def _stem(languages: tuple[str, str]) -> str:
    return f"{CORPUS}.{'-'.join(sorted(languages))}"


def _write_pairs(folder: Path, languages: tuple[str, str], places: Sequence[Judged], is_trained: bool) -> Pairs:
    """Training pairs as a table, held-out pairs as two line-aligned files."""
    pairs, stem = pairs_of(places, languages), _stem(languages)
    if is_trained:
        _write_lines(folder / f"{stem}.tsv", map("\t".join, pairs.by_split[TRAIN]))
    (folder / HELD_OUT).mkdir(exist_ok=True)
    for side, language in enumerate(languages):
        _write_lines(folder / HELD_OUT / f"{stem}.{language}", (pair[side] for pair in pairs.by_split[HELD_OUT]))
    return pairs


def _with_gaps(documents: Iterable[list[str]]) -> Iterable[str]:
    """The lines of documents, an empty line after each, as CC-100 has them."""
    return (line for document in documents for line in (*document, ""))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with written_atomically(path) as aside, open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _entries(languages: list[str], asked: Sequence[tuple[str, str]], pairs: list[Pairs]) -> list[Entry]:
    entries: list[Entry] = []
    for language in languages:
        name = f"{CORPUS}.{language}"
        entries.append({"name": name, "format": "cc100", "path": f"{CORPUS}/{name}.txt", "language": language})
    for found in pairs:
        stem, codes = _stem(found.languages), [*found.languages]
        if found.languages not in asked:
            continue
        path = f"{CORPUS}/{stem}.tsv"
        entries.append({"name": stem, "format": "tsv", "path": path, "languages": codes, "held_out": 0})
        if found.by_split[HELD_OUT]:
            files = {
                key: f"{CORPUS}/{HELD_OUT}/{stem}.{code}" for key, code in zip(("source", "target"), codes, strict=True)
            }
            name = f"{CORPUS}.held-out.{'-'.join(sorted(codes))}"
            entries.append({"name": name, "format": "moses", **files, "languages": codes, "held_out": 1})
    return entries


def _summary(pairs: list[Pairs], asked: Sequence[tuple[str, str]]) -> str:
    head = ["pair", "at one place", *LEFT_OUT, "training", "held out"]
    rows = []
    for found in pairs:
        numbers = [found.aligned, *(found.left_out[reason] for reason in LEFT_OUT), len(found.by_split[TRAIN])]
        cells = [f"{number:,}" for number in (*numbers, len(found.by_split[HELD_OUT]))]
        if found.languages in asked:  # of the others only held-out places were looked at
            rows.append(["-".join(found.languages), *cells])
    others = [len(found.by_split[HELD_OUT]) for found in pairs if found.languages not in asked]
    more = f"\nheld-out pairs between the other languages: {min(others):,} to {max(others):,} each" if others else ""
    return table(head, rows) + more

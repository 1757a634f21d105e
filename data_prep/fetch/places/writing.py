"""Pairs, held-out pairs and text as files, and their entries in the catalog.

TO/CORPUS/CORPUS.XX.txt            text of a language, a page a document
TO/CORPUS/CORPUS.XX-YY.tsv         training pairs of the languages that were asked for
TO/CORPUS/held_out/CORPUS.XX-YY.XX held-out pairs of all languages with each other, line-aligned
TO/CORPUS/packages.json            where it is from
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from data_prep.fetch import catalog_file
from data_prep.fetch.packages import Package
from data_prep.fetch.places.segments import Segments
from data_prep.fetch.places.selection import LEFT_OUT, Judged, Pairs, documents_of, judged, pairs_of
from data_prep.fetch.places.splits import Splits
from data_prep.fetch.sources import Entry
from ernie_m.base.console import Progress
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.table import table
from ernie_m.corpus.shard_table import HELD_OUT, TRAIN


def write(
    to: Path,
    corpus: str,
    asked: Sequence[tuple[str, str]],
    languages: list[str],
    segments: Segments,
    splits: Splits,
    brought: Sequence[Package],
) -> None:
    """Write all files of a corpus, add them to `to`/catalog.yaml, print what became of the places."""
    folder = to / corpus
    places = judged(segments, splits)
    apart = [place for place in places if place.split == HELD_OUT]
    pairs = _all_pairs(languages, asked)
    progress = Progress("writing", len(pairs), "pairs of languages")
    tell = []
    for pair in pairs:
        tell.append(_write_pairs(folder, _stem(corpus, pair), pair, places if pair in asked else apart, pair in asked))
        progress.advance(1)
    progress.close()
    for language in languages:
        _write_lines(folder / f"{corpus}.{language}.txt", _with_gaps(documents_of(places, language)))
    write_json(folder / "packages.json", [package.told() for package in brought])
    for line in catalog_file.add(to / "catalog.yaml", _entries(corpus, languages, asked, tell)):
        print(f"  {to / 'catalog.yaml'}: {line}", flush=True)
    print(_summary(tell, asked))


def _all_pairs(languages: list[str], asked: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The asked pairs as they were asked for, then all others."""
    present = {frozenset(pair) for pair in asked}
    return [*dict.fromkeys(asked), *(pair for pair in combinations(languages, 2) if frozenset(pair) not in present)]


def _stem(corpus: str, languages: tuple[str, str]) -> str:
    return f"{corpus}.{'-'.join(sorted(languages))}"


def _write_pairs(folder: Path, stem: str, languages: tuple[str, str], places: Sequence[Judged], is_trained: bool) -> Pairs:
    """Training pairs as a table, held-out pairs as two line-aligned files."""
    pairs = pairs_of(places, languages)
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


def _entries(corpus: str, languages: list[str], asked: Sequence[tuple[str, str]], pairs: list[Pairs]) -> list[Entry]:
    entries: list[Entry] = []
    for language in languages:
        name = f"{corpus}.{language}"
        entries.append({"name": name, "format": "cc100", "path": f"{corpus}/{name}.txt", "language": language})
    for found in pairs:
        stem, codes = _stem(corpus, found.languages), [*found.languages]
        if found.languages not in asked:
            continue
        path = f"{corpus}/{stem}.tsv"
        entries.append({"name": stem, "format": "tsv", "path": path, "languages": codes, "held_out": 0})
        if found.by_split[HELD_OUT]:
            files = {
                key: f"{corpus}/{HELD_OUT}/{stem}.{code}" for key, code in zip(("source", "target"), codes, strict=True)
            }
            name = f"{corpus}.held-out.{'-'.join(sorted(codes))}"
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

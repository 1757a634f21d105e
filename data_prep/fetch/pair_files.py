"""Pairs, held-out pairs and text as files, and their entries in the catalog.

TO/CORPUS/CORPUS.XX.txt            text of a language, a page a document, where a corpus has any
TO/CORPUS/CORPUS.XX-YY.tsv         training pairs of the languages that were asked for
TO/CORPUS/held_out/CORPUS.XX-YY.XX held-out pairs, line-aligned
TO/CORPUS/packages.json            which packages it is from, of all commands
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.fetch import catalog_file, packages
from data_prep.fetch.catalog_file import Entry
from data_prep.fetch.packages import Package
from ernie_m.base.files import written_atomically
from ernie_m.base.table import table
from ernie_m.corpus.shard_table import HELD_OUT, TRAIN


@dataclass
class Pairs:
    """The pairs of two languages, by split, and how many were left out, by reason."""

    languages: tuple[str, str]
    by_split: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {TRAIN: [], HELD_OUT: []})
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def aligned(self) -> int:
        """All that were there."""
        return sum(map(len, self.by_split.values())) + self.left_out.total()


def write(
    to: Path,
    corpus: str,
    asked: Sequence[tuple[str, str]],
    found: Sequence[Pairs],
    texts: Mapping[str, Iterable[list[str]]],
    brought: Iterable[Package],
    counted: Sequence[str],
) -> None:
    """Write all files of a corpus, add them to `to`/catalog.yaml, print what became of what was there.

    Pairs that were not `asked` for have their held-out files alone. `texts`: the documents of a language. `counted`: what
    `Pairs.aligned` counts, then the reasons for which pairs were left out. Raises InputError as `catalog_file.missing_from`.
    """
    entries = _entries(corpus, texts, asked)
    catalog_file.missing_from(to / "catalog.yaml", entries)  # a catalog in the way is known before a file is replaced
    (to / corpus / HELD_OUT).mkdir(parents=True, exist_ok=True)
    for pairs in found:
        _write_pairs(to, corpus, pairs, pairs.languages in asked)
    for language, documents in texts.items():
        _write_lines(to / text_file(corpus, language), _with_gaps(documents))
    if told := [*brought]:
        packages.record(to / corpus, told)
    full = [entry for entry in entries if (to / catalog_file.file_of(entry)).stat().st_size]  # a build refuses empty files
    for line in catalog_file.add(to / "catalog.yaml", full):
        print(f"  {to / 'catalog.yaml'}: {line}", flush=True)
    print(_summary(found, asked, counted))


def text_file(corpus: str, language: str) -> str:
    """Where the text of a language is, in the folder of the catalog."""
    return f"{corpus}/{corpus}.{language}.txt"


def table_file(corpus: str, languages: tuple[str, str]) -> str:
    """Where the training pairs are."""
    return f"{corpus}/{_stem(corpus, languages)}.tsv"


def held_out_file(corpus: str, languages: tuple[str, str], language: str) -> str:
    """Where one side of the held-out pairs is."""
    return f"{corpus}/{HELD_OUT}/{_stem(corpus, languages)}.{language}"


def held_out_name(corpus: str, languages: tuple[str, str]) -> str:
    """What the catalog calls the held-out pairs."""
    return f"{corpus}.held-out.{'-'.join(sorted(languages))}"


def _stem(corpus: str, languages: tuple[str, str]) -> str:
    return f"{corpus}.{'-'.join(sorted(languages))}"


def _write_pairs(to: Path, corpus: str, pairs: Pairs, is_trained: bool) -> None:
    """Training pairs as a table, held-out pairs as two line-aligned files."""
    if is_trained:
        _write_lines(to / table_file(corpus, pairs.languages), map("\t".join, pairs.by_split[TRAIN]))
    for side, language in enumerate(pairs.languages):
        path = to / held_out_file(corpus, pairs.languages, language)
        _write_lines(path, (pair[side] for pair in pairs.by_split[HELD_OUT]))


def _with_gaps(documents: Iterable[list[str]]) -> Iterable[str]:
    """The lines of documents, an empty line after each, as CC-100 has them."""
    return (line for document in documents for line in (*document, ""))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with written_atomically(path) as aside, open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _entries(corpus: str, languages: Iterable[str], asked: Sequence[tuple[str, str]]) -> list[Entry]:
    entries: list[Entry] = []
    for language in languages:
        name, path = f"{corpus}.{language}", text_file(corpus, language)
        entries.append({"name": name, "format": "cc100", "path": path, "language": language})
    for pair in asked:
        codes, path = [*pair], table_file(corpus, pair)
        entries.append({"name": _stem(corpus, pair), "format": "tsv", "path": path, "languages": codes, "held_out": 0})
        files = {key: held_out_file(corpus, pair, code) for key, code in zip(("source", "target"), codes, strict=True)}
        name = held_out_name(corpus, pair)
        entries.append({"name": name, "format": "moses", **files, "languages": codes, "held_out": 1})
    return entries


def _summary(pairs: Sequence[Pairs], asked: Sequence[tuple[str, str]], counted: Sequence[str]) -> str:
    head = ["pair", *counted, "training", "held out"]
    rows = []
    for found in pairs:
        numbers = [found.aligned, *(found.left_out[reason] for reason in counted[1:]), len(found.by_split[TRAIN])]
        cells = [f"{number:,}" for number in (*numbers, len(found.by_split[HELD_OUT]))]
        if found.languages in asked:  # of the others only held-out places were looked at
            rows.append(["-".join(found.languages), *cells])
    others = [len(found.by_split[HELD_OUT]) for found in pairs if found.languages not in asked]
    more = f"\nheld-out pairs between the other languages: {min(others):,} to {max(others):,} each" if others else ""
    return table(head, rows) + more

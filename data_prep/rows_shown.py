"""Rows of a finished folder as text, to be looked at: `python -m data_prep show`.

A shard does not say from which line of the raw file a row came. With the catalog the chunk of the row is read again and
each of its rows is numbered as when it was built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep import readers
from data_prep.catalog import Corpus, read_catalog
from data_prep.convert import Conversion
from data_prep.exclusion.lookup import Lookup, lookup_of
from data_prep.work_folder import finished_chunk_bytes
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusEntry, Manifest, Shard, ShardEntry
from ernie_m.corpus.vocabulary import EncodedTexts


def shown_rows(
    data: Path, corpus: str, row: int | None, random: int, split: str, seed: int, catalog: Path | None
) -> Iterator[str]:
    """A paragraph a row: row `row` of a split of a corpus, or `random` of its rows, the same for the same seed.

    Raises InputError for a corpus, split or row that the folder does not have.
    """
    manifest = Manifest.read(data)
    entry = _entry(data, manifest, corpus)
    if split not in (TRAIN, HELD_OUT):
        raise InputError(f"--split {split}: expected {TRAIN} or {HELD_OUT}")
    if (row is None) == (random == 0):
        raise InputError("show: expected one of --row and --random")
    shards = entry.shards.of_split(split)
    ends = np.cumsum(shards.rows)
    total = int(ends[-1]) if len(ends) else 0
    if row is not None and row >= total:
        raise InputError(f"--row {row}: {corpus} has {total:,} rows in the split {split}, counted from 0")
    chosen = [row] if row is not None else np.random.default_rng(seed).choice(total, min(random, total), replace=False)
    vocabulary = open_vocabulary(data / manifest.tokenizer_file)
    source = None if catalog is None else _source(catalog, corpus)
    for number in sorted(map(int, chosen)):
        place = int(np.searchsorted(ends, number, side="right"))
        shard, inside = shards[place], number - int(ends[place] - shards.rows[place])
        line = (
            "" if source is None else f", line {_raw_line(data, source, vocabulary, shard, inside):,} of {source.files[0]}"
        )
        yield f"{corpus}, {split} row {number:,} ({shard.file}, its row {inside:,}{line})"
        yield from _texts(Shard(data, shard, len(entry.languages)), inside, entry.languages, vocabulary)


def _entry(data: Path, manifest: Manifest, corpus: str) -> CorpusEntry:
    entries = {entry.name: entry for entry in manifest.corpora}
    if corpus not in entries:
        raise InputError(
            f"--corpus {corpus}: {data} has no such corpus{nearest(corpus, entries) or ','} it has {', '.join(entries)}"
        )
    return entries[corpus]


def _texts(shard: Shard, row: int, languages: tuple[str, ...], vocabulary: AnyVocabulary) -> Iterator[str]:
    begin, end = shard.borders(row, row + 1)
    for values, language, first, last in zip(shard.values, languages, begin.tolist(), end.tolist(), strict=True):
        starts = ", a document starts" if len(languages) == 1 and shard.starts_document[row] else ""
        yield f"  {language} ({last - first} tokens{starts}): {vocabulary.decode(values[first:last].tolist())}"


def _source(catalog: Path, name: str) -> Corpus:
    corpus = next((corpus for corpus in read_catalog(catalog) if corpus.name == name), None)
    if corpus is None:
        raise InputError(f"--catalog {catalog}: has no corpus {name}")
    if corpus.is_compared:
        raise InputError(f"--catalog {catalog}: {name} was built without repeated lines, so a row's line is not known")
    return corpus


class _Numbered(Conversion):
    """Notes the line of each row of a chunk, and keeps no tokens."""

    def __init__(self, corpus: Corpus, vocabulary: AnyVocabulary, kept_out: Lookup) -> None:
        super().__init__(corpus, vocabulary, False, kept_out)
        self.lines: dict[str, list[int]] = {TRAIN: [], HELD_OUT: []}

    def _keep(
        self,
        sides: list[list[str]],
        encoded: list[EncodedTexts],
        keep: np.ndarray,
        held_out: np.ndarray,
        documents: np.ndarray,
        numbers: np.ndarray,
    ) -> None:
        self.lines[TRAIN] += numbers[keep & ~held_out].tolist()
        self.lines[HELD_OUT] += numbers[keep & held_out].tolist()


def _raw_line(data: Path, corpus: Corpus, vocabulary: AnyVocabulary, shard: ShardEntry, row: int) -> int:
    """The line of a row in the raw file, from 1."""
    chunk_bytes, before = finished_chunk_bytes(data), 0
    with readers.named(corpus):
        for chunk in readers.all_chunks(corpus, chunk_bytes):
            if chunk.index == shard.number:
                numbered = _Numbered(corpus, vocabulary, lookup_of(data))
                for lines in readers.parse(corpus, chunk):
                    numbered.add(lines)
                found = numbered.lines[shard.split]
                if len(found) == shard.rows:
                    return before + found[row]
                break
            before += readers.num_lines(chunk)
    raise InputError(f"{corpus.files[0]}: not what {data} was built of; give the catalog and files of that build")

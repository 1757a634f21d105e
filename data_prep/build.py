"""A catalog and a tokenizer -> a corpus folder.

1. Everything that can be wrong is looked at first: catalog, tokenizer, output folder, the first record of each corpus.
2. Each corpus runs through reader -> cleaner -> tokenizer -> shard writer, in batches.
3. The tokenizer is copied beside the shards, and the manifest is written last: a folder without it is not finished.
"""

from __future__ import annotations

import itertools
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow
import sentencepiece

import ernie_m
from data_prep.catalog import Corpus, read_catalog
from data_prep.clean import NO_TOKENS, clean, split_of
from data_prep.output_folder import check_output_folder, prepare_output_folder
from data_prep.readers import check_readable, input_bytes, named, read
from data_prep.records import Count, Record
from data_prep.shard_writer import ROWS_PER_SHARD, ShardWriter
from data_prep.table import table
from ernie_m.console import InputError, Progress, duration
from ernie_m.corpus import HELD_OUT, TRAIN, CorpusEntry, Manifest
from ernie_m.files import sha256_of, written_atomically
from ernie_m.vocabulary import TOKENIZER_FILE, Vocabulary

BATCH_LINES = 4096
T = TypeVar("T")


def build(
    catalog: Path, tokenizer: Path, out: Path, rows_per_shard: int = ROWS_PER_SHARD, overwrite: bool = False
) -> Manifest:
    """Build `out` and return its manifest; raises InputError for whatever is wrong with the input."""
    started = time.monotonic()
    corpora = read_catalog(catalog)
    vocabulary = Vocabulary(tokenizer)
    _refuse_tokenizer_inside(tokenizer, out)
    check_output_folder(out, overwrite)
    check_readable(corpora)
    prepare_output_folder(out)
    progress = Progress("build", sum(map(input_bytes, corpora)), "bytes")
    tallies: list[Tally] = []
    entries: list[CorpusEntry] = []
    for corpus in corpora:
        tally = Tally()
        with named(corpus):
            entries.append(convert(corpus, vocabulary, out, rows_per_shard, progress, tally))
        tallies.append(tally)
    progress.close()
    with written_atomically(out / TOKENIZER_FILE) as aside:
        shutil.copyfile(tokenizer, aside)
    fingerprint = sha256_of(out / TOKENIZER_FILE)
    if fingerprint != vocabulary.fingerprint:
        raise InputError(f"tokenizer {tokenizer}: changed while the shards were built; run the build again")
    manifest = Manifest(TOKENIZER_FILE, fingerprint, vocabulary.size, tuple(entries), versions())
    manifest.write(out)
    print(summary(manifest, tallies))
    print(f"\n{out}: {_total_rows(manifest):,} rows in {duration(time.monotonic() - started)}")
    return manifest


@dataclass
class Tally:
    """What became of the lines of a corpus."""

    lines_read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first_line: dict[str, int] = field(default_factory=dict)

    def reject(self, line: int, reason: str) -> None:
        """Count a rejected line."""
        self.rejected[reason] += 1
        self.first_line.setdefault(reason, line)


def convert(
    corpus: Corpus, vocabulary: Vocabulary, out: Path, rows_per_shard: int, progress: Progress, tally: Tally
) -> CorpusEntry:
    """Write the shards of one corpus; raises InputError when nothing of it can be used."""
    counted = 0

    def count(num_bytes: int) -> None:
        nonlocal counted
        counted += num_bytes

    languages = tuple(sorted(corpus.languages))  # en-fr and fr-en are one stream
    num_languages = len(languages)
    splits = (TRAIN, HELD_OUT) if num_languages == 2 else (TRAIN,)
    writers = {split: ShardWriter(out, corpus.name, split, num_languages, rows_per_shard) for split in splits}
    before, rows, document = progress.done, 0, -1
    for record, ids in tokenized(kept(corpus, count, tally), vocabulary, tally):
        split = split_of(record.texts[0], corpus.held_out) if num_languages == 2 else TRAIN
        writers[split].add(ids, starts_document=num_languages == 1 and record.document != document)
        document = record.document
        rows += 1
        if rows % BATCH_LINES == 0:
            progress.advance(counted - (progress.done - before), f"({corpus.name}: {rows:,} rows)")
    progress.advance(input_bytes(corpus) - (progress.done - before))  # exact again, whatever was counted
    if rows == 0:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in tally.rejected.items()) or "the file holds none"
        raise InputError(
            f"{corpus.files[0]}: no usable line ({reasons}); expected text in the format {corpus.format}; "
            "correct the catalog or take the corpus out of it"
        )
    shards = tuple(entry for writer in writers.values() for entry in writer.finish())
    return CorpusEntry(corpus.name, corpus.format, languages, tally.lines_read, dict(tally.rejected), shards)


def kept(corpus: Corpus, count: Count, tally: Tally) -> Iterator[Record]:
    """The clean records of a corpus, their texts in the order of the sorted languages; the others are tallied."""
    is_swapped = list(corpus.languages) != sorted(corpus.languages)
    for raw in read(corpus, count):
        record = clean(raw)
        tally.lines_read += 1
        if record.reason is None:
            yield record._replace(texts=record.texts[::-1]) if is_swapped else record
        else:
            tally.reject(record.line, record.reason)


def tokenized(
    records: Iterable[Record], vocabulary: Vocabulary, tally: Tally
) -> Iterator[tuple[Record, tuple[np.ndarray, ...]]]:
    """Each record with the ids of its texts; a record with a text of no tokens (control characters) is tallied."""
    for batch in batches(records, BATCH_LINES):
        by_language = [vocabulary.encode_batch(texts) for texts in zip(*(record.texts for record in batch), strict=True)]
        for record, ids in zip(batch, zip(*by_language, strict=True), strict=True):
            if all(map(len, ids)):
                yield record, ids
            else:
                tally.reject(record.line, NO_TOKENS)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def versions() -> dict[str, str]:
    """What made the shards."""
    return {
        "ernie_m": ernie_m.__version__,
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
        "sentencepiece": sentencepiece.__version__,
        "numpy": np.__version__,
    }


def summary(manifest: Manifest, tallies: list[Tally]) -> str:
    """The table at the end of a build, and what was rejected and where first."""
    head = ["corpus", "format", "languages", "rows", "tokens", "rejected"]
    rows, notes = [], []
    for corpus, tally in zip(manifest.corpora, tallies, strict=True):
        num_rows = sum(shard.rows for shard in corpus.shards)
        num_tokens = sum(sum(shard.tokens) for shard in corpus.shards)
        numbers = [f"{number:,}" for number in (num_rows, num_tokens, sum(corpus.rejected.values()))]
        rows.append([corpus.name, corpus.format, " ".join(corpus.languages), *numbers])
        for reason, number in corpus.rejected.items():
            notes.append(f"{corpus.name}: {number:,} rejected: {reason} (first: line {tally.first_line[reason]:,})")
    return "\n".join([table(head, rows), *notes])


def _refuse_tokenizer_inside(tokenizer: Path, out: Path) -> None:
    if tokenizer.resolve().is_relative_to(out.resolve()):
        raise InputError(f"tokenizer {tokenizer}: lies in the output folder, which is emptied first; copy it elsewhere")


def _total_rows(manifest: Manifest) -> int:
    return sum(shard.rows for corpus in manifest.corpora for shard in corpus.shards)

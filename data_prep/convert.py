"""One chunk -> its shards and its marker: the work of every rank. Chunks do not depend on each other.

parse -> clean -> encode -> one shard for each split, written atomically -> the marker, written last. So a chunk with a
marker is done, and a chunk that was interrupted leaves nothing that counts.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import readers, work_folder
from data_prep.alignment import Alignment, measure
from data_prep.catalog import SPLIT, Corpus
from data_prep.clean import LONG_TEXT, NO_TOKENS, NOT_SEGMENTED, clean, is_held_out, split_long
from data_prep.exclusion.lookup import Lookup, lookup_of
from data_prep.readers.text_file import Cut
from data_prep.records import Chunk, Lines
from data_prep.row_keys import RowKeys
from data_prep.shard_writer import Rows, selected
from ernie_m.base.host_memory import return_large_blocks
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, TRAIN, ShardEntry, shard_file
from ernie_m.corpus.unknown_pieces import Pieces, count
from ernie_m.corpus.vocabulary import EncodedTexts

EXAMPLES = 5
EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Task:
    """A chunk to convert: its content, read from a stream, or its place in a file that the converting rank reads."""

    corpus: Corpus
    chunk: Chunk | Cut
    tokenizer: Path
    out: Path

    @property
    def index(self) -> int:
        return self.chunk.index

    def read(self) -> Chunk:
        """The chunk's content. Raises InputError, without the corpus's name, for a file that cannot be read."""
        return readers.cut_chunk(self.corpus, self.chunk) if isinstance(self.chunk, Cut) else self.chunk


@dataclass(frozen=True)
class Done:
    """What a rank reports about a chunk, for progress and statistics; all that the data needs is in the marker."""

    process: str
    """Host and process."""
    seconds: float
    rows: int
    tokens: int
    text_bytes: int
    peak_memory_bytes: int


@dataclass
class Tally:
    """Counts of the lines of a chunk: kept, rejected and why."""

    lines: int = 0
    """Of the file, empty ones included."""
    lines_read: int = 0
    """Candidates: rows + rejected."""
    text_bytes: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Reason -> the first (line in the chunk, text)."""
    pieces: dict[str, Pieces] = field(default_factory=dict)
    """Language -> pieces of the rows, before repeated ones are removed."""
    rejected_bytes: dict[str, int] = field(default_factory=dict)
    """Reason -> bytes of text of those lines."""
    noted: dict[str, int] = field(default_factory=dict)
    """What a person should know of rows that are kept -> how often."""

    def reject(self, number: int, reason: str, texts: tuple[str, ...]) -> None:
        """Count a line that is not kept."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        size = sum(len(text.encode(errors="replace")) for text in texts)
        self.rejected_bytes[reason] = self.rejected_bytes.get(reason, 0) + size
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append((number, " ||| ".join(text[:EXAMPLE_CHARACTERS] for text in texts)))


def convert(task: Task) -> Done:
    """Convert a chunk; raises InputError, naming the corpus, for input that cannot be used."""
    started = time.monotonic()
    with readers.named(task.corpus):
        chunk = task.read()
        vocabulary, kept_out = vocabulary_of(task.tokenizer), lookup_of(task.out)
        conversion = Conversion(task.corpus, vocabulary, not chunk.starts_document, kept_out)
        conversion.tally.lines = readers.num_lines(chunk)
        conversion.tally.text_bytes = readers.text_bytes(chunk)
        for lines in readers.parse(task.corpus, chunk):
            conversion.add(lines)
        shards = conversion.write(task.out, chunk.index)
    tally, alignment = conversion.tally, asdict(conversion.alignment)
    marker = {"chunk": chunk.index, "shards": [asdict(shard) for shard in shards], "alignment": alignment, **asdict(tally)}
    work_folder.write_marker(task.out, task.corpus.name, chunk.index, marker)
    rows, tokens = sum(shard.rows for shard in shards), sum(sum(shard.tokens) for shard in shards)
    return Done(this_process(), time.monotonic() - started, rows, tokens, tally.text_bytes, peak_memory_bytes())


class Conversion:
    """Gathers the rows of a chunk."""

    def __init__(self, corpus: Corpus, vocabulary: AnyVocabulary, continues: bool, kept_out: Lookup) -> None:
        self.corpus, self.vocabulary, self.kept_out = corpus, vocabulary, kept_out
        self.order = np.argsort(corpus.languages).tolist()  # en-fr and fr-en are one stream
        self.rows = {split: Rows(len(self.order)) for split in (TRAIN, HELD_OUT)}
        self.keys = {split: RowKeys(corpus) for split in self.rows}
        self.tally, self.alignment = Tally(), Alignment()
        self._documents = dict.fromkeys(self.rows, 0 if continues else -1)  # of the last row kept, split by split
        self._lengths: list[np.ndarray] = []
        self._same: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def add(self, lines: Lines) -> None:
        """Clean and encode some lines."""
        if self.corpus.long_lines == SPLIT:
            lines = split_long(lines, self.corpus.max_characters)
        kept, texts, reasons = clean(lines, self.corpus)
        sides = [[texts[side][index] for index in kept.tolist()] for side in self.order]
        held_out = self._held_out(sides)
        if found := self.kept_out.reasons(sides, held_out):
            reasons |= {int(kept[index]): reason for index, reason in found.items()}
            is_kept = np.ones(len(kept), np.bool_)
            is_kept[[*found]] = False
            kept, held_out = kept[is_kept], held_out[is_kept]
            sides = [list(compress(side, is_kept)) for side in sides]
        for index in sorted(reasons):
            self.tally.reject(int(lines.numbers[index]), reasons[index], tuple(side[index] for side in lines.texts))
        self.tally.lines_read += len(lines.numbers)
        for what, number in lines.noted.items():
            self.tally.noted[what] = self.tally.noted.get(what, 0) + number
        encoded = [self.vocabulary.encode_batch(side) for side in sides]
        has_tokens = np.logical_and.reduce([np.diff(column.offsets) > 0 for column in encoded])
        for index in kept[~has_tokens].tolist():
            line = tuple(side[index] for side in lines.texts)
            reason = NOT_SEGMENTED if max(map(len, line)) > LONG_TEXT else NO_TOKENS
            self.tally.reject(int(lines.numbers[index]), reason, line)
        self._keep(sides, encoded, has_tokens, held_out, lines.documents[kept], lines.numbers[kept])

    def _held_out(self, sides: list[list[str]]) -> np.ndarray:
        """Which lines are held out, bool [lines]."""
        return is_held_out(sides[0], self.corpus.held_out) if self.corpus.held_out else np.zeros(len(sides[0]), np.bool_)

    def _keep(
        self,
        sides: list[list[str]],
        encoded: list[EncodedTexts],
        keep: np.ndarray,
        held_out: np.ndarray,
        documents: np.ndarray,
        numbers: np.ndarray,
    ) -> None:
        if len(sides) == 2 and keep.any():
            self._lengths.append(np.array([np.fromiter(map(len, side), np.int64, len(side))[keep] for side in sides]))
            self._same.append(np.fromiter(map(_is_same, *sides), np.bool_, len(keep))[keep])
            self._numbers.append(numbers[keep])
        for split, chosen in ((TRAIN, keep & ~held_out), (HELD_OUT, keep & held_out)):
            self._add_rows(split, encoded, chosen, self._starts(split, documents[chosen]))
            if self.corpus.is_compared and chosen.any():
                self.keys[split].add([list(compress(side, chosen)) for side in sides])

    def _starts(self, split: str, documents: np.ndarray) -> np.ndarray:
        """Which rows of a split are the first of their document, bool [rows]; of pairs none."""
        before = np.concatenate([[self._documents[split]], documents[:-1]])[: len(documents)]
        self._documents[split] = int(documents[-1]) if len(documents) else self._documents[split]
        return (documents != before) & (len(self.order) == 1)

    def _add_rows(self, split: str, encoded: list[EncodedTexts], chosen: np.ndarray, starts: np.ndarray) -> None:
        if not chosen.any():
            return
        columns = [selected(column, chosen) for column in encoded]
        self.rows[split].add(columns, starts)
        for side, column in zip(self.order, columns, strict=True):
            found, language = count(column.values, self.vocabulary.unknown_ids), self.corpus.languages[side]
            self.tally.pieces[language] = self.tally.pieces.get(language, Pieces()) + found

    def write(self, out: Path, index: int) -> list[ShardEntry]:
        """Write a shard a split (none for a split without rows), and their keys for the removal of duplicates."""
        if self._lengths:
            lines = np.concatenate(self._same), np.concatenate(self._numbers)
            self.alignment = measure(np.concatenate(self._lengths, axis=1), *lines)
        folder = work_folder.provisional(out) if self.corpus.is_compared else out
        shards = []
        for split, rows in self.rows.items():
            if not rows.num_rows:
                continue
            shards.append(rows.write(folder, shard_file(self.corpus.name, split, index), split))
            self.keys[split].write(out, split, index)
        return shards


def _is_same(text: str, other: str) -> bool:
    """Whether two texts are one but for case."""
    return len(text) == len(other) and (text == other or text.casefold() == other.casefold())


@lru_cache(maxsize=1)
def vocabulary_of(tokenizer: Path) -> AnyVocabulary:
    """This process's tokenizer, loaded once."""
    return_large_blocks()
    return open_vocabulary(tokenizer)


def this_process() -> str:
    """Host and process."""
    return f"{os.uname().nodename} {os.getpid()}"


def peak_memory_bytes() -> int:
    """Peak resident memory of this process. (getrusage's figure begins with that of the parent.)"""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def marker_of(content: dict[str, Any], lines_before: int) -> tuple[Tally, Alignment, list[ShardEntry]]:
    """Read a marker back; the alignment's lines are counted on from those before the chunk."""
    shards = [ShardEntry(**{**shard, "tokens": tuple(shard["tokens"])}) for shard in content["shards"]]
    examples = {reason: [(number, text) for number, text in found] for reason, found in content["examples"].items()}
    numbers = {key: content[key] for key in ("lines", "lines_read", "text_bytes")}
    pieces = {language: Pieces(**found) for language, found in content.get("pieces", {}).items()}  # 0.1 counted none
    more = {key: content.get(key, {}) for key in ("rejected_bytes", "noted")}
    tally = Tally(**numbers, rejected=content["rejected"], examples=examples, pieces=pieces, **more)
    return tally, Alignment.of(content["alignment"], lines_before), shards

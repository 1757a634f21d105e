"""Token shards on disk, read by memory map.

A corpus folder holds `manifest.json` with its shard table, the tokenizer that made the ids, and Arrow IPC shards of ONE
record batch each, so that every column is one flat buffer and a row is a slice of it (docs/data_format.md):

    monolingual   tokens: list<int32>, starts_document: bool        a line of text a row
    parallel      source: list<int32>, target: list<int32>          a pair a row

Optional columns, such as word links, lie in companion files beside them (ernie_m/corpus/columns.py).

1. `Manifest` (ernie_m/corpus/manifest.py) says what there is; the shards are columns there, a million of them open in a
   fraction of a second.
2. `CorpusFolder` opens it and groups its shards into streams: one per language, one per language pair.
3. `Shard` maps one file on first use, when it is checked, and hands out numpy views, never copies. A folder keeps the
   `SHARDS_KEPT_OPEN` last used ones, so that a long run over a million files does not run out of memory maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.columns import COLUMNS, Companion
from ernie_m.corpus.manifest import FORMAT_VERSION, MANIFEST_FILE, CorpusEntry, Manifest
from ernie_m.corpus.mapped_file import check_size, check_whole, mapped_batch
from ernie_m.corpus.shard_table import HELD_OUT, SHARD_TABLE_FILE, SPLITS, TRAIN, ShardEntry, ShardList, shard_file

__all__ = [
    "FORMAT_VERSION",
    "HELD_OUT",
    "MANIFEST_FILE",
    "MONOLINGUAL_SCHEMA",
    "PARALLEL_SCHEMA",
    "SHARD_TABLE_FILE",
    "TOKEN_COLUMNS",
    "TRAIN",
    "CorpusEntry",
    "CorpusFolder",
    "Manifest",
    "Shard",
    "ShardEntry",
    "ShardList",
    "Shards",
    "Stream",
    "shard_file",
]

MONOLINGUAL_SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("starts_document", pa.bool_())])
PARALLEL_SCHEMA = pa.schema([("source", pa.list_(pa.int32())), ("target", pa.list_(pa.int32()))])
SCHEMAS = {1: MONOLINGUAL_SCHEMA, 2: PARALLEL_SCHEMA}  # by number of languages
TOKEN_COLUMNS = {1: ("tokens",), 2: ("source", "target")}


SHARDS_KEPT_OPEN = 512
"""Of a folder. A map costs no file descriptor, but a process may have 65,530 of them (vm.max_map_count)."""
SHARDS_CHECKED_ON_OPENING = 1_000
"""A folder of more is checked shard by shard, at first use: a look at a million files takes minutes on a shared disk."""


class Shard:
    """One mapped shard; columns are numpy views of the file.

    `offsets[c]` int32 [rows + 1] and `values[c]` int32 [tokens]; row i of column c is
    values[c][offsets[c][i] : offsets[c][i + 1]].
    """

    def __init__(
        self, folder: Path, entry: ShardEntry, num_columns: int, companions: Mapping[str, Companion] | None = None
    ) -> None:
        self.folder, self.path, self.entry, self.num_columns = folder, folder / entry.file, entry, num_columns
        self.companions = companions or {}
        """Optional columns that this shard has, by name."""

    @cached_property
    def _batch(self) -> pa.RecordBatch:
        schema, batch = mapped_batch(self.path, self.entry.bytes)
        if not schema.equals(SCHEMAS[self.num_columns]):
            raise self.altered("its columns are not those of a shard")
        if batch.num_rows != self.entry.rows:
            raise InputError(f"{self.path}: {batch.num_rows} rows, the manifest says {self.entry.rows}; rebuild the data")
        for name, tokens in zip(TOKEN_COLUMNS[self.num_columns], self.entry.tokens, strict=True):
            column = batch.column(name)
            borders = len(column.offsets), column.offsets[0].as_py(), column.offsets[-1].as_py(), len(column.values)
            if borders != (self.entry.rows + 1, 0, tokens, tokens):
                raise self.altered(f"column {name} does not hold {self.entry.rows} rows of {tokens} tokens together")
        return batch

    @cached_property
    def offsets(self) -> tuple[np.ndarray, ...]:
        """Row borders of each token column, int32 [rows + 1]."""
        columns = (self._batch.column(name) for name in TOKEN_COLUMNS[self.num_columns])
        return tuple(column.offsets.to_numpy(zero_copy_only=True) for column in columns)

    @cached_property
    def values(self) -> tuple[np.ndarray, ...]:
        """Flat token ids of each column, int32 [tokens]."""
        columns = (self._batch.column(name) for name in TOKEN_COLUMNS[self.num_columns])
        return tuple(column.values.to_numpy(zero_copy_only=True) for column in columns)

    @cached_property
    def starts_document(self) -> np.ndarray:
        """Monolingual shards: bool [rows], whether the line is the first of its document."""
        return self._batch.column("starts_document").to_numpy(zero_copy_only=False)

    def borders(self, first: int, last: int) -> np.ndarray:
        """Where lines [first, last) begin, and where the last one ends, in each column: int32 [lines + 1, columns].

        Raises InputError when the file was truncated after it was mapped, or its offsets are not valid.
        """
        self.check_mapped()
        borders = np.stack([offsets[first : last + 1] for offsets in self.offsets], axis=1)
        bounds_C = borders[:1].min(axis=0, initial=0), np.array(self.entry.tokens) - borders[-1:].max(axis=0, initial=0)
        if first > last or min(map(np.min, (*bounds_C, np.diff(borders, axis=0).min(axis=0, initial=0)))) < 0:
            raise self.altered(f"the lengths of rows {first} to {last} are not those of text")
        return borders

    def check_mapped(self) -> None:
        """Raise InputError if the file was truncated after it was mapped.

        Call it before reading: if the file is shorter than its map, the kernel kills the process without a message.
        """
        if "_batch" in vars(self):
            check_size(str(self.path), self.entry.bytes)

    def check_ids(self, specials: Specials, starts_EC: np.ndarray, stops_EC: np.ndarray) -> None:
        """Raise InputError naming the first line in which one of these spans has an id that no text can have."""
        for column, name in enumerate(TOKEN_COLUMNS[self.num_columns]):
            for start, stop in zip(starts_EC[:, column].tolist(), stops_EC[:, column].tolist(), strict=True):
                ids = self.values[column][start:stop]
                wrong = np.flatnonzero(~specials.are_text(ids))
                if len(wrong):
                    row = int(np.searchsorted(self.offsets[column], start + wrong[0], "right")) - 1
                    raise self.altered(
                        f"row {row} of column {name} holds the id {ids[wrong[0]]}, expected "
                        f"{specials.text_shown} in a vocabulary of {specials.vocab_size}"
                    )

    def items(self, column: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The items of lines [first, last) of the optional `column`, checked: int32 [items, integers of an item].

        Also where the items of each line begin, int64 [lines + 1]. For `links` an item is (source token, target token),
        counted from 0 in the line's sentences. Raises InputError if the shard has no such column, naming the command that
        makes it; and for an invalid item, naming the line.
        """
        items_IW, counts = self.items_of(column, np.arange(first, last))
        return items_IW, np.concatenate([[0], np.cumsum(counts)])

    def items_of(self, column: str, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of any lines, in this order: all items, and how many each line has, int64 [lines]."""
        if column not in self.companions:
            advice = f"run `{COLUMNS[column].made_by} --data {self.folder}`"
            raise InputError(f"{self.path}: has no column {column}; {advice}")
        self.check_mapped()
        tokens_RC = np.stack([offsets[lines + 1] - offsets[lines] for offsets in self.offsets], axis=1)
        return self.companions[column].items_of(lines, tokens_RC)

    def altered(self, what: str) -> InputError:
        """The error for a file that is not the one that was built."""
        return InputError(
            f"{self.path}: {what}; the file was altered since it was built: rebuild the data "
            f"(`python -m data_prep verify --data {self.folder}` names all such files)"
        )

    def verify(self) -> None:
        """Raise InputError unless the file has the manifest's size and hash."""
        check_whole(self.path, self.entry.bytes, self.entry.sha256)


class Shards:
    """A lazy sequence of `Shard`s: each is made, and its file mapped, on first use."""

    def __init__(self, entries: ShardList, opened: Callable[[int, int], Shard]) -> None:
        self._entries, self._opened = entries, opened

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Shard:
        return self._opened(int(self._entries.places[index]), self._entries.num_languages)

    def __iter__(self) -> Iterator[Shard]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Stream:
    """All shards of one language, or of one language pair, of one split."""

    languages: tuple[str, ...]
    entries: ShardList
    """What the manifest says of its shards, as columns."""
    shards: Shards = field(repr=False, compare=False)
    """The same shards, to be read."""

    @property
    def name(self) -> str:
        """'en' or 'de-en'."""
        return "-".join(self.languages)

    @property
    def num_rows(self) -> int:
        return int(self.entries.rows.sum())

    @property
    def num_tokens(self) -> int:
        return int(self.entries.tokens.sum())


class CorpusFolder:
    """An opened corpus folder. Shards are checked for presence and size on first use, or at once if they are few.

    Raises InputError when the folder, the manifest, the tokenizer or a shard is missing or does not fit.
    """

    def __init__(self, folder: str | Path, shards_kept_open: int = SHARDS_KEPT_OPEN) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.tokenizer_path = self.folder / self.manifest.tokenizer_file
        if not self.tokenizer_path.is_file() or sha256_of(self.tokenizer_path) != self.manifest.tokenizer_sha256:
            raise InputError(f"{self.tokenizer_path}: missing or not the tokenizer of these shards; rebuild the data")
        self.language_ids = self.manifest.language_ids()
        # One cache for all streams: it bounds the process. A shard that falls out is unmapped when its last user is done.
        self._opened = lru_cache(maxsize=shards_kept_open)(self._new_shard)
        self._streams = self._grouped()
        if self.num_shards <= SHARDS_CHECKED_ON_OPENING:
            self.check_sizes()

    @property
    def num_shards(self) -> int:
        return sum(len(corpus.shards) for corpus in self.manifest.corpora)

    def check_sizes(self, progress: Progress | None = None) -> None:
        """Raise InputError unless every shard is there with the manifest's size; `progress` counts the shards."""
        for corpus in self.manifest.corpora:
            for entry in corpus.shards:
                check_size(f"{self.folder}/{entry.file}", entry.bytes)
                if progress is not None:
                    progress.advance(1)

    def shard(self, place: int, num_languages: int) -> Shard:
        """The shard at this row of the shard table, of a corpus of so many languages."""
        return self._opened(place, num_languages)

    def _new_shard(self, place: int, num_languages: int) -> Shard:
        table = self.manifest.corpora[0].shards.table  # of all corpora
        entry = next(table.entries(np.array([place]), num_languages))
        companions = {}
        for name, column in self.manifest.columns.items():
            if (found := column.entry(place)) is not None:
                companions[name] = Companion(self.folder, entry.file, entry.rows, COLUMNS[name], found)
        return Shard(self.folder, entry, num_languages, companions)

    def require_column(self, column: str, stream: Stream) -> None:
        """Raise InputError, naming the command that makes it, unless all shards of the stream have this optional column."""
        table = self.manifest.columns.get(column)
        if table is None or not table.has_all(stream.entries.places):
            advice = f"run `{COLUMNS[column].made_by} --data {self.folder}` first"
            raise InputError(f"{self.folder}: {stream.name} has no column {column}, or not in all its shards; {advice}")

    def _grouped(self) -> dict[tuple[int, str], list[Stream]]:
        grouped: dict[tuple[str, tuple[str, ...]], list[ShardList]] = {}
        for corpus in self.manifest.corpora:
            for split in SPLITS:
                if len(shards := corpus.shards.of_split(split)):
                    grouped.setdefault((split, corpus.languages), []).append(shards)
        streams: dict[tuple[int, str], list[Stream]] = {}
        for split, languages in sorted(grouped):
            entries = ShardList.joined(grouped[split, languages])
            streams.setdefault((len(languages), split), []).append(Stream(languages, entries, Shards(entries, self._opened)))
        return streams

    def monolingual(self, split: str = TRAIN) -> list[Stream]:
        """Streams of one language each, sorted by language."""
        return self._streams.get((1, split), [])

    def parallel(self, split: str = TRAIN) -> list[Stream]:
        """Streams of one language pair each, sorted by pair."""
        return self._streams.get((2, split), [])

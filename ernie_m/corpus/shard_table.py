"""The shards of a corpus folder as columns: a million of them take some tens of megabytes and open at once.

`shards.arrow` lies beside manifest.json: an Arrow IPC file of one record batch, a row a shard, grouped by corpus
(docs/data_format.md). File names are not stored, they follow from corpus, split and number.

1. `ShardTable` holds the columns as numpy arrays: views of the mapped file, or made of `ShardEntry`s.
2. `ShardList` is some rows of a table, in order: a lazy sequence of `ShardEntry`, and arrays for totals.
3. Only `write_table` and `read_table` know the file's layout. Only columns that are used come into memory; the hashes,
   half of the file, do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ernie_m.base.console import InputError
from ernie_m.base.files import written_atomically
from ernie_m.corpus.mapped_file import REBUILD, check_whole, mapped_batch

SHARD_TABLE_FILE, SHARDS_FOLDER = "shards.arrow", "shards"
TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)
SHA256_BYTES = 32
SHARD_TABLE_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("corpus", pa.dictionary(pa.int32(), pa.string())),  # the names of manifest.json's corpora, in their order
            ("split", pa.dictionary(pa.int8(), pa.string())),
            ("number", pa.int32()),
            ("rows", pa.int32()),
            ("tokens_1", pa.int32()),  # of the corpus's first language
            ("tokens_2", pa.int32()),  # of its second; 0 where there is none
            ("documents", pa.int32()),
            ("bytes", pa.int64()),
            ("sha256", pa.binary(SHA256_BYTES)),
        )
    ]
)
ENTRIES_AT_A_TIME = 8192  # bounds the Python objects on the way from columns to entries and back


@dataclass(frozen=True)
class ShardEntry:
    """One shard file: `file` relative to the folder, `tokens` per language in the order of the corpus's languages.

    `documents` counts the rows that start a document (monolingual; 0 for pairs).
    """

    file: str
    split: str
    rows: int
    tokens: tuple[int, ...]
    bytes: int
    sha256: str
    documents: int = 0

    @property
    def number(self) -> int:
        """The one in the file's name: of the chunk that it was made of."""
        return int(self.file.rpartition("-")[2].removesuffix(".arrow"))


def shard_file(corpus: str, split: str, number: int) -> str:
    """Where a shard lies in its folder: shards/<corpus>/<split>-00012.arrow, with more digits from 100,000 on."""
    return f"{SHARDS_FOLDER}/{corpus}/{split}-{number:05d}.arrow"


class Columns(NamedTuple):
    """One array a column of SHARD_TABLE_SCHEMA, [shards] each; `corpus` and `split` are indices."""

    corpus: np.ndarray
    split: np.ndarray
    number: np.ndarray
    rows: np.ndarray
    tokens_1: np.ndarray
    tokens_2: np.ndarray
    documents: np.ndarray
    bytes: np.ndarray
    sha256: np.ndarray


_RECORD = np.dtype(list(zip(Columns._fields, ("<i4", "i1", *["<i4"] * 5, "<i8", f"V{SHA256_BYTES}"), strict=True)))


@dataclass(frozen=True, eq=False)
class ShardTable:
    """Columns, and the names of the corpora that `columns.corpus` counts."""

    names: tuple[str, ...]
    columns: Columns

    @staticmethod
    def of(corpus: str, num_languages: int, entries: Iterable[ShardEntry]) -> ShardTable:
        """The columns of one corpus's entries, in their order; never more than a few thousand entries at once."""
        records, source = [np.zeros(0, _RECORD)], (_record(corpus, num_languages, entry) for entry in entries)
        while piece := list(islice(source, ENTRIES_AT_A_TIME)):
            records.append(np.array(piece, _RECORD))
        joined = np.concatenate(records)
        return ShardTable((corpus,), Columns(*(np.ascontiguousarray(joined[name]) for name in Columns._fields)))

    def entries(self, places: np.ndarray, num_languages: int) -> Iterator[ShardEntry]:
        """The entries of these rows of the table."""
        for first in range(0, len(places), ENTRIES_AT_A_TIME):
            chosen = Columns(*(column[places[first : first + ENTRIES_AT_A_TIME]] for column in self.columns))
            digests, width = chosen.sha256.tobytes().hex(), 2 * SHA256_BYTES
            numbers = zip(*(column.tolist() for column in chosen[:-1]), strict=True)
            for i, (corpus, split, number, rows, tokens_1, tokens_2, documents, size) in enumerate(numbers):
                file, tokens = shard_file(self.names[corpus], SPLITS[split], number), (tokens_1, tokens_2)[:num_languages]
                yield ShardEntry(file, SPLITS[split], rows, tokens, size, digests[width * i : width * (i + 1)], documents)


def _record(corpus: str, num_languages: int, entry: ShardEntry) -> tuple[Any, ...]:
    number = entry.number
    assert entry.file == shard_file(corpus, entry.split, number), f"{entry.file}: the name does not follow from {corpus}"
    assert len(entry.tokens) == num_languages <= 2
    digest, tokens = bytes.fromhex(entry.sha256), (*entry.tokens, 0)[:2]
    assert len(digest) == SHA256_BYTES
    numbers = (number, entry.rows, *tokens, entry.documents, entry.bytes)
    assert min(numbers) >= 0
    return (0, SPLITS.index(entry.split), *numbers, digest)


class ShardList:
    """Rows `places` of a table, whose corpora all have `num_languages`: a sequence of ShardEntry, made when asked for."""

    def __init__(self, table: ShardTable, places: np.ndarray, num_languages: int) -> None:
        self.table, self.places, self.num_languages = table, places, num_languages

    @staticmethod
    def of(corpus: str, num_languages: int, entries: Iterable[ShardEntry]) -> ShardList:
        """The entries of one corpus."""
        table = ShardTable.of(corpus, num_languages, entries)
        return ShardList(table, np.arange(len(table.columns.rows), dtype=np.int32), num_languages)

    @staticmethod
    def joined(lists: Sequence[ShardList]) -> ShardList:
        """One list after the other, all of the same table."""
        assert len({(id(part.table), part.num_languages) for part in lists}) == 1
        return ShardList(lists[0].table, np.concatenate([part.places for part in lists]), lists[0].num_languages)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> ShardEntry:
        return next(self.table.entries(self.places[[index]], self.num_languages))

    def __iter__(self) -> Iterator[ShardEntry]:
        return self.table.entries(self.places, self.num_languages)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardList | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ShardList({len(self):,} shards)"

    def corpora(self) -> set[str]:
        """Names of the corpora whose shards these are."""
        return {self.table.names[index] for index in np.unique(self.table.columns.corpus[self.places]).tolist()}

    def of_split(self, split: str) -> ShardList:
        """The shards of one split, in their order."""
        chosen = self.table.columns.split[self.places] == SPLITS.index(split)
        return ShardList(self.table, self.places[chosen], self.num_languages)

    @property
    def rows(self) -> np.ndarray:
        """Rows of each shard, int64 [shards]."""
        return self.table.columns.rows[self.places].astype(np.int64)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each shard in each language, int64 [shards, languages]."""
        columns = (self.table.columns.tokens_1, self.table.columns.tokens_2)[: self.num_languages]
        return np.stack([column[self.places].astype(np.int64) for column in columns], axis=1)

    @property
    def documents(self) -> np.ndarray:
        """Documents that start in each shard, int64 [shards]."""
        return self.table.columns.documents[self.places].astype(np.int64)

    @property
    def bytes(self) -> np.ndarray:
        """Size of each shard's file, int64 [shards]."""
        return self.table.columns.bytes[self.places]


def write_table(folder: Path, corpora: Sequence[tuple[str, ShardList]]) -> None:
    """Write the table of these corpora, atomically; the same shards give the same bytes."""
    parts: list[list[np.ndarray]] = [[np.zeros(0, _RECORD[name])] for name in Columns._fields]
    for index, (_, shards) in enumerate(corpora):
        own = shards.table.columns._replace(corpus=np.full(len(shards.table.columns.corpus), index, np.int32))
        for gathered, column in zip(parts, own, strict=True):
            gathered.append(column[shards.places])
    columns = Columns(*map(np.concatenate, parts))
    arrays: list[Any] = [
        pa.DictionaryArray.from_arrays(pa.array(columns.corpus), pa.array([name for name, _ in corpora], pa.string())),
        pa.DictionaryArray.from_arrays(pa.array(columns.split), pa.array(SPLITS)),
        *(pa.array(column) for column in columns[2:-1]),
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(SHA256_BYTES), len(columns.sha256), [None, pa.py_buffer(columns.sha256)]
        ),
    ]
    with (
        written_atomically(folder / SHARD_TABLE_FILE) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, SHARD_TABLE_SCHEMA) as file,
    ):
        file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SHARD_TABLE_SCHEMA))


def read_table(folder: Path, size: int, sha256: str, names: Sequence[str], num_shards: Sequence[int]) -> ShardTable:
    """Map the table of `folder`, whose file has this size and hash, and whose corpora have these names and sizes.

    The hash is computed by reading the file, not through the map: pages that are read do not count as this process's memory.
    Raises InputError for anything else.
    """
    path = folder / SHARD_TABLE_FILE
    check_whole(path, size, sha256)
    schema, batch = mapped_batch(path, size)
    fault = _fault(batch, names, num_shards) if schema.equals(SHARD_TABLE_SCHEMA) else "other columns than a shard table's"
    if fault:
        raise InputError(f"{path}: {fault}; {REBUILD}")
    numbers = [_indices_or_numbers(batch.column(name)) for name in Columns._fields[:-1]]
    digests = np.frombuffer(batch.column("sha256").buffers()[1], f"V{SHA256_BYTES}", batch.num_rows)
    return ShardTable(tuple(names), Columns(*[*numbers, digests]))


def _fault(batch: Any, names: Sequence[str], num_shards: Sequence[int]) -> str:
    """Why this batch is not the table of these corpora; '' when it is."""
    if any(column.null_count for column in batch.columns):
        return "holds nulls"
    for name, expected in (("corpus", list(names)), ("split", list(SPLITS))):
        if (found := batch.column(name).dictionary.to_pylist()) != expected:
            return f"column {name} counts {found}, expected {expected}"
    corpus, split = (_indices_or_numbers(batch.column(name)) for name in ("corpus", "split"))
    are_as_many = min(num_shards, default=0) >= 0 and sum(num_shards) == len(corpus)
    if not are_as_many or not np.array_equal(corpus, np.repeat(np.arange(len(names), dtype=np.int32), num_shards)):
        return "its shards are not those of the manifest's corpora, in their order"
    if len(split) and not 0 <= split.min() <= split.max() < len(SPLITS):
        return f"column split has indices from {split.min()} to {split.max()}"
    return ""


def _indices_or_numbers(column: Any) -> np.ndarray:
    return (column.indices if pa.types.is_dictionary(column.type) else column).to_numpy(zero_copy_only=True)

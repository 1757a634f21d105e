"""Optional ragged columns: small integers beside the tokens of a shard, in a companion file of the same rows.

1. An `IndexColumn` describes a column: items of `width` integers. The k-th integer of an item is the number of a text token
   in sentence `sentences[k]` of its row, from 0. This is enough to cut, turn, pack and check the items.
2. `COLUMNS` is the table of all columns. `links`: word alignment; an item is (source token, target token).
3. A shard's companion file is beside it, `train-00012.links.arrow`: an Arrow file of one record batch with one list<int32>
   column, with the same rows in the same order. The items of a row ascend and are distinct; a row may have none.
4. `<column>.arrow` beside manifest.json is the table of a column's companions; manifest.json holds its hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ernie_m.base.arrays import ranges
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of, written_atomically
from ernie_m.corpus.mapped_file import check_size, check_whole, mapped_batch
from ernie_m.corpus.ragged import Ragged
from ernie_m.corpus.shard_table import SHA256_BYTES


@dataclass(frozen=True)
class IndexColumn:
    """A kind of column: what the integers of an item point at."""

    name: str
    sentences: tuple[int, ...]
    """Of each integer of an item: the sentence, in the shard's order of languages, whose tokens it counts."""
    made_by: str
    """The command that writes it."""

    @property
    def width(self) -> int:
        """Integers an item."""
        return len(self.sentences)

    @property
    def schema(self) -> pa.Schema:
        """Of a companion file."""
        return pa.schema([(self.name, pa.list_(pa.int32()))])

    @property
    def table_file(self) -> str:
        """The table of the companion files, beside manifest.json."""
        return f"{self.name}.arrow"

    def file_of(self, shard_file: str) -> str:
        """The companion of a shard: train-00012.arrow -> train-00012.links.arrow."""
        return f"{shard_file.removesuffix('.arrow')}.{self.name}.arrow"

    def fault(self, items_IW: np.ndarray, row_I: np.ndarray, tokens_RC: np.ndarray) -> tuple[int, str] | None:
        """The first row with an invalid item, and what is wrong; None if all are valid.

        `items_IW` all items of some rows, `row_I` the row of each, from 0, `tokens_RC` the tokens of each row's sentences.
        """
        most_IW = tokens_RC[row_I][:, self.sentences]
        outside_I = ((items_IW < 0) | (items_IW >= most_IW)).any(axis=1)
        follows_I = np.zeros(len(items_IW), bool)  # whether an item is above the one before it, or begins a row
        follows_I[:1] = True
        steps = np.diff(items_IW.astype(np.int64), axis=0)
        first = np.argmax(steps != 0, axis=1) if len(steps) else np.zeros(0, np.int64)
        follows_I[1:] = (row_I[1:] != row_I[:-1]) | (steps[np.arange(len(steps)), first] > 0)
        wrong = np.flatnonzero(outside_I | ~follows_I)
        if not len(wrong):
            return None
        item, row = wrong[0], int(row_I[wrong[0]])
        shown = "-".join(map(str, items_IW[item].tolist()))
        if outside_I[item]:
            return row, f"holds {shown}, expected indices in sentences of {' and '.join(map(str, most_IW[item]))} tokens"
        return row, f"holds {shown} behind one that is not below it, expected ascending items"


LINKS = IndexColumn("links", (0, 1), "python -m data_prep align")
COLUMNS = {column.name: column for column in (LINKS,)}


class ColumnEntry(NamedTuple):
    """One companion file: how many integers it holds, its size and hash."""

    values: int
    bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class ColumnTable:
    """The companion files of one column, a row a file: `places` are the rows of their shards in shards.arrow, ascending."""

    places: np.ndarray
    values: np.ndarray
    bytes: np.ndarray
    sha256: np.ndarray

    @staticmethod
    def of(entries: Iterable[tuple[int, ColumnEntry]]) -> ColumnTable:
        """The table of (place, entry)s, in any order."""
        found = sorted(entries)
        digests = [bytes.fromhex(entry.sha256) for _, entry in found]
        return ColumnTable(
            np.array([place for place, _ in found], np.int32),
            np.array([entry.values for _, entry in found], np.int64),
            np.array([entry.bytes for _, entry in found], np.int64),
            np.array(digests, f"V{SHA256_BYTES}"),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ColumnTable):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _SCHEMA.names)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.places)

    def entry(self, place: int) -> ColumnEntry | None:
        """The companion of the shard at `place`; None where it has none."""
        row = int(np.searchsorted(self.places, place))
        if row == len(self.places) or self.places[row] != place:
            return None
        return ColumnEntry(int(self.values[row]), int(self.bytes[row]), self.sha256[row].tobytes().hex())

    def has_all(self, places: np.ndarray) -> bool:
        """Whether every shard of `places` has a companion."""
        return bool(np.isin(places, self.places).all())


_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("places", pa.int32()),
            ("values", pa.int64()),
            ("bytes", pa.int64()),
            ("sha256", pa.binary(SHA256_BYTES)),
        )
    ]
)


def write_column_table(folder: Path, column: IndexColumn, table: ColumnTable) -> None:
    """Write <column>.arrow, atomically; the same companions give the same bytes."""
    digests = [None, pa.py_buffer(np.ascontiguousarray(table.sha256))]
    arrays = [pa.array(numbers) for numbers in (table.places, table.values, table.bytes)]
    arrays.append(pa.FixedSizeBinaryArray.from_buffers(pa.binary(SHA256_BYTES), len(table), digests))
    _write(folder / column.table_file, pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))


def read_column_table(folder: Path, column: IndexColumn, size: int, sha256: str, num_shards: int) -> ColumnTable:
    """The table of this size and hash, mapped. Raises InputError for anything else."""
    path, remedy = folder / column.table_file, f"run `{column.made_by} --data {folder}` again"
    schema, batch = mapped_batch(path, size, remedy)
    check_whole(path, size, sha256, remedy)
    if not schema.equals(_SCHEMA) or any(numbers.null_count for numbers in batch.columns):
        raise InputError(f"{path}: other columns than those of a table of companion files; {remedy}")
    places, values, sizes = (batch.column(name).to_numpy(zero_copy_only=True) for name in _SCHEMA.names[:-1])
    if len(places) and not (places[0] >= 0 and places[-1] < num_shards and np.all(np.diff(places) > 0)):
        raise InputError(f"{path}: its shards are not those of the manifest; {remedy}")
    digests = np.frombuffer(batch.column("sha256").buffers()[1] or b"", f"V{SHA256_BYTES}", len(places))
    return ColumnTable(places, values, sizes, digests)


def write_companion(path: Path, column: IndexColumn, rows: Ragged) -> ColumnEntry:
    """Write the companion file of a shard, atomically; the same rows give the same bytes."""
    array = pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), pa.array(rows.values, pa.int32()))
    _write(path, pa.RecordBatch.from_arrays([array], schema=column.schema))
    return ColumnEntry(len(rows.values), path.stat().st_size, sha256_of(path))


def _write(path: Path, batch: pa.RecordBatch) -> None:
    with (
        written_atomically(path) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as file,
    ):
        file.write_batch(batch)


class Companion:
    """A mapped companion file of a shard of `num_rows` rows in the data folder `folder`."""

    def __init__(self, folder: Path, shard_file: str, num_rows: int, column: IndexColumn, entry: ColumnEntry) -> None:
        self.path, self.num_rows, self.column, self.entry = folder / column.file_of(shard_file), num_rows, column, entry
        self.remedy = f"run `{column.made_by} --data {folder} --overwrite`"
        self._rows: Ragged | None = None

    @property
    def rows(self) -> Ragged:
        """All rows. Raises InputError, naming the file, when it is not the one that was written."""
        if self._rows is None:
            schema, batch = mapped_batch(self.path, self.entry.bytes, self.remedy)
            if not schema.equals(self.column.schema) or batch.num_rows != self.num_rows:
                raise self.altered(f"not a column {self.column.name} of {self.num_rows} rows")
            lists = batch.column(0)
            borders = len(lists.offsets), lists.offsets[0].as_py(), lists.offsets[-1].as_py(), len(lists.values)
            if borders != (self.num_rows + 1, 0, self.entry.values, self.entry.values):
                raise self.altered(f"does not hold {self.num_rows} rows of {self.entry.values} integers together")
            self._rows = Ragged(*(part.to_numpy(zero_copy_only=True) for part in (lists.offsets, lists.values)))
        return self._rows

    def check_mapped(self) -> None:
        """Raise InputError if the file was cut after it was mapped: call it before reading."""
        if self._rows is not None:
            check_size(str(self.path), self.entry.bytes, self.remedy)

    def items(self, first: int, last: int, tokens_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Checked items of rows [first, last), int32 [items, width], and where each row's begin, int64 [rows + 1].

        `tokens_RC`: tokens of each row's sentences. Raises InputError, naming file and row, for an invalid item.
        """
        items_IW, counts_R = self.items_of(np.arange(first, last), tokens_RC)
        return items_IW, np.concatenate([[0], np.cumsum(counts_R)])

    def items_of(self, rows_R: np.ndarray, tokens_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of any rows, in this order: all items, and how many each row has, int64 [R]."""
        self.check_mapped()
        width, starts_R = self.column.width, self.rows.offsets[rows_R].astype(np.int64)
        lengths_R = self.rows.offsets[rows_R + 1] - starts_R
        outside = (lengths_R < 0) | (lengths_R % width != 0) | (starts_R < 0) | (starts_R + lengths_R > self.entry.values)
        if outside.any():
            raise self.altered(f"the length of row {rows_R[outside.argmax()]} is not that of items of {width} integers")
        items_IW = self.rows.values[ranges(starts_R, lengths_R)].reshape(-1, width)
        fault = self.column.fault(items_IW, np.repeat(np.arange(len(rows_R)), lengths_R // width), tokens_RC)
        if fault is not None:
            raise self.altered(f"row {rows_R[fault[0]]} {fault[1]}")
        return items_IW, lengths_R // width

    def verify(self) -> None:
        """Raise InputError unless the file has the manifest's size and hash."""
        check_whole(self.path, self.entry.bytes, self.entry.sha256, self.remedy)

    def altered(self, what: str) -> InputError:
        """The error for a file that is not the one that was written."""
        return InputError(f"{self.path}: {what}; the file was altered since it was made: {self.remedy}")

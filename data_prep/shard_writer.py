"""Rows of ids -> Arrow IPC shards of one record batch each, whole or not there."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ernie_m.corpus import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, ShardEntry
from ernie_m.files import sha256_of, written_atomically

SHARDS_FOLDER = "shards"
ROWS_PER_SHARD = 1_000_000
TOKENS_PER_SHARD = 64 << 20
"""Of one column: bounds memory to 256 MiB a column, and keeps Arrow's int32 offsets far from overflowing."""


class ShardWriter:
    """Writes the rows of one split of one corpus as shards/<corpus>/<split>-00000.arrow, -00001, ...

    A shard is kept in memory until it is full and then written at once; the same rows give the same bytes.
    """

    def __init__(
        self,
        folder: Path,
        corpus: str,
        split: str,
        num_languages: int,
        rows_per_shard: int = ROWS_PER_SHARD,
        tokens_per_shard: int = TOKENS_PER_SHARD,
    ) -> None:
        self.folder, self.corpus, self.split = folder, corpus, split
        self.rows_per_shard, self.tokens_per_shard = rows_per_shard, tokens_per_shard
        self.schema = MONOLINGUAL_SCHEMA if num_languages == 1 else PARALLEL_SCHEMA
        self.num_languages = num_languages
        self.entries: list[ShardEntry] = []
        self._reset()

    def _reset(self) -> None:
        self._values = [array("i") for _ in range(self.num_languages)]
        self._offsets = [array("i", [0]) for _ in range(self.num_languages)]
        self._starts_document: list[bool] = []

    @property
    def _rows(self) -> int:
        return len(self._offsets[0]) - 1

    def add(self, ids: Sequence[np.ndarray], starts_document: bool = False) -> None:
        """Add a row: int32 ids per language; writes the shard first when the row would make it too large."""
        too_many = any(len(v) + len(i) > self.tokens_per_shard for v, i in zip(self._values, ids, strict=True))
        if self._rows >= self.rows_per_shard or (self._rows and too_many):
            self._write()
        for values, offsets, row in zip(self._values, self._offsets, ids, strict=True):
            values.frombytes(row.tobytes())
            offsets.append(len(values))
        self._starts_document.append(starts_document)

    def finish(self) -> list[ShardEntry]:
        """Write what is left; the entries of all shards for the manifest."""
        if self._rows:
            self._write()
        return self.entries

    def _write(self) -> None:
        name = f"{SHARDS_FOLDER}/{self.corpus}/{self.split}-{len(self.entries):05d}.arrow"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        columns: list[pa.Array] = [
            pa.ListArray.from_arrays(pa.array(np.frombuffer(offsets, np.int32)), pa.array(np.frombuffer(values, np.int32)))
            for offsets, values in zip(self._offsets, self._values, strict=True)
        ]
        if self.num_languages == 1:
            columns.append(pa.array(np.array(self._starts_document, dtype=np.bool_)))
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        with (
            written_atomically(path) as aside,
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, self.schema) as file,
        ):
            file.write_batch(batch)
        tokens = tuple(len(values) for values in self._values)
        size, documents = path.stat().st_size, sum(self._starts_document)
        self.entries.append(ShardEntry(name, self.split, self._rows, tokens, size, sha256_of(path), documents))
        self._reset()

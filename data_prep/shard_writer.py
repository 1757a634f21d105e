"""Rows of ids -> an Arrow IPC shard of one record batch, written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of, written_atomically
from ernie_m.corpus.folder import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, ShardEntry
from ernie_m.corpus.vocabulary import EncodedTexts

MOST_TOKENS = 2**31 - 1
"""Of one column: Arrow's list offsets are int32."""


class Rows:
    """Rows of one split of one chunk, gathered in memory until they are written as a shard."""

    def __init__(self, num_languages: int) -> None:
        self.columns: list[list[EncodedTexts]] = [[] for _ in range(num_languages)]
        self.starts_document: list[np.ndarray] = []

    def add(self, columns: Sequence[EncodedTexts], starts_document: np.ndarray) -> None:
        """Add some rows: ids of each language, and bool [rows]."""
        for gathered, column in zip(self.columns, columns, strict=True):
            gathered.append(column)
        self.starts_document.append(starts_document)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.starts_document))

    def write(self, folder: Path, name: str, split: str) -> ShardEntry:
        """Write folder/name, atomically; the same rows give the same bytes."""
        arrays: list[pa.Array] = [_list_array(column, name) for column in self.columns]
        starts = np.concatenate(self.starts_document)
        if len(arrays) == 1:
            arrays.append(pa.array(starts))
        schema = MONOLINGUAL_SCHEMA if len(self.columns) == 1 else PARALLEL_SCHEMA
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_atomically(path) as aside,
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, schema) as file,
        ):
            file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        tokens = tuple(sum(len(part.values) for part in column) for column in self.columns)
        return ShardEntry(name, split, len(starts), tokens, path.stat().st_size, sha256_of(path), int(starts.sum()))


def selected(encoded: EncodedTexts, keep: np.ndarray) -> EncodedTexts:
    """The rows where `keep`, bool [rows], is true."""
    if keep.all():
        return encoded
    lengths = np.diff(encoded.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[keep])])
    return EncodedTexts(encoded.values[np.repeat(keep, lengths)], offsets)


def _list_array(parts: list[EncodedTexts], name: str) -> pa.Array:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > MOST_TOKENS:
        raise InputError(f"{name}: {offsets[-1]:,} tokens do not fit in one shard; give a smaller --shard_mb")
    values = np.concatenate([part.values for part in parts])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))

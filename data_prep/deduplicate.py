"""Exact removal of repeated rows (catalog: `deduplicate: true`, `across`), in bounded memory, on any number of ranks.

1. While chunks are converted, the 128-bit BLAKE2b of every kept row (a pair: of both sides) is written beside its shard,
   sorted, and the shard waits in work/.
2. The range of keys is divided into buckets. For each bucket a rank reads its part of every key file and notes the rows
   whose key occurred earlier: in the corpus, or, with `across`, in those of the same languages that stand before it in the
   catalog and say `across` too. Such corpora are a group; any other corpus is one by itself.
3. For each chunk a rank writes the shard without the noted rows. If a document's first line is removed, the document starts
   at its next line.

So the first copy stays, whatever the number of ranks. Each step leaves files that are whole, and is not done twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import work_folder
from data_prep.clean import DUPLICATE, DUPLICATE_ELSEWHERE
from data_prep.shard_writer import Rows, selected
from ernie_m.corpus.folder import HELD_OUT, TOKEN_COLUMNS, TRAIN
from ernie_m.corpus.vocabulary import EncodedTexts

ROWS_PER_BUCKET = 2_000_000
KEY = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])
SPLITS = (TRAIN, HELD_OUT)


@dataclass(frozen=True)
class Bucket:
    """Find repeated rows of a group among keys whose leading bits are `number`; there are 2 ** bits buckets."""

    out: Path
    group: tuple[tuple[str, int], ...]
    """(corpus, number of its chunks), in the catalog's order."""
    number: int
    bits: int


@dataclass(frozen=True)
class Removal:
    """Write the shards of a chunk without repeated rows."""

    out: Path
    corpus: str
    num_languages: int
    index: int
    bits: int


def row_keys(sides: list[list[str]]) -> np.ndarray:
    """A key a row, KEY [rows], without row numbers; sides are joined by NUL-newline, which no line holds."""
    joined = b"".join(
        hashlib.blake2b("\0\n".join(texts).encode("utf-8"), digest_size=16).digest() for texts in zip(*sides, strict=True)
    )
    halves = np.frombuffer(joined, dtype=">u8").reshape(-1, 2)
    keys = np.zeros(len(halves), KEY)
    keys["high"], keys["low"] = halves[:, 0], halves[:, 1]
    return keys


def sorted_keys(keys: np.ndarray) -> np.ndarray:
    """The keys of a shard with their row numbers, in the order of the keys."""
    keys = keys.copy()
    keys["row"] = np.arange(len(keys))
    return keys[np.lexsort((keys["low"], keys["high"]))]


def num_bits(num_rows: int) -> int:
    """How many leading bits of a key number its bucket, so that a bucket has about ROWS_PER_BUCKET rows at most."""
    return max(0, (max(1, num_rows) - 1) // ROWS_PER_BUCKET).bit_length()


def find_repeated(bucket: Bucket) -> None:
    """Write the bucket's repeated rows, a file a corpus: int64 [rows, 4], sorted.

    The columns: split, chunk, row, whether the first copy is in another corpus.
    """
    paths = [_drops_path(bucket.out, corpus, bucket.bits, bucket.number) for corpus, _ in bucket.group]
    if all(path.exists() for path in paths):
        return
    found: list[list[np.ndarray]] = [[np.zeros((0, 4), np.int64)] for _ in paths]
    for number, split in enumerate(SPLITS):
        parts, places = [], []
        for place, (corpus, num_chunks) in enumerate(bucket.group):
            for index in range(num_chunks):
                keys_path = work_folder.keys_path(bucket.out, corpus, split, index)
                if keys_path.exists():
                    part = _stretch(np.load(keys_path, mmap_mode="r"), bucket)
                    parts.append(part)
                    places.append(np.full((len(part), 2), (place, index)))
        if parts:
            corpus_of, drops = _repeated(np.concatenate(parts), np.concatenate(places), number)
            for place in range(len(paths)):
                found[place].append(drops[corpus_of == place])
    for path, some in zip(paths, found, strict=True):
        drops = np.concatenate(some)
        work_folder.write_array(path, drops[np.lexsort(drops.T[::-1])])


def remove_repeated(removal: Removal) -> None:
    """Write the final shards and the final marker of a chunk."""
    if work_folder.is_done(removal.out, removal.corpus, removal.index, is_final=True):
        return
    marker = work_folder.read_marker(removal.out, removal.corpus, removal.index)
    drops = _drops_of(removal)
    shards, removed = [], {DUPLICATE: 0, DUPLICATE_ELSEWHERE: 0}
    for shard in marker["shards"]:
        drop = drops[drops[:, 0] == SPLITS.index(shard["split"])]
        keep = np.ones(shard["rows"], np.bool_)
        keep[drop[:, 2]] = False
        removed[DUPLICATE_ELSEWHERE] += int(drop[:, 3].sum())
        removed[DUPLICATE] += int((1 - drop[:, 3]).sum())
        if keep.any():
            rows = _without(work_folder.provisional(removal.out) / shard["file"], removal.num_languages, keep)
            shards.append(asdict(rows.write(removal.out, shard["file"], shard["split"])))
    marker["shards"] = shards
    marker["rejected"] |= {reason: number for reason, number in removed.items() if number}
    work_folder.write_marker(removal.out, removal.corpus, removal.index, marker, is_final=True)


def _stretch(keys: np.ndarray, bucket: Bucket) -> np.ndarray:
    if bucket.bits == 0:
        return np.asarray(keys)
    shift = 64 - bucket.bits
    limits = [bucket.number << shift, (bucket.number + 1) << shift]
    first = int(np.searchsorted(keys["high"], np.uint64(limits[0])))
    last = len(keys) if limits[1] == 1 << 64 else int(np.searchsorted(keys["high"], np.uint64(limits[1])))
    return np.asarray(keys[first:last])


def _repeated(keys: np.ndarray, places: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """(the corpus of each repeated row, the rows as `find_repeated` writes them); places: corpus and chunk, [rows, 2]."""
    order = np.lexsort((keys["row"], places[:, 1], places[:, 0], keys["low"], keys["high"]))
    keys, places = keys[order], places[order]
    is_repeated = np.zeros(len(keys), np.bool_)
    is_repeated[1:] = (keys["high"][1:] == keys["high"][:-1]) & (keys["low"][1:] == keys["low"][:-1])
    first = np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(keys))))  # of the same key
    chosen = np.flatnonzero(is_repeated)
    corpus = places[chosen, 0]
    is_elsewhere = corpus != places[first[chosen], 0]
    columns = [np.full(len(chosen), split), places[chosen, 1], keys["row"][chosen], is_elsewhere]
    return corpus, np.stack(columns, axis=1).astype(np.int64)


def _drops_path(out: Path, corpus: str, bits: int, number: int) -> Path:
    return out / work_folder.WORK_FOLDER / corpus / f"drops-{bits}-{number:05d}.npy"


def _drops_of(removal: Removal) -> np.ndarray:
    found = []
    for number in range(1 << removal.bits):
        drops = np.load(_drops_path(removal.out, removal.corpus, removal.bits, number), mmap_mode="r")
        for split in range(len(SPLITS)):
            first, last = (_place(drops, split, removal.index + more) for more in (0, 1))
            found.append(np.asarray(drops[first:last]))
    return np.concatenate(found)


def _place(drops: np.ndarray, split: int, index: int) -> int:
    start, stop = (int(np.searchsorted(drops[:, 0], split, side=side)) for side in ("left", "right"))
    return start + int(np.searchsorted(drops[start:stop, 1], index))


def _without(path: Path, num_languages: int, keep: np.ndarray) -> Rows:
    with pa.memory_map(str(path)) as mapped:
        batch: Any = pa.ipc.open_file(mapped).get_batch(0)
        columns = [batch.column(name) for name in TOKEN_COLUMNS[num_languages]]
        encoded = [EncodedTexts(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64)) for column in columns]
        starts = np.zeros(len(keep), np.bool_)
        if num_languages == 1:
            starts = batch.column("starts_document").to_numpy(zero_copy_only=False)
        documents = np.cumsum(starts)[keep]
        rows = Rows(num_languages)
        rows.add([selected(column, keep) for column in encoded], np.diff(documents, prepend=0) > 0)
    return rows

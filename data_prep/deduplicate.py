"""Removal of repeated rows (catalog: `deduplicate`, `deduplicate_near`), in bounded memory, on any number of ranks.

1. While chunks are converted, keys of every kept row are written beside its shard, sorted, and the shard waits in work/.
   For exact copies a key is the row's 128-bit BLAKE2b (a pair: of both sides); for near duplicates a row has a key a band
   and a sketch (row_keys.py, near_duplicates.py).
2. The range of keys is divided into buckets. For each bucket a rank reads its part of every key file and notes the rows
   whose key occurred earlier: in the corpus, or in another of its group that stands before it in the catalog. With
   `across` a group has the corpora of the same languages that say so; for near duplicates, those of the same languages and
   settings; else a corpus is one by itself. Near duplicates have to have a sketch like that of the first row with their
   key, or of the one before them.
3. For each chunk a rank writes the shard without the noted rows. If a document's first line is removed, the document starts
   at its next line.

So the first copy stays, whatever the number of ranks. Each step leaves files that are whole, and is not done twice.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import work_folder
from data_prep.clean import DUPLICATE, DUPLICATE_ELSEWHERE, NEAR_DUPLICATE, NEAR_DUPLICATE_ELSEWHERE
from data_prep.near_duplicates import Near
from data_prep.row_keys import EXACT, NEAR, SKETCHES
from data_prep.shard_writer import Rows, selected
from ernie_m.corpus.folder import TOKEN_COLUMNS
from ernie_m.corpus.shard_table import SPLITS
from ernie_m.corpus.vocabulary import EncodedTexts

ROWS_PER_BUCKET = 2_000_000  # keys, of which a row may have several
COMPARED_AT_ONCE = 1 << 16
REASONS = {EXACT: (DUPLICATE, DUPLICATE_ELSEWHERE), NEAR: (NEAR_DUPLICATE, NEAR_DUPLICATE_ELSEWHERE)}
"""Kind -> why its rows go: the earlier one is in the same corpus, or in another. A row counts under the first kind."""


@dataclass(frozen=True)
class Bucket:
    """Find repeated rows of a group among keys whose leading bits are `number`; there are 2 ** bits buckets."""

    out: Path
    group: tuple[tuple[str, int], ...]
    """(corpus, number of its chunks), in the catalog's order."""
    number: int
    bits: int
    near: Near | None = None
    """None: exact copies."""

    @property
    def kind(self) -> str:
        return EXACT if self.near is None else NEAR


@dataclass(frozen=True)
class Removal:
    """Write the shards of a chunk without repeated rows."""

    out: Path
    corpus: str
    num_languages: int
    index: int
    bits: tuple[tuple[str, int], ...]
    """(kind, the bits of its buckets) of what was looked for."""


def num_bits(num_rows: int) -> int:
    """How many leading bits of a key number its bucket, so that a bucket has about ROWS_PER_BUCKET rows at most."""
    return max(0, (max(1, num_rows) - 1) // ROWS_PER_BUCKET).bit_length()


def find_repeated(bucket: Bucket) -> None:
    """Write the bucket's repeated rows, a file a corpus: int64 [rows, 4], sorted.

    The columns: split, chunk, row, whether the earlier row is in another corpus.
    """
    paths = [_drops_path(bucket.out, corpus, bucket.kind, bucket.bits, bucket.number) for corpus, _ in bucket.group]
    if all(path.exists() for path in paths):
        return
    found: list[list[np.ndarray]] = [[np.zeros((0, 4), np.int64)] for _ in paths]
    for number, split in enumerate(SPLITS):
        parts, places = [], []
        for place, (corpus, num_chunks) in enumerate(bucket.group):
            for index in range(num_chunks):
                keys_path = work_folder.keys_path(bucket.out, corpus, split, index, bucket.kind)
                if keys_path.exists():
                    part = _stretch(np.load(keys_path, mmap_mode="r"), bucket)
                    parts.append(part)
                    places.append(np.full((len(part), 2), (place, index)))
        if parts:
            corpus_of, drops = _repeated(np.concatenate(parts), np.concatenate(places), number, bucket)
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
    drops = {kind: _drops_of(removal, kind, bits) for kind, bits in removal.bits}
    shards, removed = [], dict.fromkeys((reason for kind in drops for reason in REASONS[kind]), 0)
    for shard in marker["shards"]:
        keep = np.ones(shard["rows"], np.bool_)
        for kind, found in drops.items():
            drop = found[found[:, 0] == SPLITS.index(shard["split"])]
            drop = drop[keep[drop[:, 2]]]
            keep[drop[:, 2]] = False
            for reason, number in zip(REASONS[kind], np.bincount(drop[:, 3], minlength=2).tolist(), strict=True):
                removed[reason] += number
        if keep.any():
            rows = _without(work_folder.provisional(removal.out) / shard["file"], removal.num_languages, keep)
            shards.append(asdict(rows.write(removal.out, shard["file"], shard["split"])))
    marker["shards"] = shards
    marker["rejected"] |= {reason: number for reason, number in removed.items() if number}
    work_folder.write_marker(removal.out, removal.corpus, removal.index, marker, is_final=True)


def _stretch(keys: np.ndarray, bucket: Bucket) -> np.ndarray:
    """The keys of a file that are in the bucket; a copy, for thousands of files are not to stay open."""
    shift = 64 - bucket.bits
    first, last = (bisect_left(keys["high"], number << shift) for number in (bucket.number, bucket.number + 1))
    return np.array(keys[first:last])


def _repeated(keys: np.ndarray, places: np.ndarray, split: int, bucket: Bucket) -> tuple[np.ndarray, np.ndarray]:
    """(the corpus of each repeated row, the rows as `find_repeated` writes them); places: corpus and chunk, [rows, 2]."""
    parts = [name for name in ("low", "high") if name in (keys.dtype.names or ())]
    order = np.lexsort([keys[name] for name in parts])  # those of a key stay as they came: corpus by corpus, row by row
    keys, places = keys[order], places[order]
    is_repeated = np.zeros(len(keys), np.bool_)
    is_repeated[1:] = np.logical_and.reduce([keys[name][1:] == keys[name][:-1] for name in parts])
    first = np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(keys))))  # of the same key
    chosen = np.flatnonzero(is_repeated)
    earlier = first[chosen]
    if bucket.near is not None:
        rows = np.column_stack([places, keys["row"]])
        is_near = _are_alike(rows[chosen], rows[earlier], split, bucket)
        others = np.flatnonzero(~is_near)
        earlier[others] = chosen[others] - 1
        is_near[others] = _are_alike(rows[chosen[others]], rows[earlier[others]], split, bucket)
        chosen, earlier = chosen[is_near], earlier[is_near]
    corpus = places[chosen, 0]
    is_elsewhere = corpus != places[earlier, 0]
    columns = [np.full(len(chosen), split), places[chosen, 1], keys["row"][chosen], is_elsewhere]
    return corpus, np.stack(columns, axis=1).astype(np.int64)


def _are_alike(rows: np.ndarray, others: np.ndarray, split: int, bucket: Bucket) -> np.ndarray:
    """Whether the sketches of each two rows are alike, bool [rows]; rows: corpus, chunk and row, [rows, 3]."""
    assert bucket.near is not None
    found = [np.zeros(0, np.bool_)]
    for first in range(0, len(rows), COMPARED_AT_ONCE):
        some = slice(first, first + COMPARED_AT_ONCE)
        found.append(bucket.near.are_alike(*(_sketches(each[some], split, bucket) for each in (rows, others))))
    return np.concatenate(found)


def _sketches(rows: np.ndarray, split: int, bucket: Bucket) -> np.ndarray:
    assert bucket.near is not None
    found = np.zeros((len(rows), bucket.near.permutations), np.uint8)
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    borders = np.flatnonzero(np.diff(rows[order, :2], axis=0, prepend=-1).any(axis=1))
    for some in np.split(order, borders[1:]):
        (corpus, _), index = bucket.group[rows[some[0], 0]], int(rows[some[0], 1])
        path = work_folder.keys_path(bucket.out, corpus, SPLITS[split], index, SKETCHES)
        found[some] = np.load(path, mmap_mode="r")[rows[some, 2]]
    return found


def _drops_path(out: Path, corpus: str, kind: str, bits: int, number: int) -> Path:
    return out / work_folder.WORK_FOLDER / corpus / f"drops-{kind}-{bits}-{number:05d}.npy"


def _drops_of(removal: Removal, kind: str, bits: int) -> np.ndarray:
    """The repeated rows of a chunk, once each; the earlier one is in another corpus if by one of the keys it is."""
    found = []
    for number in range(1 << bits):
        drops = np.load(_drops_path(removal.out, removal.corpus, kind, bits, number), mmap_mode="r")
        for split in range(len(SPLITS)):
            first, last = (_place(drops, split, removal.index + more) for more in (0, 1))
            found.append(np.array(drops[first:last]))
    together = np.concatenate(found)
    together = together[np.lexsort(together.T[::-1])]
    return together[np.diff(together[:, :3], axis=0, append=-1).any(axis=1)]


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

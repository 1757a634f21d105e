"""A table of shards gives back what was put in, as entries and as columns, or is refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import ernie_m.corpus.shard_table
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.shard_table import (
    HELD_OUT,
    SHARD_TABLE_FILE,
    SHARD_TABLE_SCHEMA,
    TRAIN,
    ShardEntry,
    ShardList,
    ShardTable,
    read_table,
    shard_file,
    write_table,
)

LARGEST = 2**31 - 1


def entries_of(corpus: str, num_languages: int, numbers: range, seed: int = 0) -> list[ShardEntry]:
    """Random entries, train and held out in turn, with totals up to the largest that a column holds."""
    rng = np.random.default_rng(seed)
    found = []
    for number in numbers:
        split = TRAIN if number % 3 else HELD_OUT
        rows, documents, *tokens = rng.integers(0, LARGEST, 2 + num_languages, endpoint=True).tolist()
        digest = hashlib.sha256(f"{corpus} {number}".encode()).hexdigest()
        size = int(rng.integers(0, 2**40))
        found.append(ShardEntry(shard_file(corpus, split, number), split, rows, tuple(tokens), size, digest, documents))
    return found


CORPORA = {
    "m.en": (1, entries_of("m.en", 1, range(11))),
    "nothing": (1, []),
    "p.de-en": (2, entries_of("p.de-en", 2, range(99_997, 100_003), 1)),
    "m.de": (1, entries_of("m.de", 1, range(LARGEST - 2, LARGEST + 1), 2)),
}


def written(folder: Path) -> Path:
    write_table(folder, [(name, ShardList.of(name, *content)) for name, content in CORPORA.items()])
    return folder / SHARD_TABLE_FILE


def read(folder: Path, counts: Sequence[int] = (11, 0, 6, 3)) -> ShardTable:
    """The table under its present size and hash: what is wrong inside shows."""
    path = folder / SHARD_TABLE_FILE
    return read_table(folder, path.stat().st_size, sha256_of(path), list(CORPORA), counts)


def lists_of(table: ShardTable) -> dict[str, ShardList]:
    places = np.split(np.arange(20), np.cumsum([len(entries) for _, entries in CORPORA.values()])[:-1])
    return {name: ShardList(table, p, n) for (name, (n, _)), p in zip(CORPORA.items(), places, strict=True)}


@pytest.mark.parametrize("at_a_time", [1, 3, 8192])
def test_entries_come_back_as_they_were_given(tmp_path: Path, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ernie_m.corpus.shard_table, "ENTRIES_AT_A_TIME", at_a_time)
    written(tmp_path)
    lists = lists_of(read(tmp_path))
    for name, (_, entries) in CORPORA.items():
        assert list(lists[name]) == entries
        assert [lists[name][i] for i in range(-len(entries), len(entries))] == entries * 2
        assert lists[name] == entries
        assert lists[name].corpora() == ({name} if entries else set())
    with pytest.raises(IndexError):
        lists["m.en"][11]
    assert CORPORA["p.de-en"][1][-1].file == "shards/p.de-en/held_out-100002.arrow"


def test_lists_differ_when_any_field_of_an_entry_does() -> None:
    num_languages, entries = CORPORA["p.de-en"]
    given = ShardList.of("p.de-en", num_languages, entries)
    assert given == ShardList.of("p.de-en", num_languages, iter(entries))
    assert given != entries[:-1]
    last = entries[-1]
    for change in (
        {"file": "shards/p.de-en/held_out-100003.arrow"},
        {"file": shard_file("p.de-en", TRAIN, 100_002), "split": TRAIN},
        {"rows": last.rows - 1},
        {"tokens": (last.tokens[0], last.tokens[1] - 1)},
        {"bytes": last.bytes + 1},
        {"sha256": last.sha256[::-1]},
        {"documents": last.documents - 1},
    ):
        assert given != ShardList.of("p.de-en", num_languages, [*entries[:-1], replace(last, **change)]), change


def test_columns_are_the_entries_values_and_their_sums_do_not_overflow(tmp_path: Path) -> None:
    written(tmp_path)
    for from_file, (name, (n, entries)) in zip(lists_of(read(tmp_path)).values(), CORPORA.items(), strict=True):
        for shards in (from_file, ShardList.of(name, n, entries)):
            assert shards.rows.tolist() == [entry.rows for entry in entries]
            assert [tuple(tokens) for tokens in shards.tokens.tolist()] == [entry.tokens for entry in entries]
            assert shards.tokens.shape == (len(entries), n)
            assert shards.documents.tolist() == [entry.documents for entry in entries]
            assert shards.bytes.tolist() == [entry.bytes for entry in entries]
            assert {c.dtype for c in (shards.rows, shards.tokens, shards.documents, shards.bytes)} == {np.dtype(np.int64)}
            assert int(shards.tokens.sum()) == sum(sum(entry.tokens) for entry in entries)


def test_splits_and_joined_lists_keep_the_order(tmp_path: Path) -> None:
    written(tmp_path)
    lists = lists_of(read(tmp_path))
    joined = ShardList.joined([lists["m.de"], lists["nothing"], lists["m.en"]])
    expected = CORPORA["m.de"][1] + CORPORA["m.en"][1]
    assert joined == expected
    for split in (TRAIN, HELD_OUT):
        assert list(joined.of_split(split)) == [entry for entry in expected if entry.split == split]
        assert len(joined.of_split(split)) > 2


def test_the_same_shards_give_the_same_bytes_however_they_are_held(tmp_path: Path) -> None:
    first = written(tmp_path).read_bytes()
    assert written(tmp_path).read_bytes() == first
    write_table(tmp_path, list(lists_of(read(tmp_path)).items()))
    assert (tmp_path / SHARD_TABLE_FILE).read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        {"file": "shards/other/train-00001.arrow"},
        {"file": "shards/m.en/train-1.arrow"},
        {"split": "test"},
        {"tokens": (1, 2)},
        {"tokens": (-1,)},
        {"sha256": "ab" * 31},
    ],
)
def test_entries_that_the_table_cannot_hold_are_not_written(change: dict[str, object]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        ShardList.of("m.en", 1, [replace(CORPORA["m.en"][1][1], **change)])  # type: ignore[arg-type]


def spoil_missing(path: Path) -> None:
    path.unlink()


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (spoil_missing, "missing, though the manifest names it"),
        (spoil_truncated, r"\d+ bytes, the manifest says \d+"),
        (spoil_flipped_bit, "SHA-256 differs from the manifest's"),
    ],
)
def test_a_table_that_is_not_the_manifests_is_refused(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    path = written(tmp_path)
    expected = (path.stat().st_size, sha256_of(path), list(CORPORA), [11, 0, 6, 3])
    assert len(read_table(tmp_path, *expected).columns.rows) == 20
    harm(path)
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path, *expected)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def batches_of(path: Path) -> list[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file:
        return [pa.ipc.open_file(file).get_batch(0)]


def rewrite(path: Path, schema: pa.Schema, batches: list[pa.RecordBatch]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for batch in batches:
            file.write_batch(batch)


def test_a_table_made_by_another_hand_is_refused_for_what_is_wrong_in_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    (batch,) = batches_of(path)

    def with_column(name: str, column: pa.Array) -> pa.RecordBatch:
        index = batch.schema.get_field_index(name)
        return pa.RecordBatch.from_arrays(
            [column if i == index else own for i, own in enumerate(batch.columns)], schema=SHARD_TABLE_SCHEMA
        )

    corpus, split = batch.column("corpus"), batch.column("split")
    reversed_order = pa.DictionaryArray.from_arrays(corpus.indices[::-1], corpus.dictionary)
    other_names = pa.DictionaryArray.from_arrays(corpus.indices, pa.array(["m.en", "x", "p.de-en", "m.de"]))
    other_splits = pa.DictionaryArray.from_arrays(split.indices, pa.array([HELD_OUT, TRAIN]))
    beyond = pa.DictionaryArray.from_arrays(pa.array([*split.indices[:-1], 2], pa.int8()), split.dictionary, safe=False)
    nulls = pa.array([None] * 20, pa.int32())
    cases = [
        (batch.schema.remove(2), [batch.drop_columns(["number"])], "other columns than a shard table's"),
        (batch.schema, [batch, batch], "2 record batches, expected 1"),
        (batch.schema, [batch.slice(0, 19)], "not those of the manifest's corpora"),
        (batch.schema, [with_column("corpus", reversed_order)], "not those of the manifest's corpora"),
        (batch.schema, [with_column("corpus", other_names)], "column corpus counts"),
        (batch.schema, [with_column("split", other_splits)], "column split counts"),
        (batch.schema, [with_column("split", beyond)], "column split has indices from 0 to 2"),
        (batch.schema, [with_column("rows", nulls)], "holds nulls"),
    ]
    for schema, batches, message in cases:
        rewrite(path, schema, batches)
        with pytest.raises(InputError, match=message):
            read(tmp_path)
    rewrite(path, batch.schema, [batch])
    for counts in ([10, 1, 6, 3], [11, 0, 7, 3], [11, 0, 6, 4], [11, -3, 9, 3], [11, 0, 6, 10**15]):
        with pytest.raises(InputError, match="not those of the manifest's corpora"):
            read(tmp_path, counts)
    path.write_bytes(b"ARROW1" + bytes(1000))
    with pytest.raises(InputError, match="not a readable Arrow file"):
        read(tmp_path)
    rewrite(path, batch.schema, [batch])
    assert lists_of(read(tmp_path))["m.de"] == CORPORA["m.de"][1]

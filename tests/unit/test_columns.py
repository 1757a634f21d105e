"""Optional columns lie beside the tokens, are checked like them, and change nothing where there are none."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.stats import folder_stats, report
from data_prep.verify import check_shard, checks_of
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.columns import LINKS, ColumnEntry, ColumnTable
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder, Manifest, Shard
from tests.link_fixtures import Links, random_links, shards_of, write


@pytest.fixture
def corpus_folder(corpus_without_links: CorpusFolder) -> CorpusFolder:
    """These tests write links themselves."""
    return corpus_without_links


@pytest.fixture
def copy(corpus_folder: CorpusFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus_folder.folder, tmp_path / "copy"))


def failures(folder: Path) -> list[str]:
    return [fault for check in checks_of(folder, Manifest.read(folder)) for fault in check_shard(check)]


def test_links_come_back_as_they_were_written(copy: Path) -> None:
    written = write(copy)
    folder = CorpusFolder(copy)
    found = 0
    for stream in (*folder.parallel(), *folder.parallel(HELD_OUT)):
        folder.require_column("links", stream)
    for _, shard in shards_of(folder):
        links = written[shard.entry.file]
        for first, last in ((0, shard.entry.rows), (3, 9), (5, 5), (shard.entry.rows - 1, shard.entry.rows)):
            items, borders = shard.items("links", first, last)
            assert items.dtype == np.int32
            rows = [list(map(tuple, items[a:b].tolist())) for a, b in itertools.pairwise(borders.tolist())]
            assert rows == links[first:last]
            found += len(items)
    assert found > 1000
    assert failures(copy) == []


def test_the_tokens_stay_untouched_and_the_manifest_pins_the_links(corpus_folder: CorpusFolder, copy: Path) -> None:
    write(copy)
    for path in sorted(corpus_folder.folder.rglob("*.arrow")):
        assert (copy / path.relative_to(corpus_folder.folder)).read_bytes() == path.read_bytes()
    content = json.loads((copy / "manifest.json").read_text())
    before = json.loads((corpus_folder.folder / "manifest.json").read_text())
    assert (before["format_version"], content["format_version"]) == (3, 4)
    assert content.pop("columns")["links"]["table"]["sha256"] == sha256_of(copy / "links.arrow")
    assert {**content, "format_version": 3} == before
    manifest, pinned = Manifest.read(copy), sha256_of(copy / "manifest.json")
    manifest.write(copy)
    assert (Manifest.read(copy), sha256_of(copy / "manifest.json")) == (manifest, pinned)
    write(copy, lambda shard, place: random_links(shard, place + 1))
    assert Manifest.read(copy) != manifest
    assert sha256_of(copy / "manifest.json") != pinned


def test_without_links_the_manifest_has_the_bytes_it_had(corpus_folder: CorpusFolder, copy: Path) -> None:
    write(copy)
    replace(Manifest.read(copy), columns={}, columns_made={}).write(copy)
    assert (copy / "manifest.json").read_bytes() == (corpus_folder.folder / "manifest.json").read_bytes()


def test_asking_for_links_that_are_not_there_names_the_command(corpus_folder: CorpusFolder) -> None:
    stream = corpus_folder.parallel()[0]
    for ask in (lambda: stream.shards[0].items("links", 0, 3), lambda: corpus_folder.require_column("links", stream)):
        with pytest.raises(InputError, match=rf"no column links.*python -m data_prep align --data {corpus_folder.folder}"):
            ask()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((-2, 0), r"row 7 holds \d+-0, expected indices in sentences of \d+ and \d+ tokens"),
        ((99, 0), r"row 7 holds 99-0, expected indices in sentences of \d+ and \d+ tokens"),
        ((0, 99), "row 7 holds 0-99, expected indices"),
        ((-1, 0), "row 7 holds -1-0, expected indices"),
        ((0, 0), "row 7 holds 0-0 behind one that is not below it, expected ascending"),
    ],
)
def test_nonsense_is_named_with_shard_and_row(copy: Path, item: tuple[int, int], message: str) -> None:
    def links_of(shard: Shard, place: int) -> Links:
        links, first = random_links(shard, place), shard.offsets[0]
        links[7] = [(0, 0), item if item[0] != -2 else (int(first[8] - first[7]), 0)]  # the first index outside
        return links

    write(copy, links_of)
    shard = CorpusFolder(copy).parallel()[1].shards[0]
    shard.items("links", 0, 7)  # the other rows are read undisturbed
    shard.items("links", 8, shard.entry.rows)
    with pytest.raises(InputError, match=f"{LINKS.file_of(str(shard.path))}: {message}") as caught:
        shard.items("links", 5, 9)
    assert f"data_prep align --data {copy} --overwrite" in str(caught.value)
    found = failures(copy)
    assert len(found) == 6, "one line a shard"
    assert all("\n" not in line for line in found)


def test_a_companion_that_is_cut_missing_or_flipped_is_named(copy: Path) -> None:
    write(copy)
    shard = CorpusFolder(copy).parallel()[1].shards[0]
    path = shard.companions["links"].path
    content = path.read_bytes()
    shard.items("links", 0, 3)
    for harm in (lambda: path.write_bytes(content[:-1]), path.unlink):
        harm()
        for fresh in (shard, CorpusFolder(copy).parallel()[1].shards[0]):  # mapped before, and new
            with pytest.raises(InputError, match=rf"{path}: (missing|\d+ bytes).*align --data {copy} --overwrite"):
                fresh.items("links", 0, 3)
        assert len(failures(copy)) == 1
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    (failure,) = failures(copy)
    assert "SHA-256 differs" in failure


def test_a_companion_of_other_rows_or_columns_is_refused(copy: Path) -> None:
    write(copy)
    shard = CorpusFolder(copy).parallel()[1].shards[0]
    companion = shard.companions["links"]
    for names, rows in (("links", [[0, 0]]), ("others", [[]] * shard.entry.rows)):
        batch = pa.RecordBatch.from_arrays([pa.array(rows, pa.list_(pa.int32()))], names=[names])
        with pa.OSFile(str(companion.path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        companion.entry = ColumnEntry(companion.entry.values, companion.path.stat().st_size, "")
        with pytest.raises(InputError, match="not a column links of"):
            shard.items("links", 0, 1)


def test_tables_of_companions_are_checked(copy: Path) -> None:
    write(copy)
    path, table = copy / "manifest.json", copy / "links.arrow"
    content, rows = json.loads(path.read_text()), table.read_bytes()
    described = content["columns"]["links"]
    for change, message in (
        ({"columns": {"links": described, "surprise": described}}, "column surprise, this release knows links"),
        ({"columns": {"links": {**described, "table": {**described["table"], "file": "../x"}}}}, "expected links.arrow"),
        ({"columns": {"links": {**described, "table": {**described["table"], "sha256": "0"}}}}, "SHA-256 differs"),
        ({"columns": {"links": {**described, "table": {**described["table"], "bytes": 1}}}}, "the manifest says 1"),
        ({"columns": {"links": {}}}, "not a valid manifest"),
        ({"format_version": 3}, "not a valid manifest"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=message) as caught:
            Manifest.read(copy)
        assert "\n" not in str(caught.value)
    path.write_text(json.dumps(content))
    table.write_bytes(rows[:-8])
    with pytest.raises(InputError, match=r"links\.arrow: \d+ bytes, the manifest says"):
        Manifest.read(copy)


def test_a_column_of_some_shards_is_no_column_of_their_stream(copy: Path) -> None:
    write(copy)
    manifest = Manifest.read(copy)
    table = manifest.columns["links"]
    places = np.delete(table.places, 1)
    some = ColumnTable.of((int(p), entry) for p in places if (entry := table.entry(int(p))) is not None)
    replace(manifest, columns={"links": some}).write(copy)
    folder = CorpusFolder(copy)
    lacking = [s for s in folder.parallel() if not some.has_all(s.entries.places)]
    assert [stream.name for stream in lacking] == ["de-en"]
    with pytest.raises(InputError, match="de-en has no column links, or not in all its shards"):
        folder.require_column("links", lacking[0])
    folder.require_column("links", folder.parallel()[1])


def test_stats_show_links_a_pair_where_there_are_any(corpus_folder: CorpusFolder, copy: Path) -> None:
    assert "links" not in report(folder_stats(corpus_folder.folder, 0.3))
    written = write(copy)
    found = folder_stats(copy, 0.3)
    counts = [len(row) for file, links in written.items() if "p.en-fr" in file for row in links]
    assert found.pairs[1].items == {"links": pytest.approx(np.mean(counts))}
    assert "links a pair" in report(found)

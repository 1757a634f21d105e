"""A corpus folder is what its manifest says, or it is refused in one line."""

from __future__ import annotations

import dataclasses
import gc
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import ernie_m.corpus.folder
from ernie_m.base.console import InputError, Progress
from ernie_m.corpus.folder import HELD_OUT, MONOLINGUAL_SCHEMA, CorpusFolder, Shard


@pytest.fixture
def copy(corpus_folder: CorpusFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus_folder.folder, tmp_path / "copy"))


def first_shard(folder: Path) -> Path:
    return folder / "shards" / "m.en" / "train-00000.arrow"


def test_streams_join_the_shards_of_a_language_or_pair(corpus_folder: CorpusFolder) -> None:
    assert [stream.name for stream in corpus_folder.monolingual()] == ["de", "en", "fr", "sw"]
    assert [stream.name for stream in corpus_folder.parallel()] == ["de-en", "en-fr"]
    assert [stream.name for stream in corpus_folder.parallel(HELD_OUT)] == ["de-en"]
    assert corpus_folder.monolingual(HELD_OUT) == []
    english = corpus_folder.monolingual()[1]
    assert (len(english.shards), english.num_rows) == (2, 3000)
    assert english.num_tokens == sum(len(shard.values[0]) for shard in english.shards)
    assert corpus_folder.language_ids == {"de": 1, "en": 2, "fr": 3, "sw": 4}


def test_columns_are_views_of_the_mapped_file(corpus_folder: CorpusFolder) -> None:
    shard = corpus_folder.parallel()[0].shards[0]
    for values, offsets in zip(shard.values, shard.offsets, strict=True):
        assert not values.flags.owndata
        assert not values.flags.writeable
        assert values.dtype == offsets.dtype == np.int32
        assert offsets[0] == 0
        assert offsets[-1] == len(values)
        assert (np.diff(offsets) > 0).all()
    assert len(shard.offsets[0]) == shard.entry.rows + 1


def test_verify_sees_a_single_flipped_bit(copy: Path) -> None:
    shard = Shard(copy, CorpusFolder(copy).monolingual()[1].shards[0].entry, 1)
    shard.verify()
    content = bytearray(first_shard(copy).read_bytes())
    content[len(content) // 2] ^= 1
    first_shard(copy).write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs"):
        shard.verify()
    CorpusFolder(copy)  # opening checks sizes at most, so that large folders open at once


def test_a_folder_with_another_tokenizer_is_refused(copy: Path) -> None:
    (copy / "sentencepiece.bpe.model").write_bytes(b"another")
    with pytest.raises(InputError, match="not the tokenizer of these shards"):
        CorpusFolder(copy)


def harmed(folder: Path, harm: str) -> str:
    """Harm the first shard of English; the message that follows."""
    path = first_shard(folder)
    path.write_bytes(path.read_bytes()[:-1]) if harm == "truncated" else path.unlink()
    return rf"{path}: (missing, though|\d+ bytes,) the manifest (names it|says \d+); rebuild the data"


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_shards_that_are_missing_or_cut_are_refused_on_opening(copy: Path, harm: str) -> None:
    message = harmed(copy, harm)
    with pytest.raises(InputError, match=message):
        CorpusFolder(copy)


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_of_a_large_folder_each_shard_is_checked_when_it_is_first_read(
    copy: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = harmed(copy, harm)
    monkeypatch.setattr(ernie_m.corpus.folder, "SHARDS_CHECKED_ON_OPENING", 13)
    folder = CorpusFolder(copy)
    assert folder.num_shards == 14
    assert len(folder.monolingual()[1].shards[1].values[0]) > 0, "another shard is read undisturbed"
    for read in (lambda: folder.monolingual()[1].shards[0].values, folder.check_sizes):
        with pytest.raises(InputError, match=message):
            read()


def test_sizes_of_all_shards_are_counted_as_they_are_checked(copy: Path) -> None:
    folder, progress = CorpusFolder(copy), Progress("shard sizes", 14, "shards")
    folder.check_sizes(progress)
    assert progress.done == folder.num_shards == 14
    last = copy / "shards" / "p.en-fr" / "train-00001.arrow"
    last.write_bytes(last.read_bytes() + b"x")
    with pytest.raises(InputError, match="train-00001"):
        folder.check_sizes()


def maps_of(folder: Path) -> list[str]:
    """Shards of `folder` that this process has mapped, from the kernel."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split(maxsplit=5)[-1] for line in lines if f"{folder}/shards/" in line})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are counted in Linux's /proc")
def test_only_so_many_shards_stay_mapped_and_none_keeps_its_file_open(copy: Path) -> None:
    for kept_open, expected in ((3, 3), (100, 14)):
        folder = CorpusFolder(copy, shards_kept_open=kept_open)
        streams = [*folder.monolingual(), *folder.parallel(), *folder.parallel(HELD_OUT)]
        num_files = len(list(Path("/proc/self/fd").iterdir()))
        most = 0
        for _ in range(2):
            for shard in (shard for stream in streams for shard in stream.shards):
                assert len(shard.values[0]) == shard.entry.tokens[0]
                most = max(most, len(maps_of(copy)))
        del shard
        assert len(maps_of(copy)) == expected
        assert most <= expected + 1, "one more may be in use"
        assert len(list(Path("/proc/self/fd").iterdir())) <= num_files, "of others, the collector may close some"
        del folder, streams
        gc.collect()
        assert maps_of(copy) == []


def test_views_outlive_their_shards_place_among_the_open_ones(copy: Path) -> None:
    folder = CorpusFolder(copy, shards_kept_open=1)
    first, second = folder.monolingual()[1].shards
    views = (*first.values, *first.offsets)
    before = [view.copy() for view in views]
    del first
    assert len(second.values[0]) > 0
    assert folder.monolingual()[1].shards[1] is second
    assert all(np.array_equal(view, kept) for view, kept in zip(views, before, strict=True))


def test_shards_that_turn_out_unreadable_are_one_line(copy: Path) -> None:
    path = first_shard(copy)
    shard = CorpusFolder(copy).monolingual()[1].shards[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(InputError, match="not a readable Arrow file"):
        _ = shard.values
    other = CorpusFolder(copy).monolingual()[1].shards[0]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, MONOLINGUAL_SCHEMA) as file:
        file.write_batch(pa.RecordBatch.from_pylist([{"tokens": [3], "starts_document": True}], MONOLINGUAL_SCHEMA))
    other = Shard(copy, dataclasses.replace(other.entry, bytes=path.stat().st_size), 1)
    with pytest.raises(InputError, match=r"1 rows, the manifest says 1501"):
        _ = other.values

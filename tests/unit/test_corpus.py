"""A corpus folder is what its manifest says, or it is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ernie_m.console import InputError
from ernie_m.corpus import HELD_OUT, CorpusFolder, Manifest, Shard


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


def test_the_manifest_comes_back_as_it_was_written(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    corpus_folder.manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == corpus_folder.manifest


def test_verify_sees_a_single_flipped_bit(copy: Path) -> None:
    shard = Shard(copy, CorpusFolder(copy).monolingual()[1].shards[0].entry, 1)
    shard.verify()
    content = bytearray(first_shard(copy).read_bytes())
    content[len(content) // 2] ^= 1
    first_shard(copy).write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs"):
        shard.verify()
    CorpusFolder(copy)  # opening checks sizes alone, so that large folders open at once


def test_broken_folders_are_refused_by_name(copy: Path, tmp_path: Path) -> None:
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    content = json.loads(text)
    for change, message in (
        ("{", "not a valid manifest"),
        (json.dumps(content | {"format": "x"}), "not a manifest of ernie-m token shards"),
        (json.dumps(content | {"format_version": 99}), "format version 99, this release reads 1"),
        (json.dumps({k: v for k, v in content.items() if k != "corpora"}), "not a valid manifest"),
        (json.dumps(content | {"surprise": 1}), "not a valid manifest"),
        ("[]", "not a valid manifest"),
    ):
        manifest.write_text(change)
        with pytest.raises(InputError, match=message) as caught:
            CorpusFolder(copy)
        assert str(manifest) in str(caught.value)
    manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.json: missing, so this data folder is not finished"):
        CorpusFolder(copy)
    manifest.write_text(text)
    tokenizer = copy / "sentencepiece.bpe.model"
    tokenizer.write_bytes(b"another")
    with pytest.raises(InputError, match="not the tokenizer of these shards"):
        CorpusFolder(copy)
    with pytest.raises(InputError, match="no such folder"):
        CorpusFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_shards_that_are_missing_or_cut_are_refused_on_opening(copy: Path, harm: str) -> None:
    path = first_shard(copy)
    path.write_bytes(path.read_bytes()[:-1]) if harm == "truncated" else path.unlink()
    with pytest.raises(InputError, match=r"train-00000\.arrow: missing or not \d+ bytes"):
        CorpusFolder(copy)


def test_shards_that_turn_out_unreadable_are_one_line(copy: Path) -> None:
    path = first_shard(copy)
    shard = CorpusFolder(copy).monolingual()[1].shards[0]
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(InputError, match="not a readable Arrow file"):
        _ = shard.values
    other = CorpusFolder(copy).monolingual()[1].shards[0]
    shutil.copyfile(copy / "shards" / "m.sw" / "train-00000.arrow", path)
    with pytest.raises(InputError, match=r"\d+ rows, the manifest says \d+"):
        _ = other.values

"""manifest.json and its table are one promise: small, whole, and readable without this code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import ernie_m.corpus.manifest
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.folder import CorpusEntry, CorpusFolder, Manifest

FORMAT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "data_format.md"


def test_the_manifest_comes_back_as_it_was_written(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    corpus_folder.manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == corpus_folder.manifest
    for name in ("manifest.json", "shards.arrow"):
        assert (tmp_path / name).read_bytes() == (corpus_folder.folder / name).read_bytes()


def test_manifests_differ_when_one_shard_does(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    """So whoever has the hash of manifest.json, as a run has, has pinned every byte of the data."""
    manifest = corpus_folder.manifest
    shards = list(manifest.corpora[2].shards)
    shards[1] = replace(shards[1], sha256=shards[1].sha256[::-1])
    corpora = (*manifest.corpora[:2], replace(manifest.corpora[2], shards=tuple(shards)), *manifest.corpora[3:])
    changed = replace(manifest, corpora=corpora)
    assert changed != manifest
    changed.write(tmp_path)
    assert Manifest.read(tmp_path) == changed
    assert sha256_of(tmp_path / "manifest.json") != sha256_of(corpus_folder.folder / "manifest.json")


def test_shards_may_be_given_as_anything_that_yields_them_once(corpus_folder: CorpusFolder) -> None:
    entry = corpus_folder.manifest.corpora[0]
    as_generator = replace(entry, shards=(shard for shard in entry.shards))
    assert as_generator == entry
    assert list(as_generator.shards) == list(as_generator.shards) == list(entry.shards)
    with pytest.raises(AssertionError):
        replace(entry, name="another")
    with pytest.raises(AssertionError):
        CorpusEntry("another", "made", ("en",), 1, {}, list(entry.shards))


def test_manifest_json_holds_no_shard(corpus_folder: CorpusFolder) -> None:
    content = json.loads((corpus_folder.folder / "manifest.json").read_text())
    assert [corpus["shards"] for corpus in content["corpora"]] == [2, 2, 2, 2, 4, 2]
    table = corpus_folder.folder / "shards.arrow"
    assert content["shard_table"] == {"file": table.name, "bytes": table.stat().st_size, "sha256": sha256_of(table)}


def test_a_write_that_is_cut_short_leaves_no_finished_folder(
    corpus_without_links: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ernie_m.corpus.manifest, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        corpus_without_links.manifest.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shards.arrow"]
    with pytest.raises(InputError, match="not finished"):
        Manifest.read(tmp_path)


def test_broken_manifests_are_refused_by_name(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    corpus_folder.manifest.write(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    table, corpora = content["shard_table"], content["corpora"]
    for change, message in (
        ("{", "not a valid manifest"),
        ("[]", "not a valid manifest"),
        (json.dumps(content | {"format": "x"}), "not a manifest of ernie-m token shards"),
        (json.dumps(content | {"format_version": 1}), "format version 1, this release reads 2 to 4; rebuild the data"),
        (json.dumps({k: v for k, v in content.items() if k != "corpora"}), "not a valid manifest"),
        (json.dumps({k: v for k, v in content.items() if k != "shard_table"}), "not a valid manifest"),
        (json.dumps(content | {"surprise": 1}), "not a valid manifest"),
        (json.dumps(content | {"shard_table": table | {"surprise": 1}}), "not a valid manifest"),
        (json.dumps(content | {"shard_table": table | {"file": "../shards.arrow"}}), "expected shards.arrow"),
        (json.dumps(content | {"shard_table": table | {"sha256": table["sha256"][::-1]}}), "SHA-256 differs"),
        (json.dumps(content | {"corpora": corpora[::-1]}), "column corpus counts"),
        (
            json.dumps(content | {"corpora": [corpora[0] | {"shards": 3}, *corpora[1:]]}),
            "not those of the manifest's corpora",
        ),
        (json.dumps(content | {"corpora": [corpora[0] | {"shards": [1]}, *corpora[1:]]}), "not a valid manifest"),
    ):
        path.write_text(change)
        with pytest.raises(InputError, match=message) as caught:
            Manifest.read(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"manifest\.json: missing, so this data folder is not finished"):
        Manifest.read(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Manifest.read(tmp_path / "nowhere")


def test_a_stranger_reads_the_folder_as_the_format_page_says(
    corpus_folder: CorpusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "ernie_m" not in program
    (tmp_path / "data").symlink_to(corpus_folder.folder)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    shown = capsys.readouterr().out.splitlines()
    shards = [(corpus, entry) for corpus in corpus_folder.manifest.corpora for entry in corpus.shards]
    lines = [f"{list(corpus.languages)} {entry.split} {entry.rows} " for corpus, entry in shards]
    starts = [line for line in shown if line.startswith("['")]
    assert len(starts) == len(lines) == 14
    assert all(line.startswith(start) for line, start in zip(starts, lines, strict=True))

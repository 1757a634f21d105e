"""Files under their final name are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ernie_m.files import sha256_of, write_json, written_atomically


def write_half(path: Path) -> None:
    before = path.read_text() if path.exists() else None
    with written_atomically(path) as aside:
        aside.write_text("half")
        assert aside.parent == path.parent
        assert (path.read_text() if path.exists() else None) == before
        raise RuntimeError("disk")


def test_a_failed_write_leaves_nothing_new_and_the_old_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    for old in (None, "old"):
        if old is not None:
            path.write_text(old)
        with pytest.raises(RuntimeError, match="disk"):
            write_half(path)
        assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["f.txt"])
        assert old is None or path.read_text() == "old"


def test_a_write_that_made_no_file_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_atomically(tmp_path / "f"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_write_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")
    with written_atomically(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_json_is_sorted_and_keeps_scripts_readable(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"b": [1, 2], "a": "тест 猫"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "тест 猫", "b": [1, 2]}
    assert text.index('"a"') < text.index('"b"')
    assert "猫" in text
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text(encoding="utf-8") == text
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
def test_hash_in_pieces_is_the_hash(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(i % 251 for i in range(size)))
    assert sha256_of(path, piece_bytes=100) == hashlib.sha256(path.read_bytes()).hexdigest()

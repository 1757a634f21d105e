"""Files under their final name are whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.files import (
    LEFT_OVER,
    check_same_measures,
    folder_written_atomically,
    is_left_over,
    open_log,
    remove,
    remove_left_overs,
    require_folder_of,
    require_new_folder,
    require_outside,
    sha256_of,
    write_json,
    written_atomically,
)
from ernie_m.base.locks import exclusive


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


def test_a_folder_in_the_place_of_a_file_is_named_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        write_json(tmp_path / "taken", {})
    assert caught.value.filename == str(tmp_path / "taken")


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


def test_long_hashing_gives_signs_of_life(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1000))
    signs: list[int] = []
    sha256_of(tmp_path / "f", piece_bytes=100, on_progress=lambda: signs.append(1))
    assert len(signs) == 10


def test_a_file_of_figures_needs_its_folder_before_the_work(tmp_path: Path) -> None:
    check_same_measures(str(tmp_path / "x.json"), {})
    with pytest.raises(InputError, match=r"--output \S*new/x.json: the folder \S*new does not exist; create it first"):
        check_same_measures(str(tmp_path / "new" / "x.json"), {})
    with pytest.raises(InputError, match=r"--output \S*: a folder; expected the name of a file to write"):
        check_same_measures(str(tmp_path), {})


def test_a_file_to_write_takes_the_place_of_no_device_and_a_folder_that_of_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("/dev/null", str(tmp_path / "pipe")):
        with pytest.raises(InputError, match=r"--json \S*: a pipe or device; expected the name of a file to write"):
            require_folder_of("--json", Path(name))
    with pytest.raises(InputError, match=r"--to \S*link: a link to \S*; give a new folder, or what it leads to"):
        require_new_folder("--to", tmp_path / "link")


def test_a_folder_that_is_read_is_not_written_into(tmp_path: Path) -> None:
    """By whatever path it is named. What is no folder, such as a name in the hub, and a folder beside it are passed over."""
    read, link = tmp_path / "read", tmp_path / "link"
    read.mkdir()
    link.symlink_to(read)
    for folder, said in ((read, "is"), (read / "a" / "b", "lies in"), (link / "a", "lies in"), (read / "x" / "..", "is")):
        with pytest.raises(InputError, match=rf"--to \S+: {said} --data \S+/read, which is read; give a folder outside"):
            require_outside("--to", folder, {"--model": "some/model", "--data": read})
    require_outside("--to", tmp_path / "reading", {"--data": read, "--model": "some/model", "--text": None})
    require_outside("--to", tmp_path, {"--data": read})


def test_what_kills_left_of_files_being_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    writer = (
        "import os, sys; from pathlib import Path; from ernie_m.base.files import written_atomically\n"
        "with written_atomically(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", writer, str(tmp_path / "latest")], check=False)
    (left,) = tmp_path.iterdir()
    assert is_left_over(left)
    others = {".hidden", "a.1.tmp", ".notes.tmp", ".x.12.tmp.bak"}
    for name in others:
        (tmp_path / name).touch()
    remove_left_overs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others
    remove_left_overs(tmp_path / "nowhere")


def opened_log(path: Path) -> None:
    with open_log(path) as file:
        file.write(b"ours")


def held(path: Path) -> None:
    with exclusive(path, "busy"):
        pass


@pytest.mark.parametrize("write", [held, opened_log])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "no plain file"])
def test_what_goes_on_under_its_name_is_a_file_of_its_own(tmp_path: Path, write: Callable[[Path], None], kind: str) -> None:
    target, path = tmp_path / "precious", tmp_path / "folder" / ".lock"
    path.parent.mkdir()
    target.write_text("precious")
    if kind == "symbolic link":
        path.symlink_to(target)
    elif kind == "hard link":
        path.hardlink_to(target)
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=kind) as error:
        write(path)
    assert error.value.filename == str(path)
    assert target.read_text() == "precious"
    path.unlink()
    write(path)
    write(path)
    assert target.read_text() == "precious"


def test_a_lock_that_leads_nowhere_makes_no_file_there(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "authorized_keys")
    with pytest.raises(OSError, match="symbolic link"):
        held(tmp_path / ".lock")
    assert not (tmp_path / "authorized_keys").exists()


def test_temporary_names_cannot_be_guessed_and_links_under_older_ones_are_not_followed(
    tmp_path: Path,
) -> None:
    target, path = tmp_path / "precious", tmp_path / "f"
    target.write_text("precious")
    (tmp_path / f".f.{os.getpid()}.tmp").symlink_to(target)
    path.symlink_to(target)
    names = set()
    for _ in range(3):
        with written_atomically(path) as aside:
            names.add(aside.name)
            aside.write_text("ours")
    assert len(names) == 3
    assert all(is_left_over_name(name) for name in names)
    assert (target.read_text(), path.read_text(), path.is_symlink()) == ("precious", "ours", False)


def is_left_over_name(name: str) -> bool:
    return re.fullmatch(rf"\.f{LEFT_OVER}", name) is not None


def test_a_folder_appears_whole_or_not_at_all_and_what_a_kill_leaves_of_it_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError), folder_written_atomically(folder) as aside:
        (aside / "half" / "written").touch()
    assert not list(folder.parent.iterdir())
    with folder_written_atomically(folder) as aside:
        (aside / "whole").touch()
        assert not folder.exists()
        left = aside.with_name(aside.name[:-5] + "0.tmp")
    assert [path.name for path in folder.iterdir()] == ["whole"]
    (left / "inside").mkdir(parents=True)
    remove_left_overs(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_deleting_follows_a_link_only_where_it_is_asked_to(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (far / "f").touch()
    for follow in (False, True):
        (tmp_path / "link").symlink_to(far)
        remove(tmp_path / "link", follow=follow)
        assert not (tmp_path / "link").is_symlink()
        assert far.exists() is not follow

"""A checkpoint's format: what is not whole, not ours or altered is named before anything in it is opened."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of, write_json
from ernie_m.runs.checkpoint import (
    CHECKPOINT_BYTES,
    FORMAT_VERSION,
    _digest,
    committed_folders,
    folder_name,
    newest_in_run,
    problem_of_room,
    rank_file,
    read_manifest,
    step_of,
    verify,
    write_manifest,
)

FIRST, SECOND = rank_file(0), rank_file(1)


def committed(checkpoints: Path, step: int) -> Path:
    """A checkpoint of two ranks; what the files hold is nobody's business here."""
    folder = checkpoints / folder_name(step)
    folder.mkdir(parents=True)
    for rank in range(2):
        (folder / rank_file(rank)).write_bytes(bytes([step + rank]) * 1000 * (1 + rank))
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in folder.iterdir()}
    content = {"step": step, "world_size": 2, "files": files, "state": {"version": "x"}}
    write_manifest(folder / "manifest.json", content, write_json)
    return folder


def changed(folder: Path, resealed: bool = False, **changes: object) -> None:
    """Change keys of the manifest (None removes them); resealed: with a digest that fits."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    content = {key: value for key, value in content.items() if value is not None}
    if resealed:
        content.pop("sha256")
        content["sha256"] = _digest(content)
    path.write_text(json.dumps(content))


def flip(path: Path, offset: int = 10) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    committed(tmp_path / "checkpoints", 1)
    committed(tmp_path / "checkpoints", 2)
    return tmp_path / "checkpoints"


def test_a_whole_checkpoint_verifies_and_says_what_it_is(checkpoints: Path) -> None:
    newest, older = committed_folders(checkpoints)
    found = verify(newest)
    assert (found.folder, found.step, found.world_size, found.state) == (newest, 2, 2, {"version": "x"})
    assert found == read_manifest(newest)
    assert {name: entry["bytes"] for name, entry in found.files.items()} == {FIRST: 1000, SECOND: 2000}
    assert (step_of(newest), step_of(older)) == (2, 1)
    assert newest_in_run(checkpoints.parent) == found


def test_only_folders_under_final_names_are_checkpoints(checkpoints: Path) -> None:
    for name in ("step_00000003.tmp", "abandoned_step_00000004", "step_5", "step_4_backup"):
        (checkpoints / name).mkdir()
    (checkpoints / "step_00000006").write_text("a file")
    assert [step_of(folder) for folder in committed_folders(checkpoints)] == [2, 1]
    assert committed_folders(checkpoints / "nowhere") == []


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: flip(folder / FIRST), f"{FIRST} does not have the hash"),
        (lambda folder: (folder / FIRST).write_bytes(b"short"), f"{FIRST} has 5 bytes instead of 1000"),
        (lambda folder: (folder / SECOND).unlink(), f"{SECOND} is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not a valid manifest"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not a valid manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a valid manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": "other"}'), "not a manifest of ernie-m"),
        (lambda folder: changed(folder, files=None), "altered since it was written"),
        (lambda folder: changed(folder, step=7), "altered since it was written"),
        (lambda folder: changed(folder, state={"version": "y"}), "altered since it was written"),
        (lambda folder: changed(folder, sha256=None), "not a valid manifest"),
        (lambda folder: changed(folder, resealed=True, files=None), "not a valid manifest"),
        (lambda folder: changed(folder, resealed=True, step=7), "is the checkpoint of step 7 under another name"),
        (lambda folder: changed(folder, resealed=True, world_size=3), r"names 2 files of ranks, of 3 ranks"),
        (lambda folder: changed(folder, resealed=True, format_version=1), "format version 1; this release reads version 2"),
        (lambda folder: changed(folder, resealed=True, format_version=None), "format version 1; this release reads"),
        (lambda folder: changed(folder, resealed=True, format_version=3), "format version 3; this release reads version 2"),
    ],
    ids=[
        "flipped bit",
        "truncated",
        "file gone",
        "manifest gone",
        "manifest torn",
        "binary",
        "a list",
        "foreign",
        "no files listed",
        "another step",
        "another state",
        "no hash of its own",
        "no files listed, resealed",
        "renamed",
        "a rank too few",
        "version 1",
        "before versions",
        "version of the future",
    ],
)
def test_a_broken_checkpoint_is_named_and_the_one_before_taken(
    checkpoints: Path, harm: Callable[[Path], object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(checkpoints / "step_00000002")
    with pytest.raises(InputError, match=complaint):
        verify(checkpoints / "step_00000002")
    assert newest_in_run(checkpoints.parent).step == 1
    message = capsys.readouterr().err
    assert "step_00000002" in message
    assert "trying the one before" in message
    harm(checkpoints / "step_00000001")
    with pytest.raises(InputError, match="no whole checkpoint under"):
        newest_in_run(checkpoints.parent)


def test_this_release_writes_the_version_it_reads() -> None:
    assert FORMAT_VERSION == 2


def test_ranks_share_the_verification_and_together_see_all(checkpoints: Path) -> None:
    folder = checkpoints / "step_00000001"
    flip(folder / SECOND)
    verify(folder, rank=0, world_size=2)
    with pytest.raises(InputError, match=SECOND):
        verify(folder, rank=1, world_size=2)
    for world_size in (1, 2, 3, 5):
        complaints = 0
        for rank in range(world_size):
            try:
                verify(folder, rank, world_size)
            except InputError:
                complaints += 1
        assert complaints == 1


def test_long_reading_gives_signs_of_life(checkpoints: Path) -> None:
    signs: list[int] = []
    verify(checkpoints / "step_00000002", on_progress=lambda: signs.append(1))
    assert len(signs) >= 2


def test_nothing_is_opened_before_its_hash_is_known(checkpoints: Path) -> None:
    """The files of these checkpoints are no safetensors at all, and verify nevertheless: only their bytes count."""
    folder = checkpoints / "step_00000001"
    assert hashlib.sha256((folder / FIRST).read_bytes()).hexdigest() == verify(folder).files[FIRST]["sha256"]


def test_too_little_room_is_known_before_the_first_checkpoint(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert problem_of_room(tmp_path, free // CHECKPOINT_BYTES // 2) is None
    told = problem_of_room(tmp_path, free)
    assert told is not None
    assert re.fullmatch(rf"{tmp_path}: [\d.e+]+ GB are free, a checkpoint takes [\d.e+]+; make room before one is due", told)

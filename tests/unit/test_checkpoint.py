"""A checkpoint is a promise: whole, verified, and never silently a start from zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.checkpoint import CheckpointStore, committed_folders, newest_in_run, read_manifest, verify
from ernie_m.console import InputError


class Alone:
    """One rank that votes with itself; `veto` makes the n-th vote fail as another rank's no would."""

    rank, world_size = 0, 1

    def __init__(self, veto: int | None = None) -> None:
        self.votes, self.veto = 0, veto

    def all_agree(self, mine: bool) -> bool:
        self.votes += 1
        return mine and self.votes != self.veto


def writer(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.pt").write_bytes(bytes([step]) * 1000)
        (folder / "optimizer.pt").write_bytes(bytes([step + 100]) * 2000)

    return write


def saved(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(step, writer(step), {"step": step})


def flip(path: Path, offset: int = 10) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


def test_what_was_saved_is_found_and_whole(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    assert store.newest_whole() is None
    final = store.save(7, writer(7), {"step": 7, "version": "x"})
    assert final == folder / "step_00000007"
    assert sorted(p.name for p in final.iterdir()) == ["manifest.json", "model.pt", "optimizer.pt"]
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000007"]
    assert (folder / "latest").read_text() == "step_00000007\n"
    found = store.newest_whole()
    assert found is not None
    assert (found.folder, found.step, found.world_size, found.state) == (final, 7, 1, {"step": 7, "version": "x"})
    files = json.loads((final / "manifest.json").read_text())["files"]
    assert {name: entry["bytes"] for name, entry in files.items()} == {"model.pt": 1000, "optimizer.pt": 2000}


def test_latest_is_written_only_when_the_folder_has_its_final_name(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1)

    def write(aside: Path) -> None:
        assert aside.name == "step_00000002.tmp"
        assert (folder / "latest").read_text() == "step_00000001\n"
        assert not (folder / "step_00000002").exists()
        writer(2)(aside)

    store.save(2, write, {})
    assert (folder / "latest").read_text() == "step_00000002\n"


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_older_ones_beyond_keep_last_go(folder: Path, keep_last: int) -> None:
    saved(CheckpointStore(folder, Alone(), keep_last), 1, 2, 3, 4)
    assert [int(p.name[5:]) for p in committed_folders(folder)] == [4, 3, 2, 1][:keep_last]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: flip(folder / "model.pt"), "model.pt does not have the hash"),
        (lambda folder: (folder / "model.pt").write_bytes(b"short"), "model.pt has 5 bytes instead of 1000"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not a valid manifest"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "not a valid manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": "other"}'), "not a manifest of ernie-m"),
        (lambda folder: (folder / "manifest.json").write_text(_changed(folder, files=None)), "altered since it was written"),
        (lambda folder: (folder / "manifest.json").write_text(_changed(folder, step=7)), "altered since it was written"),
        (lambda folder: (folder / "manifest.json").write_text(_changed(folder, sha256=None)), "not a valid manifest"),
    ],
    ids=[
        "flipped bit",
        "truncated",
        "file gone",
        "manifest gone",
        "manifest torn",
        "binary",
        "foreign",
        "no files listed",
        "another step",
        "no hash of its own",
    ],
)
def test_a_broken_checkpoint_is_named_and_the_one_before_taken(
    folder: Path, harm: Callable[[Path], object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1, 2)
    harm(folder / "step_00000002")
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1
    message = capsys.readouterr().err
    assert "step_00000002" in message
    assert complaint in message
    assert "trying the one before" in message
    assert newest_in_run(folder.parent).step == 1
    capsys.readouterr()
    harm(folder / "step_00000001")
    with pytest.raises(InputError, match=r"holds 2 checkpoints, none of them whole; .*--from_scratch"):
        store.newest_whole()
    with pytest.raises(InputError, match="no whole checkpoint under"):
        newest_in_run(folder.parent)


def _changed(folder: Path, **changes: object) -> str:
    """The manifest with keys changed, or removed where None."""
    content = {**json.loads((folder / "manifest.json").read_text()), **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


def test_a_checkpoint_that_another_rank_finds_broken_is_passed_over(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone()), 1, 2)
    found = CheckpointStore(folder, Alone(veto=1)).newest_whole()
    assert found is not None
    assert found.step == 1


def test_ranks_share_the_verification(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone()), 1)
    checkpoint = folder / "step_00000001"
    flip(checkpoint / "optimizer.pt")
    verify(checkpoint, rank=0, world_size=2)
    with pytest.raises(InputError, match=r"optimizer\.pt"):
        verify(checkpoint, rank=1, world_size=2)


def test_leftovers_of_a_killed_save_are_ignored_and_then_replaced(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1)
    leftover = folder / "step_00000002.tmp"
    leftover.mkdir()
    (leftover / "half.pt").write_bytes(b"half")
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1
    saved(store, 2)
    assert not leftover.exists()
    assert sorted(p.name for p in (folder / "step_00000002").iterdir()) == ["manifest.json", "model.pt", "optimizer.pt"]


def test_leftovers_alone_are_no_checkpoints(folder: Path) -> None:
    (folder / "step_00000002.tmp").mkdir(parents=True)
    assert CheckpointStore(folder, Alone()).newest_whole() is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file\ntraceback"),
        ValueError("PytorchStreamWriter failed writing file"),
    ],
)
def test_a_failed_save_gives_the_reason_and_leaves_the_older_ones(folder: Path, error: Exception) -> None:
    store = CheckpointStore(folder, Alone(), keep_last=1)
    saved(store, 1)

    def write(aside: Path) -> None:
        (aside / "model.pt").write_bytes(b"half")
        raise error

    reason = "No space left on device" if isinstance(error, OSError) else "PytorchStreamWriter failed writing file$"
    with pytest.raises(InputError, match=f"checkpoint not saved, the older ones stay: .*{reason}"):
        store.save(2, write, {})
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("vote", [1, 2, 3])
def test_a_single_no_of_another_rank_stops_the_save(folder: Path, vote: int) -> None:
    saved(CheckpointStore(folder, Alone()), 1)
    with pytest.raises(InputError, match="another rank failed to write its part"):
        saved(CheckpointStore(folder, Alone(veto=vote)), 2)
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1, 2)
    flip(folder / "step_00000002" / "model.pt")
    saved(store, 2)
    verify(folder / "step_00000002")
    assert read_manifest(folder / "step_00000002").step == 2


def test_several_ranks_hash_their_shares_into_one_manifest(folder: Path) -> None:
    """Two ranks in turn, as votes would order them: rank 1's part is there when rank 0 commits."""

    class First(Alone):
        world_size = 2

        def all_agree(self, mine: bool) -> bool:
            if super().all_agree(mine) and self.votes == 3:  # behind the hashing
                second = CheckpointStore(folder, Second())
                second._hash_my_share(folder / "step_00000003.tmp")
            return mine

    class Second(Alone):
        rank, world_size = 1, 2

    saved(CheckpointStore(folder, First()), 3)
    assert set(json.loads((folder / "step_00000003" / "manifest.json").read_text())["files"]) == {"model.pt", "optimizer.pt"}
    assert read_manifest(folder / "step_00000003").world_size == 2
    verify(folder / "step_00000003")

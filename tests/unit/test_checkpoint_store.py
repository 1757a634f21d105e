"""How checkpoints come about: all ranks agree or nothing changes, nothing is lost before its successor is proven."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.runs.checkpoint import Checkpoint, committed_folders, read_manifest, step_of, verify
from ernie_m.runs.checkpoint_commit import Retention
from ernie_m.runs.checkpoint_store import CheckpointStore, Saved
from ernie_m.runs.host_copy import choose_saving

PROBE = {"rows_BS": torch.arange(6, dtype=torch.int32).reshape(2, 3)}
VOTES_TO_COMMIT = 3  # made afresh, written, published; one more asks whether anything may go


class Alone:
    """One rank that votes with itself. `at[n]` runs before its n-th vote; the one numbered `veto` gets another rank's no."""

    rank, world_size = 0, 1

    def __init__(self, veto: int | None = None, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.votes, self.veto, self.at = 0, veto, at or {}

    def all_agree(self, mine: bool) -> bool:
        self.votes += 1
        self.at.get(self.votes, lambda: None)()
        return mine and self.votes != self.veto

    def from_first(self, value: Any) -> Any:
        return value


class Round:
    """What several ranks, each on a thread of its own, vote over."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=30)
        self.votes = [True] * world_size


class OneOfSeveral:
    """A rank of a `Round`; `after[n]` runs on it just behind its n-th vote."""

    def __init__(self, rank: int, together: Round) -> None:
        self.rank, self.world_size, self._round = rank, len(together.votes), together
        self.num_votes, self.after = 0, dict[int, Callable[[], object]]()

    def all_agree(self, mine: bool) -> bool:
        self._round.votes[self.rank] = mine
        self._round.barrier.wait()
        agreed = all(self._round.votes)
        self._round.barrier.wait()  # nobody votes again before all have read
        self.num_votes += 1
        self.after.get(self.num_votes, lambda: None)()
        return agreed

    def from_first(self, value: Any) -> Any:
        return value


def state_of(step: int) -> dict[str, Tensor]:
    values = torch.arange(1000, dtype=torch.float32) + step
    return {"a@0:weight": values[:600], "a@0:exp_avg": values[:600] * 2, "b@0:weight": values[600:]}


def saved(store: CheckpointStore, *steps: int, in_background: bool = False) -> Saved:
    for step in steps:
        store.save(step, state_of(step), {"number": step}, PROBE, in_background)
        result = store.finished(wait=True)
        assert result is not None
    return result


def flip(path: Path, offset: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def steps_in(folder: Path) -> list[int]:
    return sorted(step_of(found) for found in committed_folders(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.mark.parametrize("in_background", [False, True])
def test_what_was_saved_is_found_and_whole(folder: Path, in_background: bool) -> None:
    store = CheckpointStore(folder, Alone(), identity="run")
    assert store.newest_whole() is None
    assert store.finished(wait=True) is None
    result = saved(store, 7, in_background=in_background)
    assert (result.step, result.problem) == (7, None)
    assert 0 <= result.stalled <= result.seconds
    assert store.finished() is None, "told once"
    final = folder / "step_00000007"
    assert sorted(p.name for p in final.iterdir()) == ["manifest.json", "probe.safetensors", "rank_00000.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000007"]
    assert (folder / "latest").read_text() == "step_00000007\n"
    found = store.newest_whole()
    assert found is not None
    assert (found.folder, found.step, found.world_size) == (final, 7, 1)
    assert found.state == {"number": 7, "identity": "run"}
    read = load_file(final / "rank_00000.safetensors")
    assert read.keys() == state_of(7).keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in state_of(7).items())
    assert torch.equal(load_file(final / "probe.safetensors")["rows_BS"], PROBE["rows_BS"])


def test_latest_moves_only_when_the_folder_has_its_final_name(folder: Path) -> None:
    def look() -> None:
        assert (folder / "latest").read_text() == "step_00000001\n"
        assert (folder / "step_00000002.tmp").is_dir()
        assert not (folder / "step_00000002").exists()

    saved(CheckpointStore(folder, Alone()), 1)
    saved(CheckpointStore(folder, Alone(at={1: look, 2: look})), 2)
    assert (folder / "latest").read_text() == "step_00000002\n"


def test_a_background_save_does_not_see_what_training_does_meanwhile(folder: Path) -> None:
    go_on = threading.Event()
    store = CheckpointStore(folder, Alone(at={1: lambda: go_on.wait(30)}))
    tensors = {key: tensor.clone() for key, tensor in state_of(1).items()}
    store.save(1, tensors, {}, in_background=True)
    for tensor in tensors.values():
        tensor.fill_(-1)
    assert store.finished() is None
    assert not committed_folders(folder)
    go_on.set()
    result = store.finished(wait=True)
    assert result is not None
    assert result.problem is None
    read = load_file(folder / "step_00000001" / "rank_00000.safetensors")
    assert all(torch.equal(read[key], tensor) for key, tensor in state_of(1).items())


def test_a_second_save_waits_for_the_first_and_both_are_whole(folder: Path) -> None:
    go_on = threading.Event()
    store = CheckpointStore(folder, Alone(at={1: lambda: go_on.wait(30)}), on_progress=go_on.set)
    for step in (1, 2):
        store.save(step, state_of(step), {}, in_background=True)
    assert go_on.is_set(), "a save that waits gives signs of life"
    store.finished(wait=True)
    for step in (1, 2):
        verify(folder / f"step_{step:08d}")
        read = load_file(folder / f"step_{step:08d}" / "rank_00000.safetensors")
        assert torch.equal(read["b@0:weight"], state_of(step)["b@0:weight"])


def test_a_state_that_grew_is_saved_as_it_is(folder: Path) -> None:
    """Adam's moments come with its first step."""
    store = CheckpointStore(folder, Alone())
    for step, more in enumerate([{}, {"b@0:exp_avg": torch.ones(400)}], start=1):
        store.save(step, state_of(step) | more, {}, in_background=True)
        store.finished(wait=True)
        read = load_file(folder / f"step_{step:08d}" / "rank_00000.safetensors")
        assert read.keys() == (state_of(step) | more).keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in (state_of(step) | more).items())


# -- what stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep_last", "keep_every"), [(1, 0), (2, 0), (3, 0), (1, 10), (2, 10), (2, 4), (1, 100)])
def test_what_is_kept_follows_the_rule_at_every_moment(folder: Path, keep_last: int, keep_every: int) -> None:
    store = CheckpointStore(folder, Alone(), Retention(keep_last, keep_every))
    done: list[int] = []
    for step in range(4, 45, 4):
        saved(store, step)
        done.append(step)
        firsts = {
            min(s for s in done if s // keep_every == s0 // keep_every) for s0 in done if keep_every and s0 >= keep_every
        }
        assert steps_in(folder) == sorted(firsts | set(done[-keep_last:]))


def test_links_to_what_is_no_checkpoint_are_not_followed(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "f").touch()
    folder.mkdir(parents=True)
    for name in ("step_00000001.tmp", "step_00000001", "abandoned_step_00000009"):
        (folder / name).symlink_to(precious)
    store = CheckpointStore(folder, Alone(), Retention(1))
    assert saved(store, 2).problem is None
    assert steps_in(folder) == [2]
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (precious / "f").exists()


def test_a_checkpoint_that_was_moved_to_another_disk_is_retired_there(folder: Path, tmp_path: Path) -> None:
    store = CheckpointStore(folder, Alone(), Retention(1))
    saved(store, 1)
    (old,) = folder.glob("step_*")
    moved = old.rename(tmp_path / "moved")
    old.symlink_to(moved)
    assert saved(store, 2).problem is None
    assert steps_in(folder) == [2]
    assert not old.is_symlink()
    assert not moved.exists(), "else the other disk fills without a word"


def test_nothing_is_deleted_while_the_new_one_does_not_read_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(CheckpointStore(folder, Alone(), Retention(2)), 1, 2)
    damage = {VOTES_TO_COMMIT + 1: lambda: flip(folder / "step_00000003" / "rank_00000.safetensors")}
    assert saved(CheckpointStore(folder, Alone(at=damage), Retention(1)), 3).problem is None
    assert steps_in(folder) == [1, 2, 3]
    message = capsys.readouterr().err
    assert "alarm" in message
    assert "step_00000003" in message
    assert "older ones stay" in message
    found = CheckpointStore(folder, Alone()).newest_whole()
    assert found is not None
    assert found.step == 2
    saved(CheckpointStore(folder, Alone(), Retention(1)), 4)
    assert steps_in(folder) == [4]


# -- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_disk_gives_the_reason_and_leaves_the_older_ones(folder: Path, in_background: bool) -> None:
    def fill_disk() -> None:
        (folder / "step_00000002.tmp" / "rank_00000.safetensors").symlink_to("/dev/full")

    saved(CheckpointStore(folder, Alone()), 1)
    store = CheckpointStore(folder, Alone(at={1: fill_disk}), Retention(1))
    problem = saved(store, 2, in_background=in_background).problem
    assert problem is not None
    assert problem.startswith("checkpoint not saved, the older ones stay: ")
    assert "rank_00000.safetensors: No space left on device" in problem
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1
    assert saved(store, 3).problem is None, "the next save is tried as usual"
    assert steps_in(folder) == [3]


def test_whatever_fails_is_a_no_and_never_a_missing_vote(folder: Path) -> None:
    voters = Alone()
    store = CheckpointStore(folder, voters)
    store.save(1, {"a@0:weight": torch.ones(3, dtype=torch.complex64)}, {})
    result = store.finished()
    assert result is not None
    assert "KeyError" in str(result.problem)
    assert voters.votes == 2
    assert committed_folders(folder) == []


@pytest.mark.parametrize("vote", [1, 2])
def test_a_single_no_of_another_rank_stops_the_save(folder: Path, vote: int) -> None:
    saved(CheckpointStore(folder, Alone()), 1)
    problem = saved(CheckpointStore(folder, Alone(veto=vote)), 2).problem
    assert problem is not None
    assert "another rank failed to write its part" in problem
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]


def test_a_rank_that_is_gone_ends_the_save_and_harms_nothing(folder: Path) -> None:
    def lost() -> None:
        raise RuntimeError("Connection closed by peer [10.0.0.2]:4711\nmore")

    saved(CheckpointStore(folder, Alone()), 1)
    problem = saved(CheckpointStore(folder, Alone(at={2: lost}), Retention(1)), 2).problem
    assert problem is not None
    assert problem.endswith("the ranks cannot agree: Connection closed by peer [10.0.0.2]:4711")
    assert steps_in(folder) == [1]


def test_who_does_not_own_the_folder_any_more_commits_nothing(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone()), 1)
    problem = saved(CheckpointStore(folder, Alone(), Retention(1), is_owner=lambda: False), 2).problem
    assert problem is not None
    assert "another job has taken over this run folder" in problem
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]


def test_leftovers_of_a_killed_save_are_no_checkpoints_and_go(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone()), 1)
    leftover = folder / "step_00000002.tmp"
    leftover.mkdir()
    (leftover / "rank_00000.safetensors").write_bytes(b"half")
    store = CheckpointStore(folder, Alone())
    assert not leftover.exists()
    leftover.mkdir()
    (leftover / "rank_00007.safetensors").write_bytes(b"half")
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1
    saved(store, 2)
    assert not leftover.exists()
    assert not (folder / "step_00000002" / "rank_00007.safetensors").exists()


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1, 2)
    flip(folder / "step_00000002" / "rank_00000.safetensors")
    saved(store, 2)
    verify(folder / "step_00000002")


# -- what is taken up ----------------------------------------------------------------------------------------------


def test_broken_ones_are_passed_over_and_never_a_start_from_scratch(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1, 2)
    flip(folder / "step_00000002" / "rank_00000.safetensors")
    found = store.newest_whole()
    assert found is not None
    assert found.step == 1
    assert (
        "rank_00000.safetensors does not have the hash it was saved with; trying the one before" in capsys.readouterr().err
    )
    saved(store, 2)
    flip(folder / "step_00000002" / "rank_00000.safetensors")
    (folder / "step_00000001" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds 2 checkpoints, none of them whole; .*--from_scratch"):
        store.newest_whole()
    assert steps_in(folder) == [1, 2], "nothing is set aside where nothing is whole"


def test_a_checkpoint_that_another_rank_finds_broken_is_passed_over(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone()), 1, 2)
    found = CheckpointStore(folder, Alone(veto=1)).newest_whole()
    assert found is not None
    assert found.step == 1


def test_a_deleted_latest_changes_nothing(folder: Path) -> None:
    store = CheckpointStore(folder, Alone())
    saved(store, 1, 2)
    (folder / "latest").unlink()
    found = store.newest_whole()
    assert found is not None
    assert found.step == 2


def test_checkpoints_of_another_run_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(CheckpointStore(folder, Alone(), identity="ours"), 1)
    saved(CheckpointStore(folder / "other", Alone(), identity="theirs"), 2)
    shutil.copytree(folder / "other" / "step_00000002", folder / "step_00000002")
    found = CheckpointStore(folder, Alone(), identity="ours").newest_whole()
    assert found is not None
    assert found.step == 1
    assert "belongs to another run" in capsys.readouterr().err
    with pytest.raises(InputError, match="none of them whole"):
        CheckpointStore(folder / "other", Alone(), identity="ours").newest_whole()


def test_going_back_takes_the_newest_of_at_most_that_many_steps(folder: Path) -> None:
    store = CheckpointStore(folder, Alone(), Retention(5))
    saved(store, 2, 4, 6, 8)
    for at_most, expected in ((8, 8), (7, 6), (2, 2), (1, None), (None, 8)):
        found = store.newest_whole(at_most)
        assert (found.step if found else None) == expected


def test_abandoned_ones_are_out_of_sight_and_go_with_the_next_verified_one(folder: Path) -> None:
    store = CheckpointStore(folder, Alone(), Retention(5))
    saved(store, 2, 4, 6)
    store.abandon_after(3)
    assert steps_in(folder) == [2]
    assert sorted(p.name for p in folder.glob("abandoned_*")) == ["abandoned_step_00000004", "abandoned_step_00000006"]
    saved(store, 4)
    assert steps_in(folder) == [2, 4]
    assert not list(folder.glob("abandoned_*"))


def test_what_is_not_whole_does_not_count_among_the_last_kept(folder: Path) -> None:
    """Or the whole ones are deleted for it, the one just saved first of all."""
    saved(CheckpointStore(folder, Alone(), Retention(2)), 4, 6)
    flip(folder / "step_00000006" / "rank_00000.safetensors")
    store = CheckpointStore(folder, Alone(), Retention(1))
    assert getattr(store.newest_whole(), "step", None) == 4
    assert steps_in(folder) == [4]
    saved(store, 5)
    assert steps_in(folder) == [5]
    assert getattr(CheckpointStore(folder, Alone()).newest_whole(), "step", None) == 5


def test_abandoned_ones_stay_while_the_next_one_does_not_read_back(folder: Path) -> None:
    saved(CheckpointStore(folder, Alone(), Retention(5)), 2, 4)
    damage = {VOTES_TO_COMMIT + 1: lambda: flip(folder / "step_00000003" / "rank_00000.safetensors")}
    store = CheckpointStore(folder, Alone(at=damage), Retention(5))
    store.abandon_after(2)
    saved(store, 3)
    assert (folder / "abandoned_step_00000004").is_dir()


# -- several ranks, and the choice ---------------------------------------------------------------------------------


def together(world_size: int, work: Callable[[OneOfSeveral], object]) -> list[object]:
    """What `work` gives on each of several ranks at the same time."""
    around = Round(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, [OneOfSeveral(rank, around) for rank in range(world_size)]))


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_write_one_checkpoint_that_any_number_verifies(folder: Path, world_size: int) -> None:
    def save(voters: OneOfSeveral) -> Saved:
        store = CheckpointStore(folder, voters, Retention(1))
        saved(store, 1, in_background=True)
        return saved(store, 2, in_background=True)

    assert [result.problem for result in together(world_size, save)] == [None] * world_size  # type: ignore[attr-defined]
    assert steps_in(folder) == [2]
    checkpoint = read_manifest(folder / "step_00000002")
    assert checkpoint.world_size == world_size
    assert set(checkpoint.files) == {f"rank_{rank:05d}.safetensors" for rank in range(world_size)} | {"probe.safetensors"}
    assert {p.name for p in checkpoint.folder.iterdir()} == {*checkpoint.files, "manifest.json"}

    def load(voters: OneOfSeveral) -> Checkpoint | None:
        return CheckpointStore(folder, voters).newest_whole()

    for readers in (1, 2, 4):
        assert together(readers, load) == [checkpoint] * readers


def test_one_rank_with_a_full_disk_stops_the_save_for_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def save(voters: OneOfSeveral) -> str | None:
        store = CheckpointStore(folder, voters)
        saved(store, 1)
        if voters.rank == 1:  # the folder is there, its file not yet
            mine = folder / "step_00000002.tmp" / "rank_00001.safetensors"
            voters.after[voters.num_votes + 1] = lambda: mine.symlink_to("/dev/full")
        return saved(store, 2).problem

    first, second = together(2, save)
    assert "another rank failed to write its part" in str(first)
    assert "rank_00001.safetensors: No space left on device" in str(second)
    assert "rank 1: " in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]


def test_saving_behind_the_training_needs_the_memory_for_it() -> None:
    assert str(choose_saving(False, 1, 1)) == "saving: synchronous (asked for)"
    assert choose_saving(True, 1000, 8).value == "in the background"
    too_large = choose_saving(True, 10**15, 1)
    assert too_large.value == "synchronous"
    assert "1000000.0 GB of host memory" in too_large.reason
    per_rank = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    assert choose_saving(True, per_rank, 8).value == "synchronous", "all ranks of the host count"


def test_a_rank_may_vote_against_a_checkpoint_from_the_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Alone())
    store.save(1, state_of(1), {})
    store.save(2, state_of(2), {}, veto="metrics.jsonl: 9 bytes of lines have no room")
    told = [store.finished(), store.finished()]
    assert [saved.problem is None for saved in told if saved] == [True, False]
    assert "have no room" in str(told[1].problem if told[1] else "")
    assert [folder.name for folder in committed_folders(tmp_path)] == ["step_00000001"]

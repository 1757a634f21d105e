"""A run's checkpoints: saved while the training goes on, and the newest whole one found again.

Saving. This rank's fragments are copied to host memory. The training waits for this copy only; a thread commits it
(checkpoint_commit.py) while the training goes on. Without enough memory for the copy, the training waits until all is
written. A failed save is reported, and the training goes on.

Loading takes the newest folder whose files have the manifest's sizes and hashes; broken ones are named and set aside.
A run with checkpoints of which none is whole is an error, never a silent start from zero.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import remove
from ernie_m.runs.checkpoint import Checkpoint, committed_folders, read_manifest, step_of
from ernie_m.runs.checkpoint_commit import ABANDONED, ASIDE, Committer, Retention, VotingRanks, attempt
from ernie_m.runs.host_copy import HostCopy


@dataclass(frozen=True)
class Saved:
    """The result of a save. `problem`: None if it was committed. `stalled`: seconds that the training waited for it."""

    step: int
    problem: str | None
    seconds: float
    stalled: float


class CheckpointStore:
    """The checkpoints of one run, in `folder`, a file system that all ranks share."""

    def __init__(
        self,
        folder: Path,
        voters: VotingRanks,
        retention: Retention | None = None,
        identity: str = "",
        is_owner: Callable[[], bool] = lambda: True,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`identity` marks this run's checkpoints; `is_owner` says, before a commit, if this job still holds the folder."""
        self.folder, self.voters, self._on_progress = folder, voters, on_progress
        self._committer = Committer(folder, voters, retention or Retention(), identity, is_owner, on_progress)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[Saved] | None = None
        self._preparing: Future[None] | None = None
        self._ended: list[Saved] = []  # not yet told by `finished`
        self._host_copy = HostCopy()
        if voters.rank == 0:
            for left_over in folder.glob(f"step_????????{ASIDE}"):
                attempt(partial(remove, left_over))

    # -- saving --------------------------------------------------------------------------------------------------

    def prepare(self, state_bytes: int, on_gpu: bool) -> None:
        """Allocate memory for background saves, on a thread; otherwise the first save would wait for it."""
        self._preparing = self._thread.submit(self._host_copy.reserve, state_bytes // 4, on_gpu)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        probe: Mapping[str, Tensor] | None = None,
        in_background: bool = False,
        veto: str | None = None,
    ) -> None:
        """Start a checkpoint of `step` finished steps; all ranks call it together. `finished` gives the result.

        `tensors` is this rank's part (fp32, flat), `probe` a few rows (rank 0 writes them). In the background `tensors`
        may change as soon as this returns. `veto` says why this rank votes against it from the start.
        """
        started = time.perf_counter()
        self._wait()
        copied = self._host_copy.of(tensors) if in_background else tensors
        if not in_background:
            committed = Future[Saved]()
            problem = self._committer.commit(step, copied, state, probe, veto)
            seconds = time.perf_counter() - started
            committed.set_result(Saved(step, problem, seconds, seconds))
            self._running = committed
            return
        stalled = time.perf_counter() - started

        def behind() -> Saved:
            problem = self._committer.commit(step, copied, state, probe, veto)
            return Saved(step, problem, time.perf_counter() - started, stalled)

        self._running = self._thread.submit(behind)

    def finished(self, wait: bool = False) -> Saved | None:
        """The result of each save, once, in order; None when there is none left, or (unless `wait`) the save still runs."""
        if self._running is not None and (wait or self._running.done()):
            self._ended.append(self._running.result())
            self._running = None
        return self._ended.pop(0) if self._ended else None

    def _wait(self) -> None:
        """Wait for the save that runs: a new snapshot would overwrite its memory."""
        if self._preparing is not None:
            self._preparing.exception()  # if it failed for want of memory, the copy says so
            self._preparing = None
        if self._running is not None:
            while not self._running.done():
                self._on_progress()
                time.sleep(0.01)
            self._ended.append(self._running.result())
            self._running = None

    # -- loading -------------------------------------------------------------------------------------------------

    def newest_whole(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint (of at most that many steps) that verifies on all ranks; None when there is none at all.

        Newer ones are set aside, or they would count among the last kept, and the whole ones would be deleted for them.
        Raises InputError when there are checkpoints but not one of them is whole.
        """
        listed = self.voters.from_first([f.name for f in committed_folders(self.folder)])  # hosts may see it at other times
        candidates = [self.folder / name for name in listed if at_most is None or step_of(Path(name)) <= at_most]
        for number, folder in enumerate(candidates):
            problem = self._committer.problem_of(folder)
            if self.voters.all_agree(problem is None):
                self._set_aside(candidates[:number])
                return read_manifest(folder)
            if problem is not None:
                print(f"checkpoint {folder}: {problem}; trying the one before", file=sys.stderr, flush=True)
        if candidates:
            raise InputError(
                f"{self.folder}: holds {len(candidates)} checkpoints, none of them whole; restore one or start over "
                "with --from_scratch"
            )
        return None

    def abandon_after(self, step: int) -> None:
        """Set checkpoints of more than `step` steps aside."""
        self._set_aside([folder for folder in committed_folders(self.folder) if step_of(folder) > step])

    def _set_aside(self, folders: Sequence[Path]) -> None:
        """Take these from their names (rank 0); they are deleted when the next checkpoint is verified."""
        for folder in folders if self.voters.rank == 0 else ():
            remove(folder.with_name(ABANDONED + folder.name))
            folder.rename(folder.with_name(ABANDONED + folder.name))

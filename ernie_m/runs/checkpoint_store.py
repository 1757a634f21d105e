"""How checkpoints come about, on all ranks together, and which of them are kept.

1. Snapshot: this rank's fragments are copied to host memory. The training waits for this copy only; a thread does the rest
   while the training goes on. Without enough memory for the copy, the training waits until all is written.
2. Each rank writes its file aside, into `step_00000100.tmp`, hashing what it writes, and fsyncs it.
3. Rank 0 joins sizes and hashes of the expected ranks with the trainer's state into `manifest.json`.
4. Every rank votes after each of these. If one votes no, for example because its disk is full, the folder is removed: the
   older checkpoints stay, the training goes on, an alarm is printed.
5. Rename to `step_00000100`, then `latest`. Older ones go when the new one has been read back and verified.

Loading takes the newest folder whose files have the manifest's sizes and hashes; broken ones are named and passed over.
A run with checkpoints of which none is whole is an error, never a silent start from zero.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import fsync_path, remove, write_json, written_atomically
from ernie_m.runs.checkpoint import (
    LATEST_FILE,
    MANIFEST_FILE,
    PROBE_FILE,
    Checkpoint,
    committed_folders,
    folder_name,
    rank_file,
    read_manifest,
    step_of,
    verify,
    write_manifest,
)
from ernie_m.runs.fragments import write_tensors
from ernie_m.runs.host_copy import HostCopy

ASIDE = ".tmp"
ABANDONED = "abandoned_"


class VotingRanks(Protocol):
    """What the store needs of the ranks (ernie_m.runs.ranks.Voters)."""

    rank: int
    world_size: int

    def all_agree(self, mine: bool) -> bool: ...

    def from_first(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Saved:
    """What came of a save: `problem` is None when it was committed. `stalled` are the seconds the training waited."""

    step: int
    problem: str | None
    seconds: float
    stalled: float
    bytes: int


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the last `keep_last`, and for good the first of every `keep_every` steps (0: none)."""

    keep_last: int = 2
    keep_every: int = 0

    def superfluous(self, folders: list[Path]) -> list[Path]:
        """Those of `folders` (newest first) that may be deleted."""
        windows: dict[int, Path] = {}
        if self.keep_every:
            for folder in folders:  # the oldest of a window comes last and wins
                windows[step_of(folder) // self.keep_every] = folder
            windows.pop(0, None)
        return [folder for folder in folders[self.keep_last :] if folder not in windows.values()]


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
        self.folder, self.voters, self.identity = folder, voters, identity
        self.retention = retention or Retention()
        self._is_owner, self._on_progress = is_owner, on_progress
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[Saved] | None = None
        self._preparing: Future[None] | None = None
        self._ended: list[Saved] = []  # not yet told by `finished`
        self._host_copy = HostCopy()
        if voters.rank == 0:
            for left_over in folder.glob(f"step_????????{ASIDE}"):
                self._attempt(partial(remove, left_over))

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
        """Start a checkpoint of `step` finished steps; all ranks call it alike. `finished` tells what came of it.

        `tensors` is this rank's part (fp32, flat), `probe` a few rows (rank 0 writes them). In the background `tensors`
        may change as soon as this returns. `veto` says why this rank votes against it from the start.
        """
        started = time.perf_counter()
        self._wait()
        copied = self._host_copy.of(tensors) if in_background else tensors
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if not in_background:
            committed = Future[Saved]()
            problem = self._commit(step, copied, state, probe, veto)
            seconds = time.perf_counter() - started
            committed.set_result(Saved(step, problem, seconds, seconds, size))
            self._running = committed
            return
        stalled = time.perf_counter() - started

        def behind() -> Saved:
            return Saved(step, self._commit(step, copied, state, probe, veto), time.perf_counter() - started, stalled, size)

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

    def _commit(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        probe: Mapping[str, Tensor] | None,
        veto: str | None,
    ) -> str | None:
        """Write, vote, rename, retire; returns what went wrong. A collective of the voters."""
        final = self.folder / folder_name(step)
        aside = final.with_name(final.name + ASIDE)
        first = self.voters.rank == 0
        phases = [
            lambda: _begin(aside if first else None, veto),
            lambda: self._write_mine(aside, tensors, probe),
            lambda: self._publish(aside, final, step, state) if first else None,
        ]
        try:
            for phase in phases:
                problem = self._attempt(phase)
                if not self.voters.all_agree(problem is None):
                    if problem and not first:
                        print(f"rank {self.voters.rank}: {problem}", file=sys.stderr, flush=True)
                    if first:
                        self._attempt(partial(remove, aside))
                    return f"checkpoint not saved, the older ones stay: {problem or 'another rank failed to write its part'}"
            self._retire(final)
        except RuntimeError as error:  # a rank is gone: nobody can vote any more
            return f"checkpoint of step {step} not saved, the ranks cannot agree: {str(error).splitlines()[0]}"
        return None

    @staticmethod
    def _attempt(action: Callable[[], None]) -> str | None:
        try:
            action()
        except OSError as error:
            return f"{error.filename or 'writing'}: {error.strerror or error}"
        except Exception as error:  # whatever it is, all must vote
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None

    def _write_mine(self, aside: Path, tensors: Mapping[str, Tensor], probe: Mapping[str, Tensor] | None) -> None:
        rank = self.voters.rank
        contents = {rank_file(rank): tensors} | ({PROBE_FILE: probe} if rank == 0 and probe else {})
        entries = {}
        for name, content in contents.items():
            try:
                entries[name] = write_tensors(aside / name, content, self._on_progress)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(aside / name)) from None
        write_json(aside / f".hashes-{rank:05d}.json", entries)

    def _publish(self, aside: Path, final: Path, step: int, state: dict[str, Any]) -> None:
        files: dict[str, Any] = {}
        for rank in range(self.voters.world_size):
            part = aside / f".hashes-{rank:05d}.json"
            files.update(json.loads(part.read_text(encoding="utf-8")))
            part.unlink()
        content = {"step": step, "world_size": self.voters.world_size, "files": files}
        write_manifest(aside / MANIFEST_FILE, {**content, "state": {**state, "identity": self.identity}}, write_json)
        if not self._is_owner():
            raise InputError(f"{self.folder.parent}: gone, or another job has taken over this run folder; not written to")
        remove(final)
        os.rename(aside, final)
        fsync_path(self.folder)
        with contextlib.suppress(OSError), written_atomically(self.folder / LATEST_FILE) as path:
            path.write_text(final.name + "\n", encoding="utf-8")  # for people; nothing here reads it

    def _retire(self, newest: Path) -> None:
        """Delete what need not be kept, after the newest checkpoint was read back and verified."""
        useless: list[Path] = []
        if self.voters.rank == 0:
            useless += [*self.retention.superfluous(committed_folders(self.folder)), *self.folder.glob(f"{ABANDONED}*")]
        if self.voters.all_agree(not useless):
            return
        problem = self._problem_of(newest)
        if not self.voters.all_agree(problem is None):
            print(f"alarm: {newest}: {problem or 'differs on another rank'}; older ones stay", file=sys.stderr, flush=True)
            return
        for folder in useless:
            if not_deleted := self._attempt(partial(remove, folder)):
                print(f"alarm: a checkpoint that is not kept cannot be deleted: {not_deleted}", file=sys.stderr, flush=True)

    # -- loading -------------------------------------------------------------------------------------------------

    def newest_whole(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint (of at most that many steps) that verifies on all ranks; None when there is none at all.

        Raises InputError when there are checkpoints but not one of them is whole.
        """
        listed = self.voters.from_first([f.name for f in committed_folders(self.folder)])  # hosts may see it at other times
        candidates = [self.folder / name for name in listed if at_most is None or step_of(Path(name)) <= at_most]
        for folder in candidates:
            problem = self._problem_of(folder)
            if self.voters.all_agree(problem is None):
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
        """Set checkpoints of more than `step` steps aside (rank 0); they are deleted when the next one is verified."""
        if self.voters.rank == 0:
            for folder in committed_folders(self.folder):
                if step_of(folder) > step:
                    remove(folder.with_name(ABANDONED + folder.name))
                    folder.rename(folder.with_name(ABANDONED + folder.name))

    def _problem_of(self, folder: Path) -> str | None:
        try:
            checkpoint = verify(folder, self.voters.rank, self.voters.world_size, self._on_progress)
            if checkpoint.state.get("identity") != self.identity:
                raise InputError("belongs to another run")
        except (InputError, OSError) as error:  # whatever it is, all must vote
            return str(error)
        return None


def _begin(folder: Path | None, veto: str | None) -> None:
    if veto:
        raise OSError(veto)
    if folder is not None:
        remove(folder)
        folder.mkdir(parents=True)

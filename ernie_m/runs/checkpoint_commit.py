"""Making a checkpoint: all ranks write their parts aside and vote, then it gets its name; older ones are deleted.

1. Each rank writes its file aside, into `step_00000100.tmp`. It hashes what it writes, and fsyncs it.
2. Rank 0 joins sizes and hashes of all ranks with the trainer's state into `manifest.json`.
3. Every rank votes after each of these. If one votes no, for example because its disk is full, the folder is removed: the
   older checkpoints stay.
4. Rename to `step_00000100`, then `latest`. Older ones are deleted after the new one was read back and verified.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import fsync_path, read_json, remove, write_json, written_atomically
from ernie_m.runs.checkpoint import (
    LATEST_FILE,
    MANIFEST_FILE,
    PROBE_FILE,
    committed_folders,
    folder_name,
    rank_file,
    step_of,
    verify,
    write_manifest,
)
from ernie_m.runs.fragments import write_tensors

ASIDE = ".tmp"
ABANDONED = "abandoned_"


class VotingRanks(Protocol):
    """What a commit needs of the ranks (ernie_m.runs.ranks.Voters)."""

    rank: int
    world_size: int

    def all_agree(self, mine: bool) -> bool: ...

    def from_first(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the last `keep_last`; the first of every `keep_every` steps, for ever (0: none); the best one.

    `best`: which of some checkpoints that is, if any; None: none is kept for it.
    """

    keep_last: int = 2
    keep_every: int = 0
    best: Callable[[list[Path]], Path | None] | None = None

    def superfluous(self, folders: list[Path]) -> list[Path]:
        """Those of `folders` (newest first) that may be deleted."""
        windows: dict[int, Path] = {}
        if self.keep_every:
            for folder in folders:  # the oldest of each `keep_every` steps comes last, and is kept
                windows[step_of(folder) // self.keep_every] = folder
            windows.pop(0, None)
        kept = {*windows.values(), self.best(folders) if self.best else None}
        return [folder for folder in folders[self.keep_last :] if folder not in kept]


@dataclass(frozen=True)
class Committer:
    """One rank's part in the commits of a run's checkpoints, in `folder`, a file system that all ranks share."""

    folder: Path
    voters: VotingRanks
    retention: Retention
    identity: str
    """Marks this run's checkpoints."""
    is_owner: Callable[[], bool]
    """Whether this job still holds the run folder; asked before the rename."""
    on_progress: Callable[[], None]

    def commit(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        probe: Mapping[str, Tensor] | None,
        veto: str | None,
    ) -> str | None:
        """Write, vote, rename, retire. Returns what went wrong, or None; a collective of the voters."""
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
                problem = attempt(phase)
                if not self.voters.all_agree(problem is None):
                    if problem and not first:
                        print(f"rank {self.voters.rank}: {problem}", file=sys.stderr, flush=True)
                    if first:
                        attempt(partial(remove, aside))
                    return f"checkpoint not saved, the older ones stay: {problem or 'another rank failed to write its part'}"
            self._retire(final)
        except RuntimeError as error:  # a rank is gone: nobody can vote any more
            return f"checkpoint of step {step} not saved, the ranks cannot agree: {str(error).splitlines()[0]}"
        return None

    def _write_mine(self, aside: Path, tensors: Mapping[str, Tensor], probe: Mapping[str, Tensor] | None) -> None:
        rank = self.voters.rank
        contents = {rank_file(rank): tensors} | ({PROBE_FILE: probe} if rank == 0 and probe else {})
        entries = {}
        for name, content in contents.items():
            try:
                entries[name] = write_tensors(aside / name, content, self.on_progress)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(aside / name)) from None
        write_json(aside / f".hashes-{rank:05d}.json", entries)

    def _publish(self, aside: Path, final: Path, step: int, state: dict[str, Any]) -> None:
        files: dict[str, Any] = {}
        for rank in range(self.voters.world_size):
            part = aside / f".hashes-{rank:05d}.json"
            files.update(read_json(part))
            part.unlink()
        content = {"step": step, "world_size": self.voters.world_size, "files": files}
        write_manifest(aside / MANIFEST_FILE, {**content, "state": {**state, "identity": self.identity}}, write_json)
        if not self.is_owner():
            raise InputError(f"{self.folder.parent}: gone, or another job has taken over this run folder; not written to")
        remove(final, follow=True)
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
        problem = self.problem_of(newest)
        if not self.voters.all_agree(problem is None):
            print(f"alarm: {newest}: {problem or 'differs on another rank'}; older ones stay", file=sys.stderr, flush=True)
            return
        for folder in useless:
            if not_deleted := attempt(partial(remove, folder, follow=(folder / MANIFEST_FILE).is_file())):
                print(f"alarm: a checkpoint that is not kept cannot be deleted: {not_deleted}", file=sys.stderr, flush=True)

    def problem_of(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be used, by this rank's share of its files; None when it can."""
        try:
            verify(folder, self.voters.rank, self.voters.world_size, self.on_progress, self.identity)
        except (InputError, OSError) as error:  # in any case all must vote
            return str(error)
        return None


def attempt(action: Callable[[], None]) -> str | None:
    """Do it; returns what went wrong, in one line, or None. Never raises, since every rank must vote."""
    try:
        action()
    except OSError as error:
        return f"{error.filename or 'writing'}: {error.strerror or error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _begin(folder: Path | None, veto: str | None) -> None:
    if veto:
        raise OSError(veto)
    if folder is not None:
        remove(folder)
        folder.mkdir(parents=True)

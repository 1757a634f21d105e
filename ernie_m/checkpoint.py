"""A checkpoint is a promise: a folder under its final name is whole, and is verified before it is read.

Saving, on all ranks together:
1. DeepSpeed writes into `step_00000100.tmp`; each rank fsyncs and hashes its share of the files.
2. Rank 0 joins sizes and hashes with the trainer's state into `manifest.json`.
3. Every rank votes; a single no removes the folder and stops the run with the reason.
4. Rename to `step_00000100`, then point `latest` at it; older ones beyond `keep_last` go.

Loading: the newest folder whose files have the manifest's sizes and hashes; broken ones are named and passed over.
A run with checkpoints of which none is whole is an error, never a silent start from zero.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ernie_m.console import InputError
from ernie_m.files import fsync_path, sha256_of, write_json, written_atomically

MANIFEST_FILE = "manifest.json"
LATEST_FILE = "latest"
FORMAT_NAME = "ernie-m checkpoint"


class Voters(Protocol):
    """What the store needs of the ranks (ernie_m.engine.Ranks)."""

    rank: int
    world_size: int

    def all_agree(self, mine: bool) -> bool: ...


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the step it continues from, what the trainer stored, size and hash of each file."""

    folder: Path
    step: int
    world_size: int
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]


class CheckpointStore:
    """The checkpoints of one run, in `folder`, a file system that all ranks share."""

    def __init__(self, folder: Path, ranks: Voters, keep_last: int = 2) -> None:
        self.folder, self.ranks, self.keep_last = folder, ranks, keep_last

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Path:
        """Commit a checkpoint of `step` finished steps; `write(folder)` is collective and fills the folder.

        Raises InputError on every rank when any rank failed; the older checkpoints stay as they were.
        """
        final = self.folder / f"step_{step:08d}"
        aside = final.with_name(final.name + ".tmp")
        reason = self._attempt(lambda: _made_afresh(aside)) if self.ranks.rank == 0 else None
        self._vote(reason, aside)
        reason = self._attempt(lambda: write(aside))
        self._vote(reason, aside)
        reason = self._attempt(lambda: self._hash_my_share(aside))
        self._vote(reason, aside)
        if self.ranks.rank == 0:
            reason = self._attempt(lambda: self._commit(aside, final, step, state))
        self._vote(reason, aside)
        if self.ranks.rank == 0:
            self._retire()
        return final

    def newest_whole(self) -> Checkpoint | None:
        """The newest checkpoint that verifies on all ranks; None when there is none at all.

        Raises InputError when there are checkpoints but not one of them is whole.
        """
        candidates = committed_folders(self.folder)
        for folder in candidates:
            problem = self._problem_of(folder)
            if self.ranks.all_agree(problem is None):
                return read_manifest(folder)
            if problem is not None:
                print(f"checkpoint {folder}: {problem}; trying the one before", file=sys.stderr, flush=True)
        if candidates:
            raise InputError(
                f"{self.folder}: holds {len(candidates)} checkpoints, none of them whole; restore one or start over "
                "with --from_scratch"
            )
        return None

    def _problem_of(self, folder: Path) -> str | None:
        try:
            verify(folder, self.ranks.rank, self.ranks.world_size)
        except (InputError, OSError) as error:  # whatever it is, all must vote
            return str(error)
        return None

    @staticmethod
    def _attempt(action: Callable[[], None]) -> str | None:
        try:
            action()
        except OSError as error:
            return f"{error.filename or 'writing'}: {error.strerror or error}"
        except Exception as error:  # torch's zip writer reports a full disk as a RuntimeError; whatever it is, all must vote
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None

    def _vote(self, reason: str | None, aside: Path) -> None:
        if self.ranks.all_agree(reason is None):
            return
        if self.ranks.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        raise InputError(f"checkpoint not saved, the older ones stay: {reason or 'another rank failed to write its part'}")

    def _hash_my_share(self, aside: Path) -> None:
        entries = {}
        for path in _share(aside, self.ranks.rank, self.ranks.world_size):
            fsync_path(path)
            entries[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        write_json(aside / f".hashes-{self.ranks.rank:05d}.json", entries)

    def _commit(self, aside: Path, final: Path, step: int, state: dict[str, Any]) -> None:
        files: dict[str, Any] = {}
        for part in sorted(aside.glob(".hashes-*.json")):
            files.update(json.loads(part.read_text()))
            part.unlink()
        content = {"format": FORMAT_NAME, "step": step, "world_size": self.ranks.world_size, "files": files, "state": state}
        write_json(aside / MANIFEST_FILE, {**content, "sha256": _digest(content)})
        shutil.rmtree(final, ignore_errors=True)
        os.rename(aside, final)
        fsync_path(self.folder)
        with written_atomically(self.folder / LATEST_FILE) as path:
            path.write_text(final.name + "\n")

    def _retire(self) -> None:
        """Delete what is older than the last `keep_last`; the newest has just been written and hashed."""
        for folder in committed_folders(self.folder)[self.keep_last :]:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)


def committed_folders(folder: Path) -> list[Path]:
    """Checkpoint folders under their final names, newest first."""
    return sorted((p for p in folder.glob("step_????????") if p.is_dir()), reverse=True)


def read_manifest(folder: Path) -> Checkpoint:
    """What a checkpoint's manifest says; raises InputError when it is missing or not one of ours."""
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT_NAME:
            raise InputError(f"{path}: not a manifest of {FORMAT_NAME}")
        if content.pop("sha256") != _digest(content):
            raise InputError(f"{path}: altered since it was written")
        return Checkpoint(folder, content["step"], content["world_size"], content["state"], content["files"])
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise InputError(f"{path}: not a valid manifest") from None


def verify(folder: Path, rank: int = 0, world_size: int = 1) -> Checkpoint:
    """Check this rank's share of the files against the manifest; raises InputError naming the first that differs."""
    checkpoint = read_manifest(folder)
    files = checkpoint.files
    for name in sorted(files)[rank::world_size]:
        path, expected = folder / name, files[name]
        if not path.is_file():
            raise InputError(f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise InputError(f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}")
        if sha256_of(path) != expected["sha256"]:
            raise InputError(f"{name} does not have the hash it was saved with")
    return checkpoint


def newest_in_run(run: Path) -> Checkpoint:
    """The newest whole checkpoint of a run folder, for tools outside training; raises InputError when there is none."""
    folders = committed_folders(run / "checkpoints")
    for folder in folders:
        try:
            return verify(folder)
        except (InputError, OSError) as error:
            print(f"checkpoint {folder}: {error}; trying the one before", file=sys.stderr)
    raise InputError(f"{run}: no whole checkpoint under {run / 'checkpoints'}; expected the run folder of a pre-training")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _made_afresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _share(folder: Path, rank: int, world_size: int) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return files[rank::world_size]

"""A checkpoint is a promise: a folder under its final name is whole, and is verified before it is read.

step_00000100/manifest.json            format, step, number of ranks, the trainer's state, size and SHA-256 of each file
              rank_00003.safetensors   fragments of the training state (ernie_m.runs.fragments), of any rank and stage
              probe.safetensors        a few rows, whose loss is in the state: computed again after loading

`verify` looks at hashes before anything is opened, and nothing is ever unpickled. How checkpoints are
made: ernie_m.runs.checkpoint_commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of
from ernie_m.base.run_files import CHECKPOINTS_FOLDER
from ernie_m.runs.best_checkpoint import BEST, best_step

MANIFEST_FILE = "manifest.json"
LATEST_FILE = "latest"
PROBE_FILE = "probe.safetensors"
STATE_PATTERN = "rank_*.safetensors"
FORMAT_NAME = "ernie-m checkpoint"
FORMAT_VERSION = 2
COMMITTED = f"step_{8 * '[0-9]'}"
"""Final names of checkpoints, of `folder_name`."""
CHECKPOINT_BYTES = 12
"""Of a parameter: its fp32 weight and Adam's two moments."""
MOST_MANIFEST_BYTES = 1 << 26  # a file a rank takes 120


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the step it continues from, what the trainer stored, size and hash of each file."""

    folder: Path
    step: int
    world_size: int
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]


def folder_name(step: int) -> str:
    """Final name of the checkpoint of `step` finished steps."""
    return f"step_{step:08d}"


def rank_file(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def committed_folders(folder: Path) -> list[Path]:
    """Checkpoint folders under their final names, newest first."""
    return sorted((p for p in folder.glob(COMMITTED) if p.is_dir()), reverse=True)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step_"))


def problem_of_room(folder: Path, num_parameters: int) -> str | None:
    """Why the disk of `folder` will not take the next checkpoint of a model of that size; None where it has the room."""
    needed, free = CHECKPOINT_BYTES * num_parameters, shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return f"{folder}: {free / 1e9:.3g} GB are free, a checkpoint takes {needed / 1e9:.3g}; make room before one is due"


def write_manifest(path: Path, content: dict[str, Any], write: Callable[[Path, Any], None]) -> None:
    """Write `content` with its format and its own digest."""
    full = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **content}
    write(path, {**full, "sha256": _digest(full)})


def read_manifest(folder: Path) -> Checkpoint:
    """What a checkpoint's manifest says; raises InputError when it is missing or not one of ours."""
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes, expected at most {MOST_MANIFEST_BYTES:,}")
        content = read_json(path)
        if content["format"] != FORMAT_NAME:
            raise InputError(f"{path}: not a manifest of {FORMAT_NAME}")
        if content.pop("sha256") != _digest(content):
            raise InputError(f"{path}: altered since it was written")
        if content.get("format_version") != FORMAT_VERSION:
            found = content.get("format_version", 1)
            raise InputError(f"{path}: format version {found}; this release reads version {FORMAT_VERSION}")
        checkpoint = Checkpoint(folder, content["step"], content["world_size"], content["state"], content["files"])
        _check_kinds(checkpoint)
        return checkpoint
    except FileNotFoundError:
        raise InputError(f"{path}: missing") from None
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise InputError(f"{path}: not a valid manifest") from None


def _check_kinds(checkpoint: Checkpoint) -> None:
    """A digest that fits says that nothing was altered, not that it was us who wrote it."""
    path, files, world_size = checkpoint.folder / MANIFEST_FILE, checkpoint.files, checkpoint.world_size
    for key, value in (("step", checkpoint.step), ("world_size", world_size)):
        if type(value) is not int or not 0 <= value < 2**31:
            raise InputError(f"{path}: {key} is {value!r:.40}, expected a whole number")
    if not isinstance(checkpoint.state, dict):
        raise TypeError
    ranks = [name for name in files if name != PROBE_FILE]
    if len(ranks) != world_size:
        raise InputError(f"{path}: names {len(ranks):,} files of ranks, of {world_size:,} ranks")
    if strange := sorted(set(ranks) - set(map(rank_file, range(world_size)))):
        raise InputError(f"{path}: names a file {strange[0][:80]!r}, expected {rank_file(0)} and so on")
    for name, entry in files.items():
        if set(entry) != {"bytes", "sha256"} or type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            raise InputError(f"{path}: does not tell bytes and sha256 of {name}")


def verify(
    folder: Path,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Callable[[], None] = lambda: None,
    identity: str | None = None,
) -> Checkpoint:
    """Check this rank's share of the files against the manifest; raises InputError naming the first that differs.

    `identity`: of the run that it must belong to; None: any.
    """
    checkpoint = read_manifest(folder)
    if identity is not None and checkpoint.state.get("identity") != identity:
        raise InputError("belongs to another run")
    if folder.match(COMMITTED) and folder.name != folder_name(checkpoint.step):  # a copy may have any other name
        raise InputError(f"is the checkpoint of step {checkpoint.step} under another name")
    files = checkpoint.files
    unnamed = {path.name for path in folder.glob(STATE_PATTERN)} - set(files)
    if unnamed:
        raise InputError(f"{min(unnamed)} is there, and {MANIFEST_FILE} does not name it")
    for name in sorted(files)[rank::world_size]:
        path, expected = folder / name, files[name]
        if not path.is_file():
            raise InputError(f"{name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise InputError(f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}")
        if sha256_of(path, on_progress=on_progress) != expected["sha256"]:
            raise InputError(f"{name} does not have the hash it was saved with")
    return checkpoint


def newest_in_run(run: Path) -> Checkpoint:
    """The newest whole checkpoint of a run folder, for tools outside training; raises InputError when there is none."""
    place = run / CHECKPOINTS_FOLDER
    for folder in committed_folders(place):
        try:
            return verify(folder)
        except (InputError, OSError) as error:
            print(f"checkpoint {folder}: {error}; trying the one before", file=sys.stderr)
    raise InputError(f"{run}: no whole checkpoint under {place}; expected the run folder of a pre-training")


def checkpoint_of(run: Path, name: str | None) -> Checkpoint:
    """The checkpoint of a run folder by name or step (step_00001000, 1000), or `best`, verified; None: the newest whole one.

    Raises InputError when there is none of that name, or when it is not whole.
    """
    if name is None:
        return newest_in_run(run)
    there = {folder.name: folder for folder in committed_folders(run / CHECKPOINTS_FOLDER)}
    if name == BEST and there:
        name = folder_name(best_step(run, [step_of(folder) for folder in there.values()]))
    folder = there.get(name) or there.get(folder_name(int(name)) if name.isdecimal() else "")
    if folder is None:
        names = f"expected one of {', '.join(sorted(there))}" if there else "the run has none yet"
        raise InputError(f"--checkpoint {name}: no such checkpoint in {run / CHECKPOINTS_FOLDER}; {names}")
    try:
        return verify(folder)
    except InputError as error:
        raise InputError(f"checkpoint {folder}: {error}; name another with --checkpoint") from None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""A run's folder (files: ernie_m.base.run_files): its saved configuration, and whether the present call may go on in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ernie_m.base.config import differing_keys, read_saved, read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.files import (
    check_removable,
    is_left_over,
    read_json,
    remove,
    remove_left_overs,
    require_writable,
    write_json,
    written_atomically,
)
from ernie_m.base.locks import exclusive
from ernie_m.base.run_files import (
    BEFORE_TRAINING,
    CHECKPOINTS_FOLDER,
    COMPLETE_FILE,
    CONFIG_FILE,
    DATA_IDENTITY,
    LAST_STOP_FILE,
    LOCK_FILE,
    OF_TRAINING,
)
from ernie_m.models.shape import AnyModel, read_model
from ernie_m.runs.checkpoint import Checkpoint, checkpoint_of

MAY_CHANGE = ("output", "guards")  # sections that do not change what is learnt
FREE_KEYS = (  # how the same steps are spread; a checkpoint fits all of them, and knows its precision itself
    (DATA_IDENTITY, "folder"),
    ("engine", "precision"),
    ("engine", "zero_stage"),
    ("batch", "micro_batch_rows"),
)


LATER_KEYS: dict[str, Any] = {
    **dict.fromkeys(("heads", "train", "rate_factors", "layer_decay", "pooling", "longest_document", "decoder")),
    "positions": "running",
    "schedule": "linear",
    "stream_weights": {},
    "shuffle_places": 3,
    "drop_rate": 0.1,
    "blank_rate": 0.1,
}
"""Keys inside sections that runs of earlier releases lack, and the values that mean what was done there."""


class RunFolder:
    """The folder of one pre-training run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS_FOLDER

    @property
    def is_complete(self) -> bool:
        return (self.path / COMPLETE_FILE).is_file()

    def check(self, configuration: dict[str, Any], from_scratch: bool = False) -> None:
        """Raise InputError when the folder is somebody else's or, unless from scratch, has another configuration."""
        for link in (self.path, self.checkpoints):
            if link.is_symlink() and not link.exists():
                raise InputError(
                    f"{link}: a symbolic link to {link.readlink()}, which is not there; make that folder, or mount its disk"
                )
        saved_path = self.path / CONFIG_FILE
        saved = read_yaml(saved_path) if saved_path.is_file() else {}
        if DATA_IDENTITY not in saved:
            if self.path.exists() and not (self.path.is_dir() and all(map(_is_before_training, self.path.iterdir()))):
                torn = f"{CONFIG_FILE} lacks {DATA_IDENTITY}: incomplete, or of another program"
                why = torn if saved else f"no {CONFIG_FILE} of ours"
                raise InputError(f"{self.path}: not empty and not a run folder ({why}); choose another --run")
            return
        differences = [] if from_scratch else differing_keys(_binding(saved), _binding(configuration))
        if differences:
            raise InputError(
                f"{self.path} was started with another configuration: {'; '.join(differences)}. Use the saved values, "
                "another --run, or --from_scratch to delete this run and start over"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[Callable[[], bool]]:
        """Hold the folder (rank 0 alone), made if need be; yields what tells whether it is still ours.

        Raises InputError when another job holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path / LOCK_FILE, "another job is at work in this run folder") as is_owner:
            yield is_owner

    def stopped(self, kind: str, step: int | None, message: str) -> None:
        """Note why the job ended in order (rank 0).

        After "signal" or "time" the next start goes on, after "refused" it does not.
        """
        content = {"kind": kind, "step": step, "message": message, "time": time.time()}
        write_json(self.path / LAST_STOP_FILE, content)

    def start(self, configuration: dict[str, Any], from_scratch: bool) -> None:
        """Make the folder ready (rank 0 alone): emptied of an earlier run if asked, with the configuration in it.

        Raises OSError where nothing could be saved: the first checkpoint may come after hours.
        """
        if from_scratch:
            self._empty()
        self.checkpoints.mkdir(exist_ok=True)
        for folder in (self.path, self.checkpoints):
            require_writable(folder)
            remove_left_overs(folder)
        (self.path / LAST_STOP_FILE).unlink(missing_ok=True)
        with written_atomically(self.path / CONFIG_FILE) as aside:
            aside.write_text(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def _empty(self) -> None:
        """Delete what an earlier run left.

        First check that all of it can be deleted: a missing or read-only disk is an error.
        COMPLETE is deleted first, and the settings stay until those of the new run replace them. So there is a run folder
        even after a kill in between. If `checkpoints` is a link to a bigger disk, it stays one.
        """
        left = [self.path / name for name in OF_TRAINING if name != CONFIG_FILE]
        require_writable(self.path)
        for path in left:
            check_removable(path)
        for path in sorted(left, key=lambda path: path.name != COMPLETE_FILE):
            remove(path, keep_link=True)

    def complete(self, content: dict[str, Any]) -> None:
        """Mark the run as done."""
        write_json(self.path / COMPLETE_FILE, content)

    def completed(self) -> dict[str, Any]:
        """What `complete` stored; raises InputError for a file with other content."""
        path = self.path / COMPLETE_FILE
        try:
            content = read_json(path)
            return {"steps": int(content["steps"]), **content}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not written by a finished training ({type(error).__name__}: {error}); remove it, and the same "
                "command goes on from the newest checkpoint"
            ) from None

    def read(self, checkpoint: str | None = None) -> tuple[dict[str, Any], Checkpoint]:
        """Saved configuration and a checkpoint, for tools; raises InputError when this is no run folder, or has no such one.

        `checkpoint`: its name or step; None takes the newest whole one."""
        return read_saved(self.path, "model", f"{DATA_IDENTITY}.tokenizer_sha256"), checkpoint_of(self.path, checkpoint)


def _is_before_training(path: Path) -> bool:
    """Whether a folder that holds this may become a run: also an empty `checkpoints`, e.g. a link to a bigger disk."""
    is_place = path.name == CHECKPOINTS_FOLDER and path.is_dir() and not any(path.iterdir())
    return is_place or path.name in BEFORE_TRAINING or is_left_over(path)


def _binding(configuration: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run may not change: all but the output section, where the data lies and how precision was asked for.

    A key without a value is left out: runs from before there was such a key go on.
    """
    configuration = _without_later_keys(configuration)
    binding = {key: value for key, value in configuration.items() if key not in MAY_CHANGE and value is not None}
    for section, key in FREE_KEYS:
        binding[section] = {k: v for k, v in binding.get(section, {}).items() if k != key}
    return binding


def _without_later_keys(content: Any) -> Any:
    """Without the LATER_KEYS whose value means what earlier releases did."""
    if isinstance(content, Mapping):
        kept = {key: value for key, value in content.items() if value != LATER_KEYS.get(key, ...)}
        return {key: _without_later_keys(value) for key, value in kept.items()}
    return [_without_later_keys(item) for item in content] if isinstance(content, list) else content


def model_config(configuration: Mapping[str, Any]) -> AnyModel:
    """What a run's saved configuration says of its model."""
    return read_model(configuration["model"], CONFIG_FILE)


def identity_of(configuration: dict[str, Any]) -> str:
    """What marks the checkpoints of this run: a digest of all that a resumed run may not change."""
    return hashlib.sha256(json.dumps(_binding(configuration), sort_keys=True).encode()).hexdigest()[:16]

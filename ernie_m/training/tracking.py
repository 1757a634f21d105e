"""Trackers, beside metrics.jsonl: TensorBoard events in the run folder, or a run at Weights & Biases.

A restart goes on with the same curve. TensorBoard drops steps after the checkpoint (`purge_step`). W&B gets the same run
id again, from RUN/wandb.json, and refuses steps that it has: those that a restart trains a second time stay as they were
first shown. They are bit-identical, unless steps were skipped in between; metrics.jsonl is always right.
The axis of both is the number of finished steps, as in metrics.jsonl. Rank 0 alone opens a tracker.
"""

from __future__ import annotations

import json
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, write_json
from ernie_m.base.run_files import TENSORBOARD_FOLDER, WANDB_FILE

KINDS = ("tensorboard", "wandb")


class Tracker(ABC):
    """Takes the lines of metrics.jsonl."""

    @staticmethod
    def open(kind: str, run_folder: Path, config: Mapping[str, Any], resume_step: int) -> Tracker:
        """Start, or go on with, the curves of the run in `run_folder`; `kind` is one of KINDS.

        `config` is the resolved configuration, shown beside the curves; `resume_step` counts the finished steps.
        Raises InputError for another kind, a missing package, or a service that does not let us in.
        """
        if kind == "tensorboard":
            return TensorBoardTracker(run_folder, resume_step)
        if kind == "wandb":
            return WandbTracker(run_folder, config)
        raise InputError(f"tracker {kind!r}; expected one of {', '.join(KINDS)}")

    @abstractmethod
    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Show lines, each with `step` (finished steps) and numbers. A value of None is left out."""

    @abstractmethod
    def close(self) -> None:
        """Send what is pending."""


class TensorBoardTracker(Tracker):
    """Events in RUN/tensorboard."""

    def __init__(self, run_folder: Path, resume_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("TensorBoard is not installed; pip install tensorboard, or leave the option out") from None
        self._writer = SummaryWriter(str(run_folder / TENSORBOARD_FOLDER), purge_step=resume_step + 1)

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            for key, value in _numbers(line).items():
                self._writer.add_scalar(key, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class WandbTracker(Tracker):
    """One run at Weights & Biases over all restarts; its own files lie in RUN/wandb."""

    def __init__(self, run_folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("Weights & Biases is not installed; pip install wandb, or leave the option out") from None
        stored = _stored_run(run_folder)
        try:
            self._run = wandb.init(
                id=stored["id"],
                project=stored["project"],
                name=run_folder.resolve().name,
                config=dict(config),
                dir=str(run_folder),
                resume="allow",
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"Weights & Biases: {str(error).rstrip('.')}; run `wandb login`, set WANDB_MODE=offline, or leave the "
                "option out"
            ) from None
        # One behind the last step W&B has; lower ones it would drop itself, with a warning each.
        self._first_step = self._newest = int(self._run.starting_step)

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            if line["step"] >= self._first_step:
                self._newest = max(self._newest, line["step"])  # W&B takes no earlier one: what came late is shown here
                self._run.log(_numbers(line), step=self._newest)

    def close(self) -> None:
        self._run.finish()


def _stored_run(run_folder: Path) -> dict[str, str]:
    """Id and project of this run at W&B, chosen at its first start."""
    path = run_folder / WANDB_FILE
    try:
        stored = read_json(path)
        return {"id": str(stored["id"]), "project": str(stored["project"])}
    except FileNotFoundError:
        stored = {"id": secrets.token_hex(8), "project": os.environ.get("WANDB_PROJECT", "ernie-m")}
        write_json(path, stored)
        return stored
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise InputError(
            f'{path}: expected {{"id": ..., "project": ...}} of the W&B run; delete it to begin another'
        ) from None


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key != "step" and value is not None}

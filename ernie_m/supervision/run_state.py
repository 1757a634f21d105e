"""What a run folder says about its job: complete, how far, stopped on purpose, which ranks were lost.

The launcher's exit code is not reliable; these files are. Each may be missing or incomplete at any moment.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ernie_m.base.plain_yaml import load_yaml
from ernie_m.base.run_files import (
    CHECKPOINTS_FOLDER,
    COMPLETE_FILE,
    CONFIG_FILE,
    INCIDENTS_FILE,
    LAST_STOP_FILE,
    METRICS_FILE,
)
from ernie_m.runs.checkpoint import MANIFEST_FILE, committed_folders, step_of


@dataclass(frozen=True)
class Incident:
    """Ranks that a surviving rank reported as lost; `kind` is "dead" or "hung"."""

    kind: str
    ranks: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class RunState:
    """A run folder at one moment; steps are 0 where there are none yet."""

    complete: bool = False
    committed: int = 0
    """Step of the newest committed checkpoint."""
    reached: int = 0
    """Last step in the metrics, or `committed` if that is further."""
    metrics_version: tuple[int, int] = (0, 0)
    """Inode and bytes of the metrics: equal only if nothing was written in between."""
    stop_kind: str = ""
    """Of the last orderly stop: "refused", or else on request ("signal", "time"); empty when there was none."""
    stop_message: str = ""
    incidents: tuple[Incident, ...] = ()

    def incidents_since(self, before: RunState) -> tuple[Incident, ...]:
        """Incidents that were not there `before` (all of them, if the file was begun again)."""
        known = len(before.incidents)
        return self.incidents[known:] if len(self.incidents) >= known else self.incidents


def read_state(run: Path) -> RunState:
    """The state of a run folder; one that does not exist yet is at step 0. Never raises for torn or odd files."""
    stop = _json_object(_text(run / LAST_STOP_FILE))
    committed = 0
    with contextlib.suppress(OSError):
        os.listdir(run)  # on NFS makes us see files that other hosts have just made
        whole = (f for f in committed_folders(run / CHECKPOINTS_FOLDER) if (f / MANIFEST_FILE).is_file())
        committed = next(map(step_of, whole), 0)
    return RunState(
        complete=(run / COMPLETE_FILE).is_file(),
        committed=committed,
        reached=max(committed, last_step(run)),
        metrics_version=_version(run / METRICS_FILE),
        stop_kind=str(stop.get("kind", "")),
        stop_message=str(stop.get("message", "")),
        incidents=tuple(_incidents(run / INCIDENTS_FILE)),
    )


def is_started(run: Path) -> bool:
    """Whether training has made this its run folder.

    Before that nothing may be written there: training would refuse the folder.
    """
    return (run / CONFIG_FILE).is_file()


def batch_of(run: Path) -> tuple[int, int] | None:
    """(rows of a step, rows of a micro-batch) of the run's saved configuration; None while there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        batch = load_yaml((run / CONFIG_FILE).read_text(encoding="utf-8"))["batch"]
        return int(batch["rows_per_step"]), int(batch["micro_batch_rows"])
    return None


def seconds_in_steps(run: Path, after: int, until: int) -> float:
    """Seconds that steps after+1 .. until took by the metrics: each line's tokens over its tokens a second."""
    total = 0.0
    with contextlib.suppress(OSError), (run / METRICS_FILE).open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            line = _json_object(text)
            if after < line.get("step", 0) <= until and line.get("tokens_per_second"):
                total += line["tokens"] / line["tokens_per_second"]
    return total


def last_step(run: Path) -> int:
    """The step of the last complete line of a run's metrics that has one; 0 while there is none.

    Reads from the end, each time twice as far, until one is found.
    """
    with contextlib.suppress(OSError), (run / METRICS_FILE).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = 1 << 16
        while True:
            file.seek(max(0, size - length))
            for text in reversed(file.read().split(b"\n")):
                step = _json_object(text.decode("utf-8", errors="replace")).get("step")
                if isinstance(step, int):
                    return step
            if length >= size:
                break
            length *= 2
    return 0


def _version(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size
    return 0, 0


def _incidents(path: Path) -> Iterator[Incident]:
    for text in _text(path).split("\n"):
        line = _json_object(text)
        ranks = line.get("ranks")
        if isinstance(ranks, list):
            numbers = tuple(rank for rank in ranks if isinstance(rank, int))
            yield Incident(str(line.get("kind", "dead")), numbers, str(line.get("message", "")))


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}

"""The figures of a run: one JSON line a step, console lines, curves as PNG.

Summed losses stay on the device until a line is printed; then all steps since the last one are fetched at once. Names
come from the table of objectives: `loss/CAMLM`, `loss/CAMLM/de-en`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.base.console import duration
from ernie_m.base.files import open_log, written_atomically
from ernie_m.base.plots import plotting, save_figure
from ernie_m.base.run_files import CURVES_FILE, METRICS_FILE

TIME_SHARE = "time_share/"
GAIN = "cross_lingual_gain"
HELD_OUT_LOSS, ROUND_TRIP, COPIED, BLEU = "held_out_loss", "round_trip_loss", "round_trip_copied", "bleu"
MEASURED = (GAIN, HELD_OUT_LOSS, ROUND_TRIP, BLEU)
"""How the names of what is measured on held-out text begin."""
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def mean_losses(names: Sequence[str], nll: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """{'loss/CAMLM': ..., 'loss/CAMLM/de-en': ...} from summed nll and predicted tokens per metric 'CAMLM/de-en'."""
    sums: dict[str, list[float]] = {}
    for name, total, count in zip(names, nll, predicted, strict=True):
        if count > 0:
            for key in (name.split("/")[0], name):
                entry = sums.setdefault(f"loss/{key}", [0.0, 0.0])
                entry[0] += total
                entry[1] += count
    return {key: total / count for key, (total, count) in sorted(sums.items())}


class LineLog:
    """JSON lines with a `step` each (rank 0 alone writes). Those of steps after the checkpoint are dropped on resume.

    A full disk does not end the training: an alarm is printed, and lines wait in memory until a write succeeds.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [line for line in read_lines(path) if line["step"] <= resume_step]
        with written_atomically(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open_log(path)
        self._waiting = b""

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines; numbers that are not finite become null. Flushed to the file system."""
        was_waiting = bool(self._waiting)
        for line in lines:
            self._waiting += json.dumps({key: _finite(value) for key, value in line.items()}).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise
            if not was_waiting:
                print(f"alarm: {self.path}: {error.strerror}; its lines wait in memory", file=sys.stderr, flush=True)

    def sync(self) -> str | None:
        """Flush to the disk. Returns why it failed, or None. The log must be on the disk before the checkpoint."""
        self.write([])
        os.fsync(self._file.fileno())
        return f"{self.path}: {len(self._waiting)} bytes of lines have no room" if self._waiting else None

    def close(self) -> None:
        self.sync()
        self._file.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics; one with a value that is no number and not null is left out too."""
    lines = read_lines(folder / METRICS_FILE)
    return [line for line in lines if all(value is None or isinstance(value, int | float) for value in line.values())]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file that have a step."""
    return [line for line in json_lines(path) if isinstance(line.get("step"), int | float)]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; a torn one (the process was killed in it), or of something else, is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except (ValueError, RecursionError):
            continue
    return [line for line in lines if isinstance(line, dict)]


@dataclass
class ConsoleLine:
    """Progress of training on one line: step, %, losses, rate, tokens/s, MFU, padding, where time went, ETA."""

    num_steps: int
    first_step: int
    started: float = field(default_factory=time.monotonic)

    def format(self, step: int, losses: Mapping[str, float], learning_rate: float, numbers: Mapping[str, float]) -> str:
        """The line after `step` finished steps: losses of whole objectives, `numbers` of ernie_m.training.utilization.

        Shares of the time that round to 0.0 % are left out.
        """
        per_step = (time.monotonic() - self.started) / max(1, step - self.first_step)
        shown = "  ".join(
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in losses.items() if name.count("/") == 1
        )
        shares = ((name.removeprefix(TIME_SHARE), 100 * share) for name, share in numbers.items() if TIME_SHARE in name)
        time_spent = "".join(f"  {name} {percent:.1f} %" for name, percent in shares if percent >= 0.05)
        return (
            f"step {step}/{self.num_steps} ({100 * step / self.num_steps:.0f} %)  {shown}  lr {learning_rate:.2e}  "
            f"{numbers['tokens_per_second']:,.0f} tokens/s  MFU {100 * numbers['mfu']:.1f} %  "
            f"padding {100 * numbers['padding_share']:.1f} %{time_spent}  "
            f"ETA {duration(per_step * (self.num_steps - step))}"
        )


def draw_curves(folder: Path) -> Path:
    """Draw loss per objective, and the cross-lingual gain, over steps into curves.png; returns its path."""
    pyplot = plotting()
    lines = read_metrics(folder)
    has_gains = any(line.get(GAIN) is not None for line in lines)
    figure, axes = pyplot.subplots(1, 2 if has_gains else 1, figsize=(12 if has_gains else 7, 4.5), squeeze=False)
    plot_losses(axes[0][0], lines)
    if has_gains:
        plot_gain(axes[0][1], lines)
    figure.tight_layout()
    path = folder / CURVES_FILE
    save_figure(figure, path)
    return path


def plot_losses(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    """Loss of each objective over the steps of a run's metrics."""
    for key in sorted({key for line in lines for key in line if key.startswith("loss/") and key.count("/") == 1}):
        plot_smoothed(axis, points_of(lines, key), key.removeprefix("loss/"), width=max(1, len(lines) // 50))
    axis.set(xlabel="step", ylabel="nats per predicted token", title="Loss")
    axis.legend()
    axis.grid(alpha=0.3)


def plot_gain(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    """Cross-lingual gain over the steps at which it was measured."""
    axis.plot(*zip(*points_of(lines, GAIN), strict=True), marker="o", markersize=3)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(xlabel="step", ylabel="nats", title="Cross-lingual gain on held-out pairs")
    axis.grid(alpha=0.3)


def points_of(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of each line that has the key."""
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def plot_smoothed(axis: Any, points: Sequence[tuple[int, float]], label: str, width: int) -> None:
    """Draw the points faintly, and over them the mean of the last `width` points."""
    steps, values = [p[0] for p in points], [p[1] for p in points]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    smooth = (sums[ends] - sums[starts]) / (ends - starts)
    (line,) = axis.plot(steps, smooth, label=label)
    axis.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.7)

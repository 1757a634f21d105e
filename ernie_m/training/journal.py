"""What rank 0 writes: metrics, console lines, curves for trackers, loss spikes, the rows of each step."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ernie_m.base.run_files import METRICS_FILE, SAMPLES_FILE, SPIKES_FILE
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.runs.checkpoint_store import Saved
from ernie_m.runs.metrics import MEASURED, ConsoleLine, LineLog, mean_losses, read_metrics
from ernie_m.training.divergence import SpikeDetector
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.tracking import Tracker


@dataclass(frozen=True)
class StepRecord:
    """The sums of one step. nll [M] is still on the device, counts are on the host; M counts metrics."""

    step: int
    nll_M: Tensor
    predicted_M: np.ndarray
    num_tokens: int
    num_pairs: int
    learning_rate: float


class Journal:
    """The files of a run that one job writes. Lines of earlier jobs about steps after the checkpoint are removed."""

    def __init__(
        self,
        run: Path,
        config: TrainingConfig,
        data: PretrainingData,
        configuration: dict[str, Any],
        resume_step: int,
        trackers: Sequence[str] = (),
    ) -> None:
        self._data, self._weights = data, config.weights
        self._metrics = LineLog(run / METRICS_FILE, resume_step)
        self._spikes = LineLog(run / SPIKES_FILE, resume_step) if config.guards.spike_threshold else None
        self._samples = LineLog(run / SAMPLES_FILE, resume_step) if config.output.log_samples else None
        lines = read_metrics(run)
        self.measured_steps = {line["step"] for line in lines if any(key.startswith(MEASURED) for key in line)}
        self._detector = SpikeDetector.from_lines(config.guards, lines, resume_step)
        self._trackers = [Tracker.open(kind, run, configuration, resume_step) for kind in trackers]
        self._console = ConsoleLine(data.schedule.num_steps, resume_step)

    def steps(
        self,
        records: Sequence[StepRecord],
        nll_TM: np.ndarray,
        numbers: Mapping[str, float],
        extra: Mapping[str, float | None],
    ) -> None:
        """Write the lines of T finished steps.

        `nll_TM`: their nll, summed over ranks. `numbers`: RunCosts.numbers of all T steps together. Each line has
        tokens_per_second; only the last line has the other numbers, and those values of `extra` that are not None.
        """
        names = [metric.name for metric in self._data.metrics]
        lines: list[dict[str, Any]] = [
            {"step": record.step + 1, **mean_losses(names, nll.tolist(), record.predicted_M.tolist())}
            | {"learning_rate": record.learning_rate, "tokens": record.num_tokens}
            | {f"weight/{loss}": weight for loss, weight in self._weights.changing(record.step).items()}
            | {"tokens_per_second": numbers["tokens_per_second"]}
            for record, nll in zip(records, nll_TM, strict=True)
        ]
        lines[-1].update(numbers, **{key: value for key, value in extra.items() if value is not None})
        self._write(lines)
        for record, line in zip(records, lines, strict=True):
            self._look_for_spikes(record.step, line)
        if self._samples is not None:
            rows = [{"step": record.step + 1, "rows": self._data.sample_ids(record.step)} for record in records]
            self._samples.write(rows)
        predicted_M = np.sum([record.predicted_M for record in records], axis=0)
        losses = mean_losses(names, nll_TM.sum(0).tolist(), predicted_M.tolist())
        print(self._console.format(records[-1].step + 1, losses, records[-1].learning_rate, numbers), flush=True)

    def _look_for_spikes(self, step: int, line: dict[str, Any]) -> None:
        for spike in self._detector.observe(step, line):
            print(f"alarm: {spike}; its rows are in {SPIKES_FILE}", file=sys.stderr, flush=True)
            if self._spikes is not None:
                content = {key: value for key, value in vars(spike).items() if key != "step"}
                rows = [row for row in self._data.sample_ids(step) if row.startswith(f"{spike.objective}/")]
                self._spikes.write([{"step": step + 1, **content, "rows": rows}])

    def evaluation(self, done: int, values: Mapping[str, float], told: str) -> None:
        """What was measured on held-out text after `done` steps, and what the console says of it."""
        self._write([{"step": done, **values}])
        print(f"step {done}: {told}", flush=True)

    def saved(self, saved: Saved) -> None:
        """Write how a save ended."""
        line = {"step": saved.step, "save_seconds": saved.seconds, "save_stalled_seconds": saved.stalled}
        self._write([line | {"save_failed": 1}] if saved.problem else [line])

    def sync(self) -> str | None:
        """Write all lines so far to the disk. Returns what went wrong (a full disk, for example), or None."""
        problems = [log.sync() for log in (self._metrics, self._spikes, self._samples) if log is not None]
        return next(filter(None, problems), None)

    def close(self) -> None:
        """Close all files and trackers."""
        for log in (self._metrics, self._spikes, self._samples):
            if log is not None:
                log.close()
        for tracker in self._trackers:
            tracker.close()

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        self._metrics.write(lines)
        for tracker in self._trackers:
            tracker.write(lines)

"""The steps of one process, from resume to end.

A step: the ranks add up, on the host, the predicted tokens of the global step and whether one of them was asked to stop.
Then, for each micro-batch: fill BTMLM's placeholders or BT's slots (no gradient), forward, backward. The update comes after
the last micro-batch. All that a step does follows from (seed, step), so the state of the data is one integer.

Before every micro-batch and every forward of an evaluation, all ranks together look for requests to stop. If there is one,
the step that was begun is dropped: weights and optimizer are still those of the step before, and these are saved.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ernie_m import __version__
from ernie_m.base.console import InputError
from ernie_m.base.interruption import Interruption, StopRequest
from ernie_m.base.sampling import key_of
from ernie_m.models.loss import loss_scales
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import LossRequest, PackedBatch, num_real_tokens
from ernie_m.rows.dataloader import PretrainingData, sent, to_device
from ernie_m.rows.objective import HEADS, TOKEN
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.packing import HEAD_OF_LOSS
from ernie_m.rows.prefetcher import Prefetcher
from ernie_m.rows.read_pairs import pairs_read
from ernie_m.rows.schedule import HEADS_PART
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.ranks import Ranks
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.training.checkpoint_probe import make_probe, probe_loss
from ernie_m.training.divergence import SkippedUpdates, non_finite_message
from ernie_m.training.engine import Engine
from ernie_m.training.held_out import measures_of
from ernie_m.training.journal import Journal, StepRecord
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.utilization import EVALUATION, SAVING, Meter
from ernie_m.training.watchdog import Watchdog

STOP_KINDS = ("signal", "time")


class Stopped(Exception):  # noqa: N818 - no error, an order
    """All ranks agreed to stop. `step` finished steps are saved; None: nothing was trained."""

    def __init__(self, request: StopRequest) -> None:
        super().__init__(request.message)
        self.request = request
        self.step: int | None = None


@dataclass(frozen=True)
class RunServices:
    """What the loop uses, beside the model and the data."""

    ranks: Ranks
    store: CheckpointStore
    watchdog: Watchdog
    interruption: Interruption
    journal: Journal | None  # rank 0 alone
    skipped: SkipSteps
    saves_in_background: bool


class TrainingLoop:
    """The steps of one process."""

    def __init__(self, config: TrainingConfig, data: PretrainingData, engine: Engine, services: RunServices) -> None:
        self.config, self.data, self.engine, self.services = config, data, engine, services
        self.ranks, self.store, self.journal = services.ranks, services.store, services.journal
        self.num_steps = data.schedule.num_steps
        self.weights = config.weights
        factors = config.factors_of(data.metrics)
        self.weights_M = None if factors is None else torch.tensor(factors, device=self.ranks.device)
        self.loss_M = np.array([LOSS_INDEX[metric.loss] for metric in data.metrics])
        self.head_M = HEAD_OF_LOSS[self.loss_M]
        self.pending: list[StepRecord] = []
        self.left_out = SkippedUpdates(config.guards.max_skipped_updates)
        heads, tell = engine.module.heads, print if self.journal is not None else None
        self.measures = measures_of(config, data, TOKEN in heads, tell)
        self.meter = Meter.of(config, engine.module.shape, engine.precision.value, self.ranks)
        self.saved_at = time.monotonic()
        self.last_saved = -1
        self.save_is_due = False
        self.has_moved = False  # a start makes at least one step: with a short --exit_after there would be no progress

    def run(self, first_step: int, evaluate_first: bool) -> None:
        """Steps first_step to num_steps - 1, with logging, evaluation and checkpoints. Raises Stopped when asked to stop."""
        output = self.config.output
        self.last_saved = first_step
        batches = Prefetcher(self._batches_of, first_step, self.num_steps)
        done = first_step
        try:
            if evaluate_first:
                self._evaluate(done)
            for step, micro_batches in enumerate(self.meter.clock.waiting(batches), start=first_step):
                if micro_batches is not None:
                    self.pending.append(self._step(step, micro_batches))
                self.has_moved = True
                done, last = step + 1, step + 1 == self.num_steps
                due = last or done % output.save_every == 0 or self.save_is_due
                if done % output.log_every == 0 or due:
                    self._flush()
                if self._evaluates_at(done):
                    self._evaluate(done)
                if due:
                    self._save(done, until_written=last)
                self._report_save()
        except Stopped as stopped:
            self._flush()
            if done > self.last_saved:
                self._save(done, until_written=True)
            self._report_save(wait=True)
            stopped.step = done
            raise
        finally:
            batches.close()
        self._report_save(wait=True)

    def _evaluates_at(self, done: int) -> bool:
        every = self.config.output.evaluate_every
        return bool(self.measures) and done > 0 and (done == self.num_steps or done % every == 0)

    def needs_evaluation(self, first_step: int, measured_steps: set[int]) -> bool:
        """Whether the job before saved `first_step`, and ended before it made the measurement that was due there."""
        return self._evaluates_at(first_step) and first_step not in measured_steps

    def _batches_of(self, step: int) -> list[PackedBatch[np.ndarray]] | None:
        if step in self.services.skipped:
            return None
        try:
            return self.data.step(step, self.ranks.rank, self.ranks.world_size, self.config.batch.micro_batch_rows)
        except InputError as error:
            raise InputError(str(error), only_here=True) from None

    # -- deciding together ---------------------------------------------------------------------------------------

    def _agree(self, what: str, counts: np.ndarray) -> np.ndarray:
        """Sum `counts` over all ranks; raises Stopped, on all of them, when one was asked to stop."""
        self.services.watchdog.progress(what)
        request = self.services.interruption.request()
        flags = np.zeros(3)
        if request is not None and (self.has_moved or request.kind != "time"):
            flags[STOP_KINDS.index(request.kind)] = 1
        minutes = self.config.output.save_every_minutes
        if self.ranks.is_first and minutes and time.monotonic() - self.saved_at >= 60 * minutes:
            flags[2] = 1
        summed = self.ranks.host_sum(np.concatenate([counts, flags]))
        by_signal, by_time, save_is_due = summed[len(counts) :]
        if by_signal or by_time:
            kind: Any = STOP_KINDS[0] if by_signal else STOP_KINDS[1]
            raise Stopped(request or StopRequest(kind, "another rank was asked to stop"))
        self.save_is_due = bool(save_is_due)
        return summed[: len(counts)]

    def _poll(self, what: str) -> None:
        self._agree(what, np.zeros(0))

    # -- a step --------------------------------------------------------------------------------------------------

    def _step(self, step: int, micro_batches: list[PackedBatch[np.ndarray]]) -> StepRecord:
        num_metrics = len(self.data.metrics)
        counts = np.sum([np.bincount(b.metric_N, minlength=num_metrics) for b in micro_batches], axis=0)
        num_tokens = sum(map(num_real_tokens, micro_batches))
        num_pairs = sum(map(pairs_read, micro_batches))
        summed = self._agree(f"step {step}", np.concatenate([counts, [num_tokens, num_pairs]]).astype(np.float64))
        predicted_M, (total_tokens, total_pairs) = summed[:-2], map(int, summed[-2:])
        predicted_L = np.bincount(self.loss_M, weights=predicted_M, minlength=len(LOSS_INDEX))
        weights_L, counts_L = torch.tensor(self.weights.at(step)), torch.from_numpy(predicted_L).float()
        scales_L = loss_scales(weights_L, counts_L, self.ranks.world_size, self.engine.accumulation_steps)
        scales_L = sent(scales_L, self.ranks.device)
        trained = self.data.schedule.trained(step)
        request = LossRequest(scales_L, num_metrics, trains_backbone=trained != {HEADS_PART}, weights_M=self.weights_M)
        learning_rate = self.config.optimizer.learning_rate(step, self.num_steps)
        torch.manual_seed(key_of(self.config.seed, "dropout", step, self.ranks.rank) % 2**63)
        nll_M = torch.zeros(num_metrics, dtype=torch.float64, device=self.ranks.device)
        updated = True
        for number, batch in enumerate(micro_batches):
            if number:
                self._poll(f"step {step}, micro-batch {number}")
            nll_M += self.engine.forward_backward(self._filled(to_device(batch, self.ranks.device)), request)
            updated = self.engine.update(learning_rate, trained)
        self._guard(step, updated)
        return StepRecord(step, nll_M, predicted_M, total_tokens, total_pairs, learning_rate)

    def _filled(self, batch: PackedBatch[Tensor]) -> PackedBatch[Tensor]:
        """The batch with what the model writes into it: BTMLM's pseudo tokens, BT's translations."""
        if not batch.generates:
            return batch
        with self.meter.clock.generating():
            return fill_placeholders(self.engine.module, batch, self._all_written)

    def _all_written(self, mine: bool) -> bool:
        """Whether the sentences of all ranks are written; asked behind each token."""
        self.services.watchdog.progress("writing translations")
        return self.ranks.all_agree(mine)

    def _guard(self, step: int, updated: bool) -> None:
        """Judge an update that was left out because a gradient was not finite.

        In fp16 that is normal (the loss scaler then lowers its scale), and an InputError only after many in a row. In other
        precisions the first one is an InputError.
        """
        if self.engine.precision.value == "fp16":
            self.left_out.record(step, not updated, self.engine.loss_scale)
        elif not updated:
            self._flush()
            raise InputError(non_finite_message(step, "the gradient"))

    # -- looking -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Fetch the sums of all pending steps from the device at once, and write them."""
        if not self.pending:
            return
        self.services.watchdog.progress("adding up losses")
        nll_TM = self.ranks.sum(torch.stack([record.nll_M for record in self.pending])).cpu().numpy()
        if self.engine.precision.value != "fp16" and not np.isfinite(nll_TM).all():
            bad = int((~np.isfinite(nll_TM)).any(axis=1).nonzero()[0][0])
            raise InputError(non_finite_message(self.pending[bad].step, "the loss"))
        tokens = [record.num_tokens for record in self.pending]
        predicted_M = np.sum([record.predicted_M for record in self.pending], axis=0)
        predicted = dict(zip(HEADS, np.bincount(self.head_M, predicted_M, len(HEADS)).tolist(), strict=True))
        numbers = self.meter.numbers(tokens, sum(record.num_pairs for record in self.pending), predicted)
        if self.journal is not None:
            extra = {"gradient_norm": self.engine.gradient_norm, "loss_scale": self.engine.loss_scale}
            self.journal.steps(self.pending, nll_TM, numbers, extra)
        self.pending.clear()

    def _evaluate(self, done: int) -> None:
        with self.meter.clock.during(EVALUATION):
            values, told = {}, []
            for measure in self.measures:
                poll = partial(self._poll, f"evaluation after step {done}")
                found, said = measure(self.engine.module, self.ranks, poll, self._all_written)
                values.update(found)
                told += [said] if said else []
            if self.journal is not None:
                self.journal.evaluation(done, values, "; ".join(told))

    # -- saving --------------------------------------------------------------------------------------------------

    def _save(self, done: int, until_written: bool) -> None:
        """Save `done` finished steps. `until_written`: wait for the disk, and raise InputError when it failed."""
        watchdog = self.services.watchdog
        watchdog.progress(f"saving step {done}")
        with self.meter.clock.during(SAVING):
            veto = self.journal.sync() if self.journal is not None else None
            probe = make_probe(self.data, min(done, self.num_steps - 1))
            state = {
                "precision": self.engine.precision.value,
                "zero_stage": self.engine.zero_stage,
                "version": __version__,
                "counters": self.engine.counters(),
                "probe_loss": probe_loss(self.engine.module, probe, self.ranks.device),
            }
            tensors = {key: view for fragment in self.engine.fragments() for key, view in fragment.tensors()}
            behind = self.services.saves_in_background and not until_written
            self.store.save(done, tensors, state, probe, in_background=behind, veto=veto)
        self.last_saved, self.saved_at, self.save_is_due = done, time.monotonic(), False
        watchdog.progress(f"saved step {done}")
        if until_written:
            self._report_save(wait=True, is_last=True)

    def _report_save(self, wait: bool = False, is_last: bool = False) -> None:
        """Report finished saves. One that failed is an alarm; `is_last`: an InputError, since no other follows."""
        while (saved := self.store.finished(wait)) is not None:
            if saved.problem is not None and is_last and saved.step == self.last_saved:
                raise InputError(saved.problem)
            if self.journal is not None:
                if saved.problem is not None:
                    goes_on = "training goes on, the next save is tried as usual"
                    print(f"alarm: {saved.problem}; {goes_on}", file=sys.stderr, flush=True)
                self.journal.saved(saved)

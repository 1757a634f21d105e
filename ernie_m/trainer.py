"""Pre-training, from an opened corpus folder to a finished run.

A step: count the predicted tokens of the whole global step (one all-reduce), then for each micro-batch let the model
fill BTMLM's placeholders (no gradient), forward and backward, and update after the last one. Everything a step does
follows from (seed, step), so the only data state of a checkpoint is one integer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ernie_m import __version__
from ernie_m.batch import LossRequest, PackedBatch
from ernie_m.checkpoint import CheckpointStore
from ernie_m.config import to_mapping
from ernie_m.console import InputError
from ernie_m.corpus import MANIFEST_FILE, CorpusFolder
from ernie_m.dataloader import Prefetcher, PretrainingData, Schedule, to_device
from ernie_m.engine import Engine, Ranks
from ernie_m.evaluation import cross_lingual_gain, gain_rows, held_out_pairs
from ernie_m.files import sha256_of
from ernie_m.loss import objective_scales
from ernie_m.metrics import ConsoleLine, MetricsLog, draw_curves, mean_losses
from ernie_m.model import Encoder
from ernie_m.objectives import OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.packing import PackedRow
from ernie_m.pseudo_parallel import fill_placeholders
from ernie_m.recipe import TrainingConfig
from ernie_m.run_folder import RunFolder
from ernie_m.sampling import key_of


@dataclass(frozen=True)
class StepRecord:
    """One step's sums, still on the device."""

    step: int
    nll_M: Tensor
    predicted_M: Tensor
    num_tokens: Tensor
    learning_rate: float


class Trainer:
    """One pre-training run. `run` resumes by itself; a finished run is left alone."""

    def __init__(
        self,
        config: TrainingConfig,
        data: Path,
        run: Path,
        ds_configs: Path,
        from_scratch: bool = False,
        tensorboard: bool = False,
    ) -> None:
        self.config, self.ds_configs = config, ds_configs
        self.folder = CorpusFolder(data)
        manifest = self.folder.manifest
        self.model_config = config.model.resolved(manifest.vocab_size, len(manifest.languages))
        self.schedule = Schedule(config.stages, config.batch.rows_per_step)
        self.data = PretrainingData(self.folder, config.data, self.schedule, config.seed)
        self.run_folder = RunFolder(run)
        self.from_scratch, self.tensorboard = from_scratch, tensorboard
        self.configuration = to_mapping(config) | {
            "model": to_mapping(self.model_config),
            "data_identity": {
                "folder": str(data.resolve()),
                "manifest_sha256": sha256_of(data / MANIFEST_FILE),
                "tokenizer_sha256": manifest.tokenizer_sha256,
                "languages": manifest.languages,
            },
        }
        self.run_folder.check(self.configuration, from_scratch)

    def run(self) -> None:
        """Train to the last step of the last stage, from the newest whole checkpoint if there is one."""
        ranks = Ranks()
        if self.run_folder.is_complete and not self.from_scratch:
            if ranks.is_first:
                done = self.run_folder.completed()
                print(
                    f"{self.run_folder.path}: finished at step {done['steps']}, nothing to do (--from_scratch starts over)"
                )
            return ranks.close()
        self.config.batch.accumulation_steps(ranks.world_size)
        if ranks.is_first:
            self.run_folder.start(self.configuration, self.from_scratch)
        ranks.barrier()
        model = Encoder(self.model_config, ranks.device).initialise(self.config.seed)
        engine = Engine(model, ranks, self.ds_configs, self.config.engine, self.config.optimizer, self.config.batch)
        store = CheckpointStore(self.run_folder.checkpoints, ranks, self.config.output.keep_last)
        first_step = _resume(engine, store)
        self._announce(model, engine, first_step)
        log = MetricsLog(self.run_folder.path, first_step, self.tensorboard) if ranks.is_first else None
        loop = _Loop(self, ranks, engine, store, log, first_step)
        try:
            loop.run(first_step)
        finally:
            if log is not None:
                log.close()
        if ranks.is_first:
            curves = draw_curves(self.run_folder.path)
            self.run_folder.complete({"steps": self.schedule.num_steps, "version": __version__})
            print(f"done: {self.schedule.num_steps} steps; {self.run_folder.checkpoints}; {curves}", flush=True)
        return ranks.close()

    def _announce(self, model: Encoder, engine: Engine, first_step: int) -> None:
        if not engine.ranks.is_first:
            return
        num_parameters = sum(math.prod(getattr(p, "ds_shape", p.shape)) for p in model.parameters())
        print(
            f"{num_parameters / 1e6:.1f} M parameters, {engine.ranks.world_size} ranks on {engine.ranks.device.type}, "
            f"ZeRO {engine.zero_stage}, {self.config.batch.rows_per_step} x {self.config.data.sequence_length} positions a "
            f"step in {engine.accumulation_steps} micro-batches a rank, {len(self.data.metric_names)} streams"
        )
        for choice in (engine.precision, model.attention_choice):
            print(choice)
        warmup_steps, num_steps = self.config.optimizer.warmup_steps, self.schedule.num_steps
        if warmup_steps >= num_steps:
            print(f"learning rate: warm-up of {warmup_steps} steps ends behind the last of {num_steps}; never at its peak")
        print(f"starting at step {first_step}" if first_step else "starting from scratch", flush=True)


def _resume(engine: Engine, store: CheckpointStore) -> int:
    checkpoint = store.newest_whole()
    if checkpoint is None:
        return 0
    if checkpoint.world_size != engine.ranks.world_size:
        raise InputError(
            f"{checkpoint.folder}: saved by {checkpoint.world_size} ranks, this job has {engine.ranks.world_size}; "
            f"start it on {checkpoint.world_size}"
        )
    saved, present = checkpoint.state["precision"], engine.precision
    if saved != present.value:
        raise InputError(f"{checkpoint.folder}: saved in {saved}, this job has {present}; set engine.precision={saved}")
    engine.load(checkpoint.folder)
    return checkpoint.step


class _Loop:
    """The steps of one process, from resume to end."""

    def __init__(
        self, trainer: Trainer, ranks: Ranks, engine: Engine, store: CheckpointStore, log: MetricsLog | None, first_step: int
    ) -> None:
        self.trainer, self.ranks, self.engine, self.store, self.log = trainer, ranks, engine, store, log
        self.config, self.data = trainer.config, trainer.data
        self.num_steps = trainer.schedule.num_steps
        self.weights_O = torch.tensor(
            [self.config.objective_weights.get(name, 1.0) for name in OBJECTIVES], device=ranks.device
        )
        objective_M = [OBJECTIVE_INDEX[name.split("/")[0]] for name in self.data.metric_names]
        self.objective_M = torch.tensor(objective_M, device=ranks.device)
        self.pending: list[StepRecord] = []
        self.console = ConsoleLine(self.num_steps, first_step)
        self.flushed_at = time.monotonic()
        self.gain_rows = self._held_out_rows()

    def run(self, first_step: int) -> None:
        """Steps first_step .. num_steps - 1, with logging, evaluation and checkpoints."""
        output = self.config.output
        batches = Prefetcher(self._batches_of, first_step, self.num_steps)
        try:
            for step, micro_batches in enumerate(batches, start=first_step):
                self.pending.append(self._step(step, micro_batches))
                done, last = step + 1, step + 1 == self.num_steps
                if done % output.log_every == 0 or done % output.save_every == 0 or last:
                    self._flush()
                if self.gain_rows and (last or done % output.evaluate_every == 0):
                    self._evaluate(done)
                if done % output.save_every == 0 or last:
                    self.store.save(done, self.engine.save, self._state())
        finally:
            batches.close()

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside DeepSpeed's files; the data state is its step alone."""
        return {"precision": self.engine.precision.value, "version": __version__}

    def _batches_of(self, step: int) -> list[PackedBatch]:
        try:
            return self.data.step(step, self.ranks.rank, self.ranks.world_size, self.config.batch.micro_batch_rows)
        except InputError as error:
            raise InputError(str(error), only_here=True) from None

    def _step(self, step: int, micro_batches: list[PackedBatch]) -> StepRecord:
        num_metrics = len(self.data.metric_names)
        counts = sum(np.bincount(b.metric_N, minlength=num_metrics) for b in micro_batches)
        num_tokens = sum(int((b.document_BS >= 0).sum()) for b in micro_batches)
        totals = torch.tensor([*counts.tolist(), num_tokens], dtype=torch.float64, device=self.ranks.device)  # type: ignore[union-attr]
        predicted_M, total_tokens = self.ranks.sum(totals).split([num_metrics, 1])
        predicted_O = torch.zeros(len(OBJECTIVES), dtype=torch.float64, device=self.ranks.device)
        predicted_O.index_add_(0, self.objective_M, predicted_M)
        scales_O = objective_scales(
            self.weights_O, predicted_O.float(), self.ranks.world_size, self.engine.accumulation_steps
        )
        request = LossRequest(scales_O, num_metrics)
        learning_rate = self.config.optimizer.learning_rate(step, self.num_steps)
        torch.manual_seed(key_of(self.config.seed, "dropout", step, self.ranks.rank) % 2**63)
        nll_M = torch.zeros(num_metrics, dtype=torch.float64, device=self.ranks.device)
        for batch in micro_batches:
            filled = fill_placeholders(self.engine.module, to_device(batch, self.ranks.device))
            nll_M += self.engine.forward_backward(filled, request)
            self.engine.update(learning_rate)
        return StepRecord(step, nll_M, predicted_M, total_tokens, learning_rate)

    def _flush(self) -> None:
        """Fetch the pending steps' sums at once, write their lines, print the last interval."""
        nll_TM = self.ranks.sum(torch.stack([record.nll_M for record in self.pending])).cpu()
        predicted_TM = torch.stack([record.predicted_M for record in self.pending]).cpu()
        tokens = [int(record.num_tokens) for record in self.pending]
        now = time.monotonic()
        seconds, self.flushed_at = now - self.flushed_at, now
        if not bool(torch.isfinite(nll_TM).all()):
            bad = int((~torch.isfinite(nll_TM)).any(dim=1).nonzero()[0])
            raise InputError(
                f"step {self.pending[bad].step}: the loss is not finite, and would be again if resumed; start another --run "
                "with a lower optimizer.peak_learning_rate or, with fp16, in bf16"
            )
        names, last = self.data.metric_names, self.pending[-1]
        if self.log is not None:
            rate = sum(tokens) / seconds
            extra = {"gradient_norm": self.engine.gradient_norm, "loss_scale": self.engine.loss_scale}
            lines: list[dict[str, Any]] = [
                {"step": record.step + 1, **mean_losses(names, nll.tolist(), predicted.tolist())}
                | {"learning_rate": record.learning_rate, "tokens": count, "tokens_per_second": rate}
                for record, nll, predicted, count in zip(self.pending, nll_TM, predicted_TM, tokens, strict=True)
            ]
            lines[-1].update({key: value for key, value in extra.items() if value is not None})
            self.log.write(lines)
            losses = mean_losses(names, nll_TM.sum(0).tolist(), predicted_TM.sum(0).tolist())
            print(self.console.format(last.step + 1, losses, last.learning_rate, rate), flush=True)
        self.pending.clear()

    def _held_out_rows(self) -> list[PackedRow]:
        if self.config.output.evaluate_every == 0:
            return []
        pairs = held_out_pairs(self.data.folder, self.config.output.held_out_pairs)
        if len(pairs) < 2:
            return []
        vocab_size = self.data.folder.manifest.vocab_size
        data = self.config.data
        try:
            return gain_rows(pairs, data.corruption, vocab_size, data.sequence_length, self.config.seed)
        except InputError as error:
            if self.log is not None:
                print(f"cross-lingual gain: not measured ({error})")
            return []

    def _evaluate(self, done: int) -> None:
        started = time.monotonic()
        gain = cross_lingual_gain(
            self.engine.module,
            self.gain_rows,
            self.config.data.sequence_length,
            self.ranks.device,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            sum_over_ranks=self.ranks.sum,
        )
        if self.log is not None:
            self.log.write([{"step": done, "cross_lingual_gain": gain.gain, "held_out_loss/CAMLM": gain.nll_true}])
            print(
                f"step {done}: cross-lingual gain {gain.gain:+.3f} nats on held-out pairs "
                f"(shuffled {gain.nll_shuffled:.3f}, true {gain.nll_true:.3f}, {gain.num_predicted} masks)",
                flush=True,
            )
        self.flushed_at += time.monotonic() - started

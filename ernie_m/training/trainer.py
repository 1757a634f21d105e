"""Pre-training, from an opened corpus folder to a finished run: all that happens before and after the steps.

1. All that can be checked is checked before the run folder is touched and before a rank is started.
2. Rank 0 holds the run folder's lock; a watchdog looks after all ranks.
3. The newest whole checkpoint, made by any number of ranks, fills model and optimizer; its probe is computed again.
   Without one, weights are drawn from the seed, or read from where the recipe says (`init_from`).
4. The steps: ernie_m.training.training_loop. However they end, RUN says why: ernie_m.training.endings.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ernie_m import __version__
from ernie_m.base.config import to_mapping
from ernie_m.base.console import Choice, InputError, reason_of
from ernie_m.base.files import write_json
from ernie_m.base.interruption import Interruption
from ernie_m.base.run_files import DATA_IDENTITY, START_FILE
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.build_model import architecture_of, check_fits
from ernie_m.interop.start import check_starts, starts_of, step_zero
from ernie_m.interop.start_weights import Target
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.rows.dataloader import PretrainingData, to_device
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.schedule import Schedule
from ernie_m.runs.best_checkpoint import best_folder
from ernie_m.runs.checkpoint import CHECKPOINT_BYTES, PROBE_FILE, Checkpoint, committed_folders, problem_of_room, step_of
from ernie_m.runs.checkpoint_commit import Retention
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.data_identity import data_identity
from ernie_m.runs.fragments import FragmentReader
from ernie_m.runs.host_copy import choose_saving
from ernie_m.runs.metrics import draw_curves
from ernie_m.runs.ranks import START_PATIENCE, Ranks
from ernie_m.runs.run_folder import RunFolder, identity_of
from ernie_m.runs.skip_steps import SkipSteps, first_new
from ernie_m.training.checkpoint_probe import check_probe, probe_loss, read_probe
from ernie_m.training.endings import ending_by_rule
from ernie_m.training.engine import Engine, start_ranks
from ernie_m.training.held_out import bleu_lines
from ernie_m.training.journal import Journal
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.training_loop import RunServices, TrainingLoop
from ernie_m.training.watchdog import Watchdog


class Trainer:
    """One pre-training run. `run` resumes by itself; a finished run is left alone."""

    def __init__(
        self,
        config: TrainingConfig,
        data: Path,
        run: Path,
        ds_configs: Path,
        from_scratch: bool = False,
        trackers: Sequence[str] = (),
        exit_after: float | None = None,
        skip_steps: str | None = None,
        demanded_ranks: int | None = None,
    ) -> None:
        """`trackers`: of ernie_m.training.tracking; `exit_after`: seconds from now; `skip_steps`: e.g. "1200:1300"."""
        self.demanded_ranks = demanded_ranks
        self.interruption = Interruption(exit_after)
        self.config, self.ds_configs = config, ds_configs
        self.folder = CorpusFolder(data)
        manifest = self.folder.manifest
        goes_on = None if from_scratch else run
        self.architecture = architecture_of(config.shape, manifest.specials, len(manifest.languages), goes_on)
        self.schedule = Schedule(config.weights.drawn(config.stages), config.batch.rows_per_step)
        self.data = PretrainingData(self.folder, config.data, self.schedule, config.seed)
        config.factors_of(self.data.metrics)  # a stream that is not there is refused before anything is written
        self.run_folder = RunFolder(run)
        self.from_scratch, self.trackers = from_scratch, trackers
        self.asked = SkipSteps.parse(skip_steps or "", self.schedule.num_steps)
        self.configuration = to_mapping(config) | {
            "model": to_mapping(self.architecture.config),
            DATA_IDENTITY: data_identity(data, manifest, self.architecture.config),
        }
        self.run_folder.check(self.configuration, from_scratch)
        self._check_skipped()
        self.start = Target.of(self.architecture.config, data, manifest)
        check_fits(self.architecture, config.data, self.start)
        bleu_lines(config, self.folder)
        self.starts = starts_of(self.configuration)
        if from_scratch or not committed_folders(self.run_folder.checkpoints):
            check_starts(self.starts, self.start, run)

    def run(self) -> None:
        """Train to the last step of the last stage, from the newest whole checkpoint if there is one.

        Ends the process with EXIT_STOPPED when asked to stop, with EXIT_PEER_LOST when another rank is lost: endings.py.
        """
        self.interruption.listen()
        ranks = start_ranks()
        self._check_ranks(ranks)
        self.config.batch.accumulation_steps(ranks.world_size)  # before anything is written
        if self.run_folder.is_complete and not self.from_scratch:
            done = self.run_folder.completed()["steps"]
            if ranks.is_first:
                print(f"{self.run_folder.path}: finished at step {done}, nothing to do (--from_scratch starts over)")
            return ranks.close()
        with contextlib.ExitStack() as held:
            is_owner = self._hold_folder(ranks, held)
            if ranks.is_first:
                self.interruption.watch(self.run_folder.path)
            watchdog = self._watchdog(ranks)
            with ending_by_rule(ranks, watchdog, self.run_folder, self.interruption):
                self._train(ranks, watchdog, is_owner)
        return ranks.close()

    def _check_skipped(self) -> None:
        """Raise InputError where nothing would be left to train, or all is trained already."""
        remembered = SkipSteps() if self.from_scratch else SkipSteps.read(self.run_folder.path)
        if remembered.union(self.asked).next_kept(0) >= self.schedule.num_steps:
            raise InputError(f"--skip_steps {self.asked}: with these no step of {self.schedule.num_steps} is left to train")
        new = first_new(remembered, self.asked)
        if new is not None and self.run_folder.is_complete and not self.from_scratch:
            raise InputError(
                f"--skip_steps {self.asked}: {self.run_folder.path} is finished, and step {new} was trained; remove its "
                "COMPLETE, and the same command goes back to the newest checkpoint before that step"
            )

    def _watchdog(self, ranks: Ranks) -> Watchdog:
        return Watchdog.meet(
            ranks.rank,
            ranks.world_size,
            self.run_folder.path,
            ranks.from_first,
            address=ranks.address,
            timeout_seconds=self.config.output.dead_after_seconds,
            hang_timeout_seconds=self.config.output.hung_after_seconds,
        )

    def _check_ranks(self, ranks: Ranks) -> None:
        if self.demanded_ranks not in (None, ranks.world_size):
            raise InputError(
                f"--ranks {self.demanded_ranks}: these are {ranks.world_size}, started by {ranks.launcher}; is the hostfile "
                "there? deepspeed takes this machine alone when it is not"
            )

    def _hold_folder(self, ranks: Ranks, held: contextlib.ExitStack) -> Callable[[], bool]:
        """Rank 0 locks the run folder for all and makes it ready; raises InputError on every rank when it cannot."""
        is_owner: Callable[[], bool] = lambda: True  # noqa: E731
        problem = None
        if ranks.is_first:
            try:
                is_owner = held.enter_context(self.run_folder.locked())
                self.run_folder.start(self.configuration, self.from_scratch)
            except InputError as error:
                problem = str(error)
            except OSError as error:
                problem = f"{error.filename or self.run_folder.path}: {reason_of(error)}; nothing was started"
        problem = ranks.from_first(problem)
        if problem:
            raise InputError(problem)
        return is_owner

    def _train(self, ranks: Ranks, watchdog: Watchdog, is_owner: Callable[[], bool]) -> None:
        output = self.config.output
        with watchdog.allow_silence(START_PATIENCE, "starting"):
            best = partial(best_folder, self.run_folder.path) if output.keep_best else None
            retention = Retention(output.keep_last, output.keep_every, best)
            store = CheckpointStore(
                self.run_folder.checkpoints,
                ranks.voters,
                retention,
                identity_of(self.configuration),
                is_owner,
                lambda: watchdog.progress("reading or writing a checkpoint", shared=False),
            )
            skipped, checkpoint = self._skipped_steps(ranks, store)
            first_step = checkpoint.step if checkpoint else 0
            engine = self._engine(ranks, checkpoint)
            self._compile(engine)
            size = self._state_bytes(engine)
            saving = choose_saving(output.save_in_background, size, ranks.local_world_size)
            saves_in_background = ranks.all_agree(saving.value != "synchronous")
            if saves_in_background:
                store.prepare(size, on_gpu=ranks.device.type == "cuda")
            journal = self._journal(first_step) if ranks.is_first else None
            self._announce(engine, saving, checkpoint, skipped)
            services = RunServices(ranks, store, watchdog, self.interruption, journal, skipped, saves_in_background)
            loop = TrainingLoop(self.config, self.data, engine, services)
            measured = ranks.from_first(journal.measured_steps if journal else None)
        try:
            loop.run(first_step, loop.needs_evaluation(first_step, measured))
        finally:
            if journal is not None:
                journal.close()
        if ranks.is_first:
            curves = draw_curves(self.run_folder.path)
            self.run_folder.complete({"steps": self.schedule.num_steps, "version": __version__})
            print(f"done: {self.schedule.num_steps} steps; {self.run_folder.checkpoints}; {curves}", flush=True)

    def _compile(self, engine: Engine) -> None:
        """Compile before the first step, while the watchdog allows it. All micro-batches have the same shape."""
        rows = [PackedRow([], 0, 0)] * self.config.batch.micro_batch_rows
        batch = to_device(pack(rows, self.config.data.sequence_length), engine.ranks.device)
        engine.module.compile_for(batch)

    def _journal(self, first_step: int) -> Journal:
        return Journal(self.run_folder.path, self.config, self.data, self.configuration, first_step, self.trackers)

    @staticmethod
    def _state_bytes(engine: Engine) -> int:
        """Bytes of a rank's fragments when Adam has its moments."""
        return sum(CHECKPOINT_BYTES * fragment.weight.numel() for fragment in engine.fragments())

    def _skipped_steps(self, ranks: Ranks, store: CheckpointStore) -> tuple[SkipSteps, Checkpoint | None]:
        """The steps to leave out (earlier starts' too), and the checkpoint to go on from: from before the first new one."""
        remembered = SkipSteps.read(self.run_folder.path)
        new, skipped = first_new(remembered, self.asked), remembered.union(self.asked)
        checkpoint = store.newest_whole(at_most=new)
        if new is None:
            return skipped, checkpoint
        later = committed_folders(store.folder)
        if checkpoint is None and later:
            raise InputError(
                f"--skip_steps {self.asked}: no checkpoint from before step {new}, the oldest is {later[-1].name}; "
                f"name steps from {step_of(later[-1])} on, or start over with --from_scratch"
            )
        ranks.barrier()  # all have read; and the file comes last, so that a kill before it changes nothing
        store.abandon_after(checkpoint.step if checkpoint else 0)
        if ranks.is_first:
            skipped.write(self.run_folder.path)
        return skipped, checkpoint

    def _engine(self, ranks: Ranks, checkpoint: Checkpoint | None) -> Engine:
        """The model under DeepSpeed: as at step 0, or as in the checkpoint, and then checked by its probe."""
        reader = FragmentReader(checkpoint.folder) if checkpoint else None
        if reader:
            model = self.architecture.empty(ranks.device)
            reader.fill_weights(model)
        else:
            model = self._initialised(ranks)
        knobs = (self.config.engine, self.config.optimizer, self.config.batch, self.schedule.trains_parts)
        engine = Engine(model, ranks, self.ds_configs, *knobs)
        if checkpoint is None or reader is None:
            return engine
        saved, present = checkpoint.state["precision"], engine.precision
        if saved != present.value and self.config.engine.precision == "auto":
            raise InputError(
                f"{checkpoint.folder}: saved in {saved}, this job has {present}; set engine.precision={saved}, or "
                f"engine.precision={present.value} to go on in another precision"
            )
        engine.restore(reader, checkpoint.state["counters"])
        replayed = probe_loss(engine.module, read_probe(checkpoint.folder / PROBE_FILE), ranks.device)
        looser = saved if saved != "fp32" else present.value
        check_probe(checkpoint.state["probe_loss"], replayed, looser, checkpoint.folder)
        return engine

    def _initialised(self, ranks: Ranks) -> PretrainingModel:
        """The model of step 0; what of it the run will need later is in its folder before a checkpoint is."""
        config = self.config
        zero = step_zero(self.architecture, config.seed, self.starts, self.start, ranks.voters, ranks.device)
        if ranks.is_first and zero.starts:
            print(*(line for started in zero.starts for line in started.lines()), sep="\n", flush=True)
            write_json(self.run_folder.path / START_FILE, zero.recorded())
        if ranks.is_first:
            zero.keep(self.run_folder.path)
        return zero.model

    def _announce(self, engine: Engine, saving: Choice, checkpoint: Checkpoint | None, skipped: SkipSteps) -> None:
        if not engine.ranks.is_first:
            return
        first_step, num_ranks = checkpoint.step if checkpoint else 0, engine.ranks.world_size
        if checkpoint and num_ranks < checkpoint.world_size:
            was = f"{num_ranks} ranks, the job before had {checkpoint.world_size}"
            print(f"alarm: {was}; if this is not intended, stop this one and look at --hostfile (--ranks demands a number)")
        if problem := problem_of_room(self.run_folder.checkpoints, engine.num_parameters):
            print(f"alarm: {problem}", file=sys.stderr, flush=True)
        millions = engine.num_parameters / 1e6
        print(
            f"{millions:.1f} M parameters, {engine.ranks.world_size} ranks on {engine.ranks.device.type}, "
            f"ZeRO {engine.zero_stage}, {self.config.batch.rows_per_step} x {self.config.data.sequence_length} positions a "
            f"step in {engine.accumulation_steps} micro-batches a rank, {len(self.data.metrics)} streams"
        )
        exchange, model = engine.exchange, engine.module
        chosen = (engine.ranks.interface, engine.precision, *model.choices)
        for choice in (*chosen, exchange.sums, exchange.reduction, exchange.overlap, saving):
            print(choice)
        for line in self.config.without_effect:
            print(line)
        for line in self.data.too_long():
            print(f"alarm: {line}", file=sys.stderr, flush=True)
        if skipped:
            print(f"left out: steps {skipped}")
        given = [*self.starts.values(), *filter(None, [getattr(self.config.model, "backbone", None)])]
        origin = f"with the weights of {' and '.join(dict.fromkeys(given))}" if given else "from scratch"
        print(f"starting at step {first_step}" if first_step else f"starting {origin}", flush=True)

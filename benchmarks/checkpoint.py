"""How long does the training wait for a checkpoint, and how fast is one verified and taken up again?

    python benchmarks/checkpoint.py [--folder /tmp] [--saves 4]
    OMP_NUM_THREADS=1 deepspeed --num_gpus 2 benchmarks/checkpoint.py [--folder /tmp]

A model of 78 M parameters (312 MB of fp32 weights, 937 MB with Adam's moments) makes a few real steps in ZeRO 1; then, in
the same process and on the same disk:

1. synchronous and background saves of the real CheckpointStore in turn. The stall is what the training waits for: in the
   background the forward of the probe row and the copy to host memory. Target: <= 5 % of a synchronous save (which has
   the probe as well), which decides the exit code.
2. steps with and without a save behind them.
3. the peers: torch.save, DeepSpeed's save_checkpoint, torch.distributed.checkpoint's async_save (none hashes, votes or
   fsyncs; the last is awaited for its own sake).
4. verification against sha256sum over the same files (in the page cache, as after a save), and resuming from them.

Linux alone. The folder must not be tmpfs: the kind of its file system is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from ernie_m.base.special_tokens import FIRST_PIECE_ID, Specials
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import Example, LossRequest, PackedBatch
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import LOSS_INDEX, OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.runs.checkpoint import committed_folders, verify
from ernie_m.runs.checkpoint_commit import Retention
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.fragments import FragmentReader
from ernie_m.runs.ranks import Ranks
from ernie_m.training.checkpoint_probe import MOST_PREDICTED, POSITIONS, probe_loss
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
from ernie_m.training.optimizer import OptimizerConfig

MODEL = ModelConfig(
    num_layers=2, hidden_size=768, num_heads=12, ffn_size=3072, vocab_size=83_000, num_languages=3, dropout=0.0
)
LENGTH, ROWS = 128, 2
TARGET = 0.05
DS_CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"


def made_batch(seed: int, num_rows: int = ROWS, length: int = LENGTH) -> PackedBatch:
    """Rows of MMLM of random ids."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        ids = rng.integers(FIRST_PIECE_ID, MODEL.vocab - 1, length - 2, dtype=np.int32)
        layout = Layout(OBJECTIVES["MMLM"], CorruptionConfig(), Specials.xlm_r(MODEL.vocab))
        document = layout.lay_out(Example((ids,), (1,)), key=1000 * seed + len(rows))
        rows.append(PackedRow([document], OBJECTIVE_INDEX["MMLM"], 0))
    return pack(rows, length)


class Bench:
    """One engine, one store and what is measured on them."""

    def __init__(self, ranks: Ranks, folder: Path, saves: int) -> None:
        self.ranks, self.folder, self.saves = ranks, folder, saves
        self.engine = self.new_engine(Encoder(MODEL).initialise(0))
        self.store = CheckpointStore(folder / "ours", ranks.voters, Retention(keep_last=1))
        batch = made_batch(0, 1, POSITIONS)
        self.batch = to_device(made_batch(ranks.rank + 1), ranks.device)
        arrays = {name: a for name, a in vars(batch).items() if isinstance(a, np.ndarray)}
        arrays |= {name: a[:MOST_PREDICTED] for name, a in arrays.items() if name.endswith("_N")}
        self.probe = {name: torch.from_numpy(a) for name, a in arrays.items()}
        self.steps_done = 0

    def new_engine(self, model: Encoder) -> Engine:
        batch = BatchConfig(rows_per_step=ROWS * self.ranks.world_size, micro_batch_rows=ROWS)
        config = EngineConfig(zero_stage=1, precision="fp32")
        return Engine(model, self.ranks, DS_CONFIGS, config, OptimizerConfig(), batch)

    def say(self, text: str) -> None:
        if self.ranks.is_first:
            print(text, flush=True)

    def step(self) -> float:
        """Seconds of one training step."""
        started = time.perf_counter()
        scales_L = torch.full((len(LOSS_INDEX),), 1e-2)
        self.engine.forward_backward(self.batch, LossRequest(scales_L, 1))
        self.engine.update(1e-5)
        self.steps_done += 1
        return time.perf_counter() - started

    def state(self) -> dict[str, torch.Tensor]:
        return {key: view for fragment in self.engine.fragments() for key, view in fragment.tensors()}

    def save(self, in_background: bool) -> tuple[float, float]:
        """Save as the training loop does; seconds of the probe, seconds that `save` held us up."""
        self.ranks.barrier()
        started = time.perf_counter()
        probe_loss(self.engine.module, self.probe, self.ranks.device)
        probed = time.perf_counter()
        self.store.save(self.steps_done, self.state(), {}, self.probe, in_background)
        return probed - started, time.perf_counter() - probed

    def finish(self) -> float:
        """Wait for the last save; seconds from its start to its commit."""
        saved = self.store.finished(wait=True)
        if saved is None or saved.problem is not None:
            raise SystemExit(f"the save failed: {saved}")
        self.ranks.barrier()  # the older one is deleted
        return saved.seconds

    # -- what is measured ----------------------------------------------------------------------------------------

    def stall(self) -> bool:
        """Saves of both kinds in turn; whether the target is kept."""
        synchronous, background, probes, written = [], [], [], []
        for number in range(self.saves + 1):
            self.step()
            probe, held = self.save(in_background=True)
            written.append(self.finish())
            if number == 0:
                self.say(f"background save, first: stall {held:.3f} s copy + {probe:.3f} s probe")
            else:
                background.append(held)
                probes.append(probe)
            self.step()
            probe, held = self.save(in_background=False)
            self.finish()
            synchronous.append(probe + held)
        whole, copy, probe = map(statistics.median, (synchronous, background, probes))
        self.say(f"synchronous save: {whole:.2f} s ({spread(synchronous)})")
        self.say(
            f"background save: stall {copy:.3f} s copy ({spread(background)}) + {probe:.3f} s probe; "
            f"whole {spread(written)} s"
        )
        for what, seconds in (("copy", copy), ("copy and probe", copy + probe)):
            verdict = "kept" if seconds <= TARGET * whole else "MISSED"
            self.say(f"stall / synchronous, {what}: {100 * seconds / whole:.1f} %; target {100 * TARGET:.0f} %: {verdict}")
        return copy + probe <= TARGET * whole

    def slow_down(self) -> None:
        """Steps beside a save against steps alone."""
        alone, beside = [self.step() for _ in range(4)], []
        for _ in range(3):
            self.save(in_background=True)
            saved = None
            while saved is None:
                beside.append(self.step())
                saved = self.store.finished()
                saved = saved if self.ranks.all_agree(saved is not None) else None
            alone += [self.step() for _ in range(3)]
        a, b = statistics.median(alone), statistics.median(beside)
        self.say(
            f"steps: {1 / a:.2f} /s alone, {1 / b:.2f} /s while a save is written ({len(beside)} steps): "
            f"{b / a:.2f} x as long"
        )

    def peers(self) -> None:
        """What others do with the same state."""
        state = self.state()
        mine = self.folder / f"torch_{self.ranks.rank}.pt"

        def torch_save() -> None:
            torch.save(state, mine)

        self.peer("torch.save of every rank's state", torch_save)
        self.peer("the same with fsync", lambda: (torch_save(), sync(mine)))
        deepspeed_engine = self.engine._engine
        self.peer(
            "DeepSpeed save_checkpoint", lambda: deepspeed_engine.save_checkpoint(str(self.folder / "deepspeed"), tag="t")
        )
        with quiet():
            group = dist.new_group(backend="gloo")

        def asynchronous() -> Any:
            return dcp.async_save(dict(state), checkpoint_id=self.folder / "dcp", process_group=group)

        for number in range(2):
            self.ranks.barrier()
            started = time.perf_counter()
            with quiet():
                future = asynchronous()
                stalled = time.perf_counter() - started
                future.result()
            whole = time.perf_counter() - started
            self.say(
                f"peer: torch.distributed.checkpoint async_save, {'later' if number else 'first'}: stall {stalled:.3f} s, "
                f"whole {whole:.2f} s: {100 * stalled / whole:.0f} %"
            )

    def peer(self, name: str, save: Callable[[], object]) -> None:
        seconds = []
        for _ in range(3):
            self.ranks.barrier()
            started = time.perf_counter()
            save()
            self.ranks.barrier()
            seconds.append(time.perf_counter() - started)
        self.say(f"peer: {name}: {statistics.median(seconds):.2f} s ({spread(seconds)}), all of it stall")

    def verification(self) -> None:
        """Rank 0 alone: our reading of hashes against sha256sum."""
        if not self.ranks.is_first:
            return
        (newest,) = committed_folders(self.folder / "ours")
        files = sorted(newest.glob("*.safetensors"))
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        ours, theirs = [], []
        for _ in range(3):
            started = time.perf_counter()
            verify(newest)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
            theirs.append(time.perf_counter() - started)
        a, b = megabytes / min(ours), megabytes / min(theirs)
        print(f"verification on one core: {a:,.0f} MB/s, sha256sum {b:,.0f} MB/s: {a / b:.2f}", flush=True)

    def resume(self) -> None:
        """Verify with all ranks, fill a new model and its optimizer, replay the probe."""
        self.save(in_background=False)
        self.finish()
        expected = probe_loss(self.engine.module, self.probe, self.ranks.device)
        (newest,) = committed_folders(self.folder / "ours")
        size = sum(path.stat().st_size for path in newest.glob("*.safetensors")) / 1e9
        counters = self.engine.counters()
        self.ranks.barrier()
        started = time.perf_counter()
        checkpoint = self.store.newest_whole()
        verified = time.perf_counter()
        model = Encoder(MODEL)
        made = time.perf_counter()
        reader = FragmentReader(newest)
        reader.fill_weights(model)
        filled = time.perf_counter()
        engine = self.new_engine(model)
        wrapped = time.perf_counter()
        engine.restore(reader, counters)
        self.ranks.barrier()
        ended = time.perf_counter()
        assert checkpoint is not None
        if probe_loss(engine.module, self.probe, self.ranks.device) != expected:
            self.say("the probe differs after resuming")
        loaded = filled - made + ended - wrapped
        other, total = made - verified + wrapped - filled, verified - started + loaded
        self.say(
            f"resume of {size:.2f} GB: verify {verified - started:.2f} s, load {loaded:.2f} s: {total / size:.2f} s/GB "
            f"(and {other:.2f} s to make model and engine)"
        )


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.3f}-{max(seconds):.3f}"


def sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Measure in a folder of its own, removed behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ranks = start_ranks()
    folder = Path(ranks.from_first(tempfile.mkdtemp(dir=options.folder) if ranks.is_first else None))
    try:
        bench = Bench(ranks, folder, options.saves)
        bench.step()
        bench.store.prepare(4 * sum(tensor.numel() for tensor in bench.state().values()), on_gpu=False)
        size = sum(tensor.numel() * 4 for tensor in bench.state().values())
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
        parameters = sum(p.numel() for p in bench.engine.module.parameters())
        bench.say(
            f"{parameters / 1e6:.1f} M parameters, {4 * parameters / 1e6:.0f} MB of weights; {ranks.world_size} ranks, "
            f"{torch.get_num_threads()} threads each, {size / 1e6:.0f} MB of state on rank 0; {folder} on {kind}"
        )
        kept = bench.stall()
        bench.slow_down()
        bench.verification()
        bench.resume()
        bench.peers()
    finally:
        ranks.barrier()
        if ranks.is_first:
            shutil.rmtree(folder, ignore_errors=True)
    ranks.close()
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()

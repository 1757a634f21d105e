"""What training_speed.py and gpu_speed.py measure, each in a process of its own: our training step, the loader, the machine.

A run returns lists with an item for each measured step: "tokens" (real ones: no padding), "positions" (with it),
"pairs" (that attention reads), "predicted", "seconds", "waiting" (for the loader, inside of seconds; beside a GPU that
still works, a bound), and "peak_memory", bytes: of the process, or of a GPU's allocator. "warm_up" are the seconds of the
steps before.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ernie_m.base.special_tokens import FIRST_POSITION_ID
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.prefetcher import Prefetcher
from ernie_m.rows.read_pairs import pairs_read
from ernie_m.rows.schedule import Schedule, StageConfig

DS_CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEARNING_RATE = 1e-5
FULL = 0.97  # share of real tokens from which rows count as full
ENOUGH_SECONDS = 5.0  # for products of one size
WARM_UP_STEPS = 2  # Adam's moments are made in the first; the loader has not run ahead yet
Result = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Size of the measurement; both sides take the same."""

    data: str
    layers: int
    hidden: int
    length: int
    rows: int
    steps: int
    dropout: float
    zero_stage: int
    peer_pairs: int = 32
    loader_rows: int = 2000
    attention: str = "auto"
    checkpointing: bool = False
    compiled: bool = False
    """Layers under torch.compile, all but the last, whose number of positions differs from step to step."""

    def model(self, folder: CorpusFolder) -> ModelConfig:
        return ModelConfig(
            num_layers=self.layers,
            hidden_size=self.hidden,
            num_heads=self.hidden // 64,
            ffn_size=4 * self.hidden,
            vocab_size=folder.manifest.vocab_size,
            num_languages=len(folder.language_ids),
            max_positions=self.length + FIRST_POSITION_ID,
            dropout=self.dropout,
            attention=self.attention,  # type: ignore[arg-type]
            activation_checkpointing=self.checkpointing,
        )

    def pretraining_data(self, objective: str, ranks: int = 1) -> PretrainingData:
        stage = StageConfig(steps=1_000_000, rows={objective: 1})
        schedule = Schedule((stage,), self.rows * ranks)
        return PretrainingData(CorpusFolder(self.data), DataConfig(sequence_length=self.length), schedule, seed=0)


def mark() -> Any:
    """This moment: by the host's clock or, on a GPU, by the device's, when it comes to here in its queue."""
    if DEVICE.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(marks: Sequence[tuple[Any, Any]]) -> list[float]:
    """Seconds from the first to the second moment of each pair; waits for a GPU."""
    if DEVICE.type == "cpu":
        return [last - first for first, last in marks]
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1000 for first, last in marks]


def peak_memory() -> int:
    """Largest number of bytes so far: of a GPU's allocator, else this process's (ru_maxrss would inherit the parent's)."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def real_tokens(batch: PackedBatch) -> int:
    return int((np.asarray(batch.document_BS) >= 0).sum())


def full_steps(setup: Setup, data: PretrainingData) -> list[int]:
    """The first steps, for running text those whose rows are full (the last row of a small stream's window seldom is): the
    same for both sides. Of pairs every step counts: how well they fill is what is compared."""
    is_text = all(name == "MMLM" for name in data.schedule.objectives)
    steps = (step for step in itertools.count() if not is_text or _fill(setup, data, step) >= FULL)
    return list(itertools.islice(steps, WARM_UP_STEPS + setup.steps))


def _fill(setup: Setup, data: PretrainingData, step: int) -> float:
    rows = [data.row(address).num_tokens for address in data.schedule.rows_of_step(step)]
    return sum(rows) / (setup.rows * setup.length)


# -- ours ----------------------------------------------------------------------------------------------------------


class OurTraining:
    """The engine, the model and a step as ernie_m.training.training_loop makes it, one micro-batch a step."""

    def __init__(self, setup: Setup, data: PretrainingData, precision: str) -> None:
        from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, start_ranks
        from ernie_m.training.optimizer import OptimizerConfig

        self.ranks, self.num_metrics = start_ranks(), len(data.metrics)
        config = EngineConfig(zero_stage=setup.zero_stage, precision=precision)  # type: ignore[arg-type]
        batch = BatchConfig(rows_per_step=setup.rows, micro_batch_rows=setup.rows)
        model = _encoder(setup.model(data.folder))
        self.engine = Engine(model, self.ranks, DS_CONFIGS, config, OptimizerConfig(), batch)
        self.engine.module.train()
        if setup.compiled:
            for layer in list(self.engine.module.layers)[:-1]:
                layer.compile(dynamic=False)

    def step(self, batch: PackedBatch) -> None:
        from ernie_m.models.loss import loss_scales
        from ernie_m.models.pseudo_parallel import fill_placeholders

        predicted_O = torch.from_numpy(np.bincount(batch.loss_N, minlength=len(LOSS_INDEX))).float()
        scales_L = loss_scales(torch.ones(len(LOSS_INDEX)), predicted_O, 1, 1).to(self.ranks.device)
        filled = fill_placeholders(self.engine.module, to_device(batch, self.ranks.device))
        self.engine.forward_backward(filled, LossRequest(scales_L, self.num_metrics))
        self.engine.update(LEARNING_RATE)


def _encoder(shape: ModelConfig) -> Encoder:
    """Random weights. On a GPU drawn there: drawing a large model's on the host takes longer than measuring it."""
    if DEVICE.type == "cpu":
        return Encoder(shape).initialise(0)
    with torch.device(DEVICE):
        model = Encoder(shape, DEVICE)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=shape.initializer_range)
    return model


def timed_steps(
    prepared: Iterator[Any], step: Callable[[Any], None], count: Callable[[Any], Result], setup: Setup
) -> Result:
    """Run all steps; what `count` and the clock say of those behind the warm-up."""
    counts, waiting, marks = [], [], []
    for _ in range(WARM_UP_STEPS + setup.steps):
        begin, started = mark(), time.perf_counter()
        item = next(prepared)
        waiting.append(time.perf_counter() - started)
        step(item)
        marks.append((begin, mark()))
        counts.append(count(item))
    seconds, measured = seconds_between(marks), slice(WARM_UP_STEPS, None)
    lists = {key: [counted[key] for counted in counts[measured]] for key in counts[0]}
    lists |= {"seconds": seconds[measured], "waiting": waiting[measured], "warm_up": seconds[:WARM_UP_STEPS]}
    return {**lists, "peak_memory": peak_memory()}


def ours(setup: Setup, objective: str, precision: str) -> Result:
    """Rows from the data folder, prepared on a thread beside the training, as in a job."""
    data = setup.pretraining_data(objective)
    training = OurTraining(setup, data, precision)
    steps = full_steps(setup, data)
    batches = Prefetcher(lambda number: data.step(steps[number], 0, 1, setup.rows)[0], 0, len(steps))

    def count(batch: PackedBatch) -> Result:
        sizes = {"tokens": real_tokens(batch), "positions": batch.document_BS.size, "pairs": pairs_read(batch)}
        return sizes | {"predicted": len(batch.predicted_N)}

    module, result = training.engine.module, timed_steps(iter(batches), training.step, count, setup)
    choices = f"{module.attention_choice}; {module.layer_norm_choice}"
    return {**result, "attention": module.attention_choice.value, "choices": choices}


def btmlm(setup: Setup, precision: str) -> Result:
    """Seconds of steps with both stages, and of the second stage alone (an MMLM step on the same rows), in turn."""
    data = setup.pretraining_data("BTMLM")
    training = OurTraining(setup, data, precision)
    marks: dict[str, list[tuple[Any, Any]]] = {"BTMLM": [], "MMLM": []}
    for number in range(WARM_UP_STEPS + setup.steps):
        (batch,) = data.step(number, 0, 1, setup.rows)
        for name, part in (("BTMLM", batch), ("MMLM", replace(batch, generation=None))):
            begin = mark()
            training.step(part)
            marks[name].append((begin, mark()))
    return {name: seconds_between(pairs)[WARM_UP_STEPS:] for name, pairs in marks.items()}


def profile(setup: Setup, objective: str, precision: str) -> Result:
    """torch.profiler's table of a step of ours, printed."""
    data = setup.pretraining_data(objective)
    training = OurTraining(setup, data, precision)
    batches = [data.step(number, 0, 1, setup.rows)[0] for number in full_steps(setup, data)[: WARM_UP_STEPS + 1]]
    for batch in batches[:-1]:
        training.step(batch)
    with torch.profiler.profile(record_shapes=True) as recorded:
        training.step(batches[-1])
    tables = [recorded.key_averages(group_by_input_shape=shapes) for shapes in (False, True)]
    order = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    texts = [table.table(sort_by=order, row_limit=18, max_name_column_width=40) for table in tables]
    return {"table": "\n".join(texts)}


# -- machine --------------------------------------------------------------------------------------------


def matmul_peak(setup: Setup, precision: str) -> Result:
    """Best FLOP/s of a square product, over sizes and tries, and the median of the size that it was reached with."""
    sizes, tries = ((2048, 4096), 5) if DEVICE.type == "cpu" else ((8192, 16384), 30)
    found, begun = [], time.monotonic()
    for size in sizes:
        if found and time.monotonic() - begun > ENOUGH_SECONDS:  # a slow CPU comes to its peak with smaller ones
            break
        a, b = (torch.randn(size, size, device=DEVICE).to(DTYPES[precision]) for _ in range(2))
        marks = []
        for _ in range(tries):
            begin = mark()
            torch.mm(a, b.t())
            marks.append((begin, mark()))
        rates = [2 * size**3 / seconds for seconds in seconds_between(marks)]
        found.append((max(rates), statistics.median(rates)))
    best, usual = max(found)
    return {"flops": best, "median": usual}

"""Which ZeRO stage, micro-batch and activation checkpointing to use for a recipe on given devices, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.base import devices
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json
from ernie_m.models import flops
from ernie_m.planning import memory, speed, step
from ernie_m.rows.objective import TOKEN
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.training.gradient_exchange import choose_exchange

if TYPE_CHECKING:
    from ernie_m.models.shape import ModelConfig
    from ernie_m.rows.schedule import StageConfig
    from ernie_m.training.recipe import TrainingConfig

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
REFUSED = (("fp16", 0),)
"""DeepSpeed's stage 0 skips the loss scale: EngineConfig refuses it."""


@dataclass(frozen=True)
class Plan:
    """One way to run. `micro_batch`: 0 if not even one row fits. `step_seconds`: of each of the recipe's stages."""

    precision: str
    zero_stage: int
    checkpointing: bool
    micro_batch: int
    accumulation: int
    moment: str
    memory: memory.Memory
    fits: bool
    step_seconds: tuple[float, ...] = ()
    shares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the first stage's step: computing, optimizer, communication."""
    days: float = float("inf")

    def keys(self) -> str:
        """The recipe's keys that choose this plan."""
        return (
            f"engine.zero_stage={self.zero_stage} engine.precision={self.precision} "
            f"batch.micro_batch_rows={self.micro_batch} model.activation_checkpointing={str(self.checkpointing).lower()}"
        )


@dataclass(frozen=True)
class Job:
    """A recipe on hosts (name -> ranks) with a device for each rank; `buckets`: (stage, precision) -> bucket elements.

    `model`: the shape that its model is counted by.
    `keys`: objective -> keys that a token reads, counted on rows of data; empty: whole rows.
    """

    config: TrainingConfig
    model: ModelConfig
    hosts: Mapping[str, int]
    device: devices.Device
    buckets: Mapping[tuple[int, str], int]
    keys: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_ranks(self) -> int:
        return sum(self.hosts.values())

    @property
    def precision(self) -> str:
        """The recipe's precision, or what `auto` will be on this device."""
        asked = self.config.engine.precision
        return self.device.half if asked == "auto" else asked

    def precisions(self) -> list[str]:
        """Precisions to compare, the job's own first; all of the device's where the recipe says auto."""
        if self.precision not in self.device.peaks:
            raise InputError(
                f"engine.precision: {self.precision}; expected one of a {self.device.name}: {', '.join(self.device.peaks)}"
            )
        others = self.device.peaks if self.config.engine.precision == "auto" else ()
        return [self.precision, *(name for name in others if name != self.precision)]


def bucket_elements(ds_configs: Path) -> dict[tuple[int, str], int]:
    """(ZeRO stage, precision) -> reduce_bucket_size, where their file in ds_configs/ sets one."""
    found = {}
    for stage in range(4):
        for precision in PRECISION_BYTES:
            path = ds_configs / f"zero{stage}_{precision}.json"
            if path.is_file():
                content: dict[str, Any] = read_json(path)
                size = content.get("zero_optimization", {}).get("reduce_bucket_size")
                if size is not None:
                    found[stage, precision] = int(float(size))
    return found


def plans(job: Job) -> list[Plan]:
    """The largest micro-batch of each precision, ZeRO stage and with or without checkpointing, with its time."""
    rows, ranks = job.config.batch.rows_per_step, job.num_ranks
    if rows % ranks:
        nearest = max(n for n in range(1, ranks) if rows % n == 0)
        raise InputError(
            f"batch.rows_per_step: {rows} does not divide over {ranks} ranks, only over {nearest}; take other rows or ranks"
        )
    mine = rows // ranks
    divisors = [n for n in range(mine, 0, -1) if mine % n == 0]
    return [
        _largest(job, precision, stage, checkpointing, divisors)
        for precision in job.precisions()
        for stage in range(4)
        if (precision, stage) not in REFUSED
        for checkpointing in (False, True)
    ]


def _largest(job: Job, precision: str, stage: int, checkpointing: bool, divisors: Sequence[int]) -> Plan:
    tried = (plan_for(job, precision, stage, checkpointing, rows) for rows in divisors)
    return next((plan for plan in tried if plan.fits), plan_for(job, precision, stage, checkpointing, 1))


def plan_for(job: Job, precision: str, stage: int, checkpointing: bool, micro_batch: int) -> Plan:
    """Memory and time with this micro-batch (it must divide the rows of a rank)."""
    config, device, width = job.config, job.device, PRECISION_BYTES[precision]
    model = replace(job.model, activation_checkpointing=checkpointing)
    accumulation = config.batch.rows_per_step // (micro_batch * job.num_ranks)
    spread = _spread(job, precision, stage, accumulation)
    exchange = spread.exchange
    sharding = memory.Sharding(
        job.num_ranks,
        stage,
        width,
        exchange.bucket_elements,
        device.on_gpu,
        sum_width=spread.sum_width,
        overlaps=exchange.overlaps,
        reduces_wider=spread.reduced_width > width,
    )
    sdpa = not speed.has_flex(model, device)
    peaks = [_peak(config, model, sharding, phase, micro_batch, accumulation, sdpa) for phase in config.stages]
    moment, parts = max(peaks, key=lambda peak: memory.total(peak[1]))
    times = [step.step_seconds(model, _work(job, phase, accumulation), spread) for phase in config.stages]
    return Plan(
        precision,
        stage,
        checkpointing,
        micro_batch,
        accumulation,
        moment,
        parts,
        memory.total(parts) <= device.usable,
        tuple(map(sum, times)),
        times[0],
        sum(phase.steps * sum(time) for phase, time in zip(config.stages, times, strict=True)) / 86400,
    )


def _peak(
    config: TrainingConfig,
    model: ModelConfig,
    sharding: memory.Sharding,
    phase: StageConfig,
    rows: int,
    accumulation: int,
    sdpa: bool,
) -> tuple[str, memory.Memory]:
    batch = speed.largest_micro_batch(rows, config.data.sequence_length, phase.rows, config.data.corruption)
    return memory.peak(model, sharding, replace(batch, accumulates=accumulation > 1), sdpa)


def _spread(job: Job, precision: str, stage: int, accumulation: int) -> step.Spread:
    written = job.buckets.get((stage, precision))
    section = {} if written is None else {"reduce_bucket_size": written}
    exchange = choose_exchange(precision, stage, accumulation, job.num_ranks, {"zero_optimization": section})
    return step.Spread(job.device, job.num_ranks, len(job.hosts), stage, precision, PRECISION_BYTES[precision], exchange)


def _work(job: Job, phase: StageConfig, accumulation: int) -> speed.Work:
    """A rank's share of a step of one of the recipe's stages."""
    config = job.config
    generating = sum(share for name, share in phase.rows.items() if OBJECTIVES[name].is_pseudo_parallel)
    return speed.Work(
        config.batch.rows_per_step * config.data.sequence_length / job.num_ranks,
        config.data.sequence_length,
        speed.predicted_share(phase.rows, config.data.corruption),
        generating / sum(phase.rows.values()),
        config.data.corruption.pseudo_token_share,
        accumulation,
    )


def keys_read(job: Job, phase: StageConfig) -> float:
    """Keys that a token reads, over the mix of a stage: counted on data where the job has it, else whole rows."""
    whole = float(job.config.data.sequence_length)
    return sum(share * job.keys.get(name, whole) for name, share in phase.rows.items()) / sum(phase.rows.values())


def needed_flops(job: Job, phase: StageConfig) -> float:
    """FLOPs of a full step of a stage, of all ranks; the basis of MFU (ernie_m.training.utilization)."""
    work = _work(job, phase, 1)
    tokens = work.tokens * job.num_ranks
    predicted = {TOKEN: tokens * work.predicted_share}
    return flops.needed_flops(job.model, tokens, tokens * keys_read(job, phase), predicted)


def best(all_plans: Iterable[Plan], precision: str) -> Plan | None:
    """The fastest plan that fits in this precision; of equally fast ones (within 1 %) the one with most memory left."""
    fitting = [plan for plan in all_plans if plan.fits and plan.precision == precision]
    if not fitting:
        return None
    fastest = min(plan.days for plan in fitting)
    return min((p for p in fitting if p.days <= 1.01 * fastest), key=lambda p: (memory.total(p.memory), p.days))

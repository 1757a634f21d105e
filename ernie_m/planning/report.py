"""Plans as text: assumptions, a row for each way to run, the recipe as it is, and advice with reasons."""

from __future__ import annotations

from collections.abc import Sequence

from ernie_m.base import devices
from ernie_m.base.console import InputError
from ernie_m.models import flops
from ernie_m.models.size import told_size
from ernie_m.planning import memory, speed
from ernie_m.planning.plan import Job, Plan, best, keys_read, needed_flops, plan_for

HEADINGS = ("precision", "ZeRO", "ckpt", "rows", "acc", "peak in", *memory.PARTS, "total", "fits", "s/step", "days")


def report(job: Job, all_plans: Sequence[Plan]) -> str:
    """The whole text; memory in GiB a rank at its peak."""
    chosen = best(all_plans, job.precision)
    table = [HEADINGS, *(_row(plan, plan is chosen) for plan in all_plans)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*assumptions(job), "", *lines, "", as_it_stands(job), advice(job, all_plans)])


def assumptions(job: Job) -> list[str]:
    """What the figures assume."""
    config, device, precision = job.config, job.device, job.precision
    model, data = job.model, config.data
    peak = device.peaks[precision] / 1e12
    attention = "flex" if speed.has_flex(model, device) else "sdpa"
    link = (
        f"{device.network * 8 / 1e9:,.0f} Gbit/s from each host"
        if len(job.hosts) > 1
        else f"{device.link / 1e9:,.0f} GB/s inside the host"
    )
    hosts = f"{len(job.hosts)} host{'s' * (len(job.hosts) > 1)}"
    steps = config.num_steps
    first = config.stages[0]
    needed, keys = needed_flops(job, first), keys_read(job, first)
    positions = config.batch.rows_per_step * data.sequence_length
    attending = positions * (flops.trunk_flops(model, keys) - flops.trunk_flops(model, 0))
    counted = "pairs that documents read, counted on --data" if job.keys else "whole rows, a bound; --data counts reads"
    return [
        f"job     {job.num_ranks} ranks on {hosts}; {config.batch.rows_per_step} rows x {data.sequence_length} a step, "
        f"{steps:,} steps; {told_size(model)}",
        f"device  {device.name}: {device.memory / devices.GIB:.1f} GiB, of which {device.usable / devices.GIB:.1f} usable; "
        f"{precision} {peak:,.3g} TFLOP/s, of which products reach {100 * device.efficiency:.0f} % and attention "
        f"({attention}) {100 * device.attention:.0f} % ({device.source}); no GPU has measured it yet",
        f"links   {link} at {100 * speed.REACHED:.0f} %; during the backward if a step is one micro-batch in ZeRO 1 or 2",
        f"FLOPs   {needed / 1e15:,.2f} P a step of the first stage are needed ({100 * attending / needed:.0f} % attention), "
        f"{keys:,.0f} keys a token of {data.sequence_length}: {counted}",
        "memory  GiB a rank at the moment of a step that needs most; rows: micro-batch, acc: micro-batches a step",
    ]


def as_it_stands(job: Job) -> str:
    """Whether the recipe's own values fit."""
    config = job.config
    try:
        config.batch.accumulation_steps(job.num_ranks)
    except InputError as error:
        return f"recipe: {error}"
    model, stage = job.model, config.engine.zero_stage
    own = plan_for(job, job.precision, stage, model.activation_checkpointing, config.batch.micro_batch_rows)
    verdict = "fits" if own.fits else "does NOT fit"
    return (
        f"recipe: as it is ({own.keys()}) it takes {memory.total(own.memory) / devices.GIB:.1f} GiB and {verdict}; "
        f"{_seconds(own.step_seconds)} s a step, {own.days:.1f} days, MFU {100 * mfu(job, own):.0f} %"
    )


def mfu(job: Job, plan: Plan) -> float:
    """MFU: needed FLOPs of the recipe's first stage over the predicted time, as a share of all ranks' peak."""
    peak = job.num_ranks * job.device.peaks[plan.precision]
    return needed_flops(job, job.config.stages[0]) / (plan.step_seconds[0] * peak)


def advice(job: Job, all_plans: Sequence[Plan]) -> str:
    """One line: what to take and why, or what to change where nothing fits."""
    plan, usable = best(all_plans, job.precision), job.device.usable / devices.GIB
    if plan is None:
        least = min((p for p in all_plans if p.precision == job.precision), key=lambda p: memory.total(p.memory))
        return (
            f"advice: nothing fits: the least, {least.keys()}, takes {memory.total(least.memory) / devices.GIB:.1f} of "
            f"{usable:.1f} GiB; take more ranks, a larger device, or a smaller reduce_bucket_size in ds_configs/"
        )
    computing, optimizer, communication = plan.shares
    whole = sum(plan.shares)
    reasons = [
        f"{memory.total(plan.memory) / devices.GIB:.1f} of {usable:.1f} GiB",
        f"{_seconds(plan.step_seconds)} s a step, MFU {100 * mfu(job, plan):.0f} % ({100 * computing / whole:.0f} % "
        f"computing, {100 * optimizer / whole:.0f} % optimizer, {100 * communication / whole:.0f} % communication), "
        f"{plan.days:.1f} days",
    ]
    reasons += _other_ways(plan, [p for p in all_plans if p.precision == job.precision])
    return f"advice: {plan.keys()}: {'; '.join(reasons)}"


def _other_ways(plan: Plan, others: Sequence[Plan]) -> list[str]:
    """What the other ZeRO stages and the other checkpointing would cost."""
    reasons = []
    for other in others:
        same_stage, same_checkpointing = other.zero_stage == plan.zero_stage, other.checkpointing == plan.checkpointing
        if same_stage == same_checkpointing:  # itself, or two changes at once
            continue
        change = (
            f"ZeRO-{other.zero_stage}" if not same_stage else f"{'with' if other.checkpointing else 'without'} checkpointing"
        )
        if not other.fits:
            reasons.append(f"{change} does not fit with a single row")
        else:
            reasons.append(f"{change} {100 * (other.days / plan.days - 1):+.0f} % time with {other.micro_batch} rows")
    return reasons


def _row(plan: Plan, is_chosen: bool) -> tuple[str, ...]:
    size = [f"{plan.memory[part] / devices.GIB:.2f}" for part in memory.PARTS]
    time = (_seconds(plan.step_seconds), f"{plan.days:.1f}") if plan.fits else ("-", "-")
    return (
        ("> " if is_chosen else "") + plan.precision,
        str(plan.zero_stage),
        "yes" if plan.checkpointing else "no",
        str(plan.micro_batch),
        str(plan.accumulation),
        plan.moment,
        *size,
        f"{memory.total(plan.memory) / devices.GIB:.2f}",
        "yes" if plan.fits else "NO",
        *time,
    )


def _seconds(seconds: Sequence[float]) -> str:
    """One number where all stages of the recipe take the same time, else first-last."""
    texts = [f"{value:.2f}" for value in seconds]
    return texts[0] if len(set(texts)) == 1 else f"{min(texts, key=float)}-{max(texts, key=float)}"

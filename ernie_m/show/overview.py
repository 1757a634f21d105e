"""What a run is and how it went, from its configuration, its data and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure

from ernie_m.interop.model_card import LEARNT_BY
from ernie_m.runs.metrics import GAIN, plot_gain, plot_losses, plot_smoothed, points_of, read_metrics
from ernie_m.show.figures import as_image
from ernie_m.show.opened import OpenedRun

RECENT_STEPS = 100
"""Steps whose mean is told as the latest loss."""
MOST_POINTS = 1000
"""Points of a curve: of more steps, means of equal stretches are drawn."""
SPEED = {"tokens_per_second": "real tokens/s", "padding_share": "padding, share of the positions"}
NAMES = {GAIN: "cross-lingual gain, nats a mask"}


class Table(NamedTuple):
    """Rows of text under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def metrics_up_to(run: OpenedRun) -> list[dict[str, Any]]:
    """The run's metrics up to the checkpoint."""
    return [line for line in read_metrics(run.path) if line["step"] <= run.checkpoint.step]


def facts(run: OpenedRun, lines: Sequence[Mapping[str, Any]]) -> Table:
    """The run in a few lines."""
    batch = run.config.batch
    tokens = sum(line.get("tokens") or 0 for line in lines)
    given = run.config.init_from or getattr(run.config.model, "backbone", None)
    start = f"the weights of {given}" if given else f"random weights, seed {run.config.seed}"
    shape = run.shape
    rows = [
        ["run", run.path.resolve().name],
        ["checkpoint", f"{run.checkpoint.folder.name}, {run.checkpoint.step:,} of {run.data.schedule.num_steps:,} steps"],
        ["started from", start],
        [
            "model",
            f"{shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} heads, vocabulary {shape.vocab:,}",
        ],
        ["a step", f"{batch.rows_per_step:,} rows of {run.config.data.sequence_length} positions"],
    ]
    return Table((), [*rows, ["tokens seen", f"{tokens:,}"]] if tokens else rows)


def stages(run: OpenedRun) -> Table:
    """Steps done of each stage, and its mix of objectives."""
    first, rows = 0, []
    for stage in run.config.stages:
        done = min(stage.steps, max(0, run.checkpoint.step - first))
        rows.append([f"{done:,} of {stage.steps:,}", ", ".join(f"{name} {share:g}" for name, share in stage.rows.items())])
        first += stage.steps
    return Table(("steps", "rows of each objective, in proportion"), rows)


def streams(run: OpenedRun) -> Table:
    """Languages and pairs of the data, with their size."""
    folder = run.data.folder
    rows = [
        [kind, stream.name, f"{stream.num_rows:,}", f"{stream.num_tokens:,}"]
        for kind, of_kind in (("text", folder.monolingual()), ("pairs", folder.parallel()))
        for stream in of_kind
    ]
    return Table(("", "languages", "lines or pairs", "tokens"), rows)


def scores(lines: Sequence[Mapping[str, Any]]) -> Table:
    """The newest evaluation, and mean losses and speed of the last steps."""
    measured = [line for line in lines if line.get(GAIN) is not None]
    rows = [
        [NAMES.get(key, key), f"{value:.4f}", f"{measured[-1]['step']:,}"]
        for key, value in (measured[-1].items() if measured else ())
        if key != "step" and isinstance(value, int | float)
    ]
    recent = [line for line in lines if "learning_rate" in line][-RECENT_STEPS:]
    span = f"{recent[0]['step']:,} .. {recent[-1]['step']:,}" if recent else ""
    for key in sorted(
        {key for line in recent for key in line if key in SPEED or (key.startswith("loss/") and key.count("/") == 1)}
    ):
        values = [value for _, value in points_of(recent, key)]
        if values:
            shown = f"{np.mean(values):,.0f}" if key == "tokens_per_second" else f"{np.mean(values):.4f}"
            rows.append([SPEED.get(key, f"training loss, {key.removeprefix('loss/')}"), shown, span])
    return Table(("measure", "value", "step"), rows)


def recipe(run: OpenedRun) -> str:
    """The part of the configuration that decides what the model learns, as YAML."""
    content = {key: run.configuration[key] for key in LEARNT_BY if key in run.configuration}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def thinned(lines: Sequence[Mapping[str, Any]], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """At most `most` lines: of each stretch its last step and the mean of every number in it."""
    width = -(-len(lines) // most)
    thin = []
    for start in range(0, len(lines), width):
        stretch = lines[start : start + width]
        keys = dict.fromkeys(key for line in stretch for key in line)
        means = {key: np.mean([v for _, v in points]) for key in keys if (points := points_of(stretch, key))}
        thin.append(means | {"step": stretch[-1]["step"]})
    return thin


@as_image
def curves(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss of each objective, and of what else was measured: the gain, real tokens/s, padding."""
    lines = thinned(lines)
    also = [key for key in (GAIN, *SPEED) if points_of(lines, key)]
    columns = 2 if also else 1
    num_rows = -(-(1 + len(also)) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * num_rows), layout="constrained")
    axes = list(figure.subplots(num_rows, columns, squeeze=False).flat)
    plot_losses(axes[0], lines)
    for axis, key in zip(axes[1:], also, strict=False):
        if key == GAIN:
            plot_gain(axis, lines)
            continue
        plot_smoothed(axis, points_of(lines, key), key, width=max(1, len(lines) // 50))
        axis.set(xlabel="step", title=SPEED[key], ylim=(0, None))
        axis.grid(alpha=0.3)
    for axis in axes[1 + len(also) :]:
        axis.set_axis_off()
    return figure

"""A mixture as a picture: left, each stream's share of the tokens and how often it is drawn; right, its repeats.

One row of the picture is a kind (languages above pairs), one line a stream, largest first, each line of the same height
whether there are 3 or 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.stats import MANY_REPEATS, PAIR, FolderStats, StreamStats
from ernie_m.base.plots import plotting, save_figure

INCHES_PER_STREAM = 0.17
INCHES_PER_KIND = 1.1  # title, axis and its label
LEAST_SHOWN = 1e-3  # repeats below it are drawn as this
SHARE_COLOR, P_COLOR, FRESH_COLOR, WORN_COLOR = "#b8c4d6", "#1f4e9c", "#3a8f5c", "#d1541f"


def draw(found: FolderStats, path: Path) -> None:
    """Write the picture (PNG) under `path`, atomically. Shares are in percent, on a log axis, since they span decades."""
    pyplot = plotting()
    kinds = [(kind, sorted(streams, key=lambda s: -s.tokens)) for kind, streams in found.kinds]
    heights = [INCHES_PER_KIND + INCHES_PER_STREAM * len(streams) for _, streams in kinds]
    num_columns = 1 if found.plan is None else 2
    figure, axes = pyplot.subplots(
        max(1, len(kinds)),
        num_columns,
        figsize=(5.5 * num_columns, sum(heights) + 0.4),
        height_ratios=heights or None,
        squeeze=False,
        layout="constrained",
    )
    for (kind, streams), row in zip(kinds, axes, strict=False):
        _draw_shares(row[0], kind, streams, found.alpha)
        if found.plan is not None:
            _draw_repeats(row[1], f"repeats in {found.plan.steps:,} steps", streams)
    save_figure(figure, path)


def _draw_shares(axis: Any, kind: str, streams: Sequence[StreamStats], alpha: float) -> None:
    """Two bars a stream; the axis starts at a power of ten below the smallest, so that every bar has a length."""
    lines = range(len(streams))
    shares, chances = [100 * s.share for s in streams], [100 * s.p for s in streams]
    axis.barh([y - 0.2 for y in lines], shares, height=0.4, color=SHARE_COLOR, label="share of the tokens")
    axis.barh([y + 0.2 for y in lines], chances, height=0.4, color=P_COLOR, label=f"p, alpha {alpha:g}")
    axis.set_xlim(_decade_below(min(*shares, *chances)), 100)
    axis.set_xlabel("% of all pairs" if kind == PAIR else "% of all monolingual text", fontsize=8)
    title = f"{len(streams)} {kind}{'s' if len(streams) != 1 else ''}"
    _finish(axis, title, streams)


def _draw_repeats(axis: Any, title: str, streams: Sequence[StreamStats]) -> None:
    """Bars that start at 1: to the right text is repeated, to the left not all of it is seen."""
    repeats = [max(s.repeats or 0.0, LEAST_SHOWN) for s in streams]
    colors = [WORN_COLOR if s.is_worn else FRESH_COLOR for s in streams]
    axis.barh(range(len(streams)), [value - 1 for value in repeats], left=1, height=0.7, color=colors)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.axvline(MANY_REPEATS, color=WORN_COLOR, linewidth=0.8, linestyle="--", label=f"{MANY_REPEATS:g} epochs")
    for y, end in enumerate(repeats):
        axis.annotate(
            _short(end),
            (end, y),
            (3 if end >= 1 else -3, 0),
            textcoords="offset points",
            ha="left" if end >= 1 else "right",
            va="center",
            fontsize=6,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axis.set_xlim(min(0.1, _decade_below(min(repeats) / 2)), 10 * max(2.0, *repeats))
    axis.set_xlabel("times that each sentence is seen", fontsize=8)
    _finish(axis, title, streams)


def _finish(axis: Any, title: str, streams: Sequence[StreamStats]) -> None:
    """A log axis with plain numbers, a name for each line, title and legend above the bars."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.set_yticks(range(len(streams)), [s.name for s in streams], fontsize=7)
    axis.set_ylim(len(streams) - 0.4, -0.6)  # largest on top
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.set_title(title, fontsize=9, loc="left")
    axis.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)


def _decade_below(value: float) -> float:
    """The power of ten that leaves a bar up to `value` some length."""
    return float(10.0 ** math.floor(math.log10(value / 1.2)))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

"""What a corpus folder holds and how training will draw from it, from the manifest alone.

1. Each language and each pair is a stream: rows, tokens, mean length, its share of the tokens of its kind, and p, how often
   training draws it: tokens ** alpha, normalised over all languages or over all pairs.
2. A `DrawPlan` says how many rows training draws: of `rows_per_step` rows of a step, `parallel_share` are pairs (TLM,
   CAMLM), the others running text (MMLM, BTMLM). Equal batches of MMLM, TLM and CAMLM are a share of 2/3.
3. A row of S positions carries ROW_FILL * S positions of text. Of running text <s> and </s> take 2 in S; of pairs the four
   special tokens take 4 for each pair's mean of n tokens. Rows a stream gives times tokens a row are the tokens drawn;
   divided by the stream's tokens they are its *repeats*: epochs, how often each of its sentences is seen.

Training gives every stream a whole number of each MIXTURE_PERIOD rows, and at least one, so repeats are counted from those,
not from p. Masks that CAMLM adds to the text and placeholders of BTMLM, which takes lines one by one, leave less room: with
sentences of 20 tokens and a mask rate of 0.15 their rows carry about 15 % fewer tokens. Borders of documents cost 2
positions each. So repeats are upper bounds by so much.

Up to 4 epochs of the same text are nearly as good as fresh text, after 16 little is gained (Muennighoff et al. 2023,
"Scaling Data-Constrained Language Models", https://arxiv.org/abs/2305.16264; measured on English decoders, so a guide, no
law). Streams above MANY_REPEATS are marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from json import loads
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.ownership import REPORT_FILE
from ernie_m.base.console import InputError
from ernie_m.base.sampling import Mixture, smoothed
from ernie_m.base.table import table
from ernie_m.corpus.columns import COLUMNS, ColumnTable
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusFolder, Stream
from ernie_m.corpus.unknown_pieces import Pieces

MANY_REPEATS = 4.0
ROW_FILL = 0.985  # of a row's positions; ernie_m.rows.row_source aims at it
SPECIAL_PER_ROW = 2  # <s> and </s> around a row of running text
SPECIAL_PER_PAIR = 4  # <s> x </s> </s> y </s>
EQUAL_BATCHES = 2 / 3  # parallel share of MMLM, TLM and CAMLM in equal parts
LANGUAGE, PAIR = "language", "pair"
Counted = dict[tuple[str, ...], dict[str, Pieces]]


@dataclass(frozen=True)
class DrawPlan:
    """How much training draws. `parallel_share` None: EQUAL_BATCHES, or what there is when there is only one kind."""

    steps: int
    rows_per_step: int = 2048
    sequence_length: int = 512
    parallel_share: float | None = None


@dataclass(frozen=True)
class StreamStats:
    """A language or a pair of the training split; `tokens_drawn` and `repeats` are None without a plan."""

    name: str
    rows: int
    tokens: int
    mean_length: float
    """Tokens a sentence."""
    share: float
    p: float
    held_out_rows: int
    tokens_drawn: float | None = None
    repeats: float | None = None
    pieces: dict[str, Pieces] = field(default_factory=dict)
    """Language -> its pieces and those that the tokenizer does not know; empty where the build did not count them."""
    items: dict[str, float] = field(default_factory=dict)
    """Optional column that all its shards have -> items a row: of `links`, links a pair."""

    @property
    def is_worn(self) -> bool:
        """Whether training repeats it so often that repeated text is clearly worse than fresh text."""
        return self.repeats is not None and self.repeats > MANY_REPEATS

    @property
    def alarms(self) -> list[str]:
        """A line for each language that the tokenizer knows badly."""
        where = f" in the pairs {self.name}" if len(self.pieces) > 1 else ""
        found = (pieces.alarm(language + where) for language, pieces in self.pieces.items())
        return [alarm for alarm in found if alarm is not None]


@dataclass(frozen=True)
class FolderStats:
    """All streams of a folder, and the plan with its parallel share filled in."""

    data: str
    alpha: float
    plan: DrawPlan | None
    languages: tuple[StreamStats, ...]
    pairs: tuple[StreamStats, ...]

    @property
    def kinds(self) -> list[tuple[str, tuple[StreamStats, ...]]]:
        """(what a stream is, the streams), without a kind that has none."""
        return [(kind, streams) for kind, streams in ((LANGUAGE, self.languages), (PAIR, self.pairs)) if streams]

    def to_json(self) -> dict[str, Any]:
        """As in `--json`: numbers, not rounded."""
        return {**asdict(self), "many_repeats": MANY_REPEATS}


def folder_stats(data: Path, alpha: float, plan: DrawPlan | None = None) -> FolderStats:
    """Numbers of all streams; raises InputError for a plan that draws what the folder does not have."""
    folder = CorpusFolder(data)
    languages, pairs = folder.monolingual(TRAIN), folder.parallel(TRAIN)
    if plan is not None:
        plan = _with_share(plan, bool(languages), bool(pairs), data)
    counted, tables = _counted_pieces(data), folder.manifest.columns
    return FolderStats(
        str(data),
        alpha,
        plan,
        _streams(languages, folder.monolingual(HELD_OUT), alpha, plan, counted, tables),
        _streams(pairs, folder.parallel(HELD_OUT), alpha, plan, counted, tables),
    )


def _items_a_row(stream: Stream, tables: Mapping[str, ColumnTable]) -> dict[str, float]:
    found = {}
    for name, companions in tables.items():
        if companions.has_all(places := stream.entries.places):
            values = companions.values[np.isin(companions.places, places)].sum()
            found[name] = float(values) / COLUMNS[name].width / stream.num_rows
    return found


def _counted_pieces(data: Path) -> Counted:
    """What report.json, written beside the manifest, says of the pieces of each stream; nothing where there is none.

    They are not in the manifest because its readers refuse keys that they do not know.
    """
    counted: Counted = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        for corpus in loads((data / REPORT_FILE).read_text(encoding="utf-8"))["corpora"]:
            stream = counted.setdefault(tuple(corpus["languages"]), {})
            for language, pieces in corpus.get("pieces", {}).items() if corpus["left_out"] is None else ():
                stream[language] = stream.get(language, Pieces()) + Pieces(**pieces)
    return counted


def _with_share(plan: DrawPlan, has_text: bool, has_pairs: bool, data: Path) -> DrawPlan:
    share = plan.parallel_share
    if share is None:
        share = EQUAL_BATCHES if has_text and has_pairs else float(has_pairs)
    if (share > 0 and not has_pairs) or (share < 1 and not has_text):
        kind = "pairs" if share > 0 and not has_pairs else "monolingual text"
        raise InputError(f"--parallel_share {share:g}: {data} has no {kind}; leave the option out, or build with some")
    return DrawPlan(plan.steps, plan.rows_per_step, plan.sequence_length, share)


def _streams(
    train: list[Stream],
    held_out: list[Stream],
    alpha: float,
    plan: DrawPlan | None,
    counted: Counted,
    tables: Mapping[str, ColumnTable],
) -> tuple[StreamStats, ...]:
    train = [stream for stream in train if stream.num_tokens > 0]  # training leaves empty ones out
    total = sum(stream.num_tokens for stream in train)
    rows_held_out = {stream.languages: stream.num_rows for stream in held_out}
    chances = smoothed([stream.num_tokens for stream in train], alpha)
    drawn = [
        _tokens_drawn(stream, rows, plan) for stream, rows in zip(train, _rows_drawn(train, chances, plan), strict=True)
    ]
    return tuple(
        StreamStats(
            name=stream.name,
            rows=stream.num_rows,
            tokens=stream.num_tokens,
            mean_length=stream.num_tokens / stream.num_rows / len(stream.languages),
            share=stream.num_tokens / total,
            p=p,
            held_out_rows=rows_held_out.get(stream.languages, 0),
            tokens_drawn=tokens,
            repeats=None if tokens is None else tokens / stream.num_tokens,
            pieces=dict(sorted(counted.get(stream.languages, {}).items())),
            items=_items_a_row(stream, tables),
        )
        for stream, p, tokens in zip(train, chances, drawn, strict=True)
    )


def _rows_drawn(streams: list[Stream], chances: list[float], plan: DrawPlan | None) -> list[float]:
    """Rows that training draws of each stream of one kind."""
    if plan is None or not streams:
        return [0.0] * len(streams)
    assert plan.parallel_share is not None
    is_parallel = len(streams[0].languages) == 2
    rows = plan.steps * plan.rows_per_step * (plan.parallel_share if is_parallel else 1 - plan.parallel_share)
    counts = Mixture(chances).counts
    return [rows * count / sum(counts) for count in counts]


def _tokens_drawn(stream: Stream, rows: float, plan: DrawPlan | None) -> float | None:
    if plan is None:
        return None
    if len(stream.languages) == 1:
        share_of_text = 1 - SPECIAL_PER_ROW / plan.sequence_length
    else:
        share_of_text = stream.num_tokens / (stream.num_tokens + SPECIAL_PER_PAIR * stream.num_rows)
    return rows * plan.sequence_length * ROW_FILL * share_of_text


def report(found: FolderStats) -> str:
    """The plan in a line, a table of languages, one of pairs, and what is repeated often."""
    parts = [] if found.plan is None else [_plan_line(found.plan)]
    parts += [_stream_table(kind, streams, found) for kind, streams in found.kinds]
    worn = [stream for _, streams in found.kinds for stream in streams if stream.is_worn]
    if worn:
        most = max(worn, key=lambda stream: stream.repeats or 0)
        number = len(found.languages) + len(found.pairs)
        parts.append(
            f"{len(worn)} of {number} streams are repeated more than {MANY_REPEATS:g} times (most: {most.name}, "
            f"{most.repeats:,.0f} times): up to 4 epochs are nearly as good as fresh text (Muennighoff et al. 2023). "
            "More text, a larger alpha or fewer steps help."
        )
    parts += [f"alarm: {alarm}" for _, streams in found.kinds for stream in streams for alarm in stream.alarms]
    return "\n\n".join(parts)


def _plan_line(plan: DrawPlan) -> str:
    share = plan.parallel_share or 0.0
    return (
        f"plan: {plan.steps:,} steps of {plan.rows_per_step:,} rows of {plan.sequence_length} positions; "
        f"{100 * (1 - share):.1f} % of the rows monolingual, {100 * share:.1f} % parallel"
    )


def _stream_table(kind: str, streams: Sequence[StreamStats], found: FolderStats) -> str:
    head = [kind, "rows", "tokens", "mean length", "share", f"p (alpha {found.alpha:g})", "held out", "unknown"]
    columns = sorted({name for s in streams for name in s.items})
    rows = []
    for s in streams:
        counts = [f"{s.rows:,}", f"{s.tokens:,}", f"{s.mean_length:.1f}", f"{100 * s.share:.2f} %", f"{100 * s.p:.2f} %"]
        unknown = " ".join(pieces.shown for pieces in s.pieces.values()) or "-"
        items = [f"{s.items[name]:.1f}" if name in s.items else "-" for name in columns]
        rows.append([s.name, *counts, f"{s.held_out_rows:,}", unknown, *items])
        if s.tokens_drawn is not None and s.repeats is not None:
            warning = f"more than {MANY_REPEATS:g}" if s.is_worn else ""
            rows[-1] += [f"{s.tokens_drawn:,.0f}", f"{s.repeats:,.2f}", warning]
    head += [f"{name} a {kind}" for name in columns]
    return table(head + (["tokens drawn", "repeats", ""] if found.plan else []), rows)

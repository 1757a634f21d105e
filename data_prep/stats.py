"""What a corpus folder holds, a language and a pair at a time, from its manifest alone."""

from __future__ import annotations

from pathlib import Path

from data_prep.table import table
from ernie_m.corpus import HELD_OUT, TRAIN, CorpusFolder, Stream
from ernie_m.sampling import smoothed


def stats(data: Path, alpha: float) -> str:
    """Two tables: languages, and pairs. p is how often training draws a stream: token share ** alpha, normalised."""
    folder = CorpusFolder(data)
    kinds = (
        ("language", folder.monolingual(TRAIN), folder.monolingual(HELD_OUT)),
        ("pair", folder.parallel(TRAIN), folder.parallel(HELD_OUT)),
    )
    tables = [stream_table(kind, train, held_out, alpha) for kind, train, held_out in kinds if train or held_out]
    return "\n\n".join(tables)


def stream_table(kind: str, train: list[Stream], held_out: list[Stream], alpha: float) -> str:
    """A row a stream: its training split in numbers, and the rows held out."""
    head = [kind, "rows", "tokens", "mean length", "share", f"p (alpha {alpha:g})", "held out"]
    total = sum(stream.num_tokens for stream in train)
    rows_held_out = {stream.languages: stream.num_rows for stream in held_out}
    rows = []
    for stream, p in zip(train, smoothed([stream.num_tokens for stream in train], alpha), strict=True):
        sides = len(stream.languages)
        mean = stream.num_tokens / max(stream.num_rows, 1) / sides
        counts = [f"{stream.num_rows:,}", f"{stream.num_tokens:,}", f"{mean:.1f}"]
        shares = [f"{100 * stream.num_tokens / max(total, 1):.2f} %", f"{100 * p:.2f} %"]
        rows.append([stream.name, *counts, *shares, f"{rows_held_out.get(stream.languages, 0):,}"])
    return table(head, rows)

"""`python -m data_prep show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.base.ranges import Range


def show(
    self: object,
    *,
    data: str,
    corpus: str,
    row: Annotated[int, Range(least=0, most=10**12, zero="the first")] | None = None,
    random: Annotated[int, Range(least=1, most=10**6, zero="none")] = 0,
    split: str = "train",
    seed: Annotated[int, Range(least=0, most=2**31 - 1, zero="a seed like others")] = 0,
    catalog: str | None = None,
) -> None:
    """Print rows of a corpus as text; with its catalog also the line of the raw file that each came from.

        python -m data_prep show --data data/ --corpus cc100.sw --row 17 --catalog my.yaml
        python -m data_prep show --data data/ --corpus tatoeba.de-en --random 5

    Args:
        data: folder made by `build`.
        corpus: its name in the catalog.
        row: number of the row in its split, from 0.
        random: so many rows instead, chosen by the seed.
        split: train or held_out.
        seed: of the choice.
        catalog: the one that the folder was built of; the row's part of the raw file is read again.
    """
    from data_prep.rows_shown import shown_rows

    raw = None if catalog is None else Path(catalog)
    for line in shown_rows(Path(data), corpus, row, random, split, seed, raw):
        print(line)

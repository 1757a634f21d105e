"""Rows of a folder as text, with the line that each came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from prep_samples import sentences

from data_prep.rows_shown import shown_rows
from ernie_m.base.console import InputError


def shown(
    data: Path, corpus: str, row: int | None = None, random: int = 0, split: str = "train", catalog: Path | None = None
) -> list[str]:
    return list(shown_rows(data, corpus, row, random, split, 0, catalog))


def test_a_row_is_its_text_and_its_line_of_the_raw_file(built: Path, catalog: Path) -> None:
    """Documents of three lines with an empty one between them: row 7 is line 10."""
    head, text = shown(built, "mono.en", row=7, catalog=catalog)
    assert head.startswith("mono.en, train row 7 (shards/mono.en/train-00000.arrow, its row 7, line 10 of ")
    assert text.endswith(": " + sentences(3, seed=2)[1])


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_row_of_every_chunk_comes_from_the_line_that_is_named(built: Path, catalog: Path, split: str) -> None:
    sources, targets = sentences(200, seed=2) * 2, sentences(400, seed=3)
    lines = shown(built, "t.de-en", random=30, split=split, catalog=catalog)
    assert len(lines) == 90
    for head, source, target in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        number = int(head.split(", line ")[1].split(" of ")[0]) - 1
        if number < 400:
            assert (source.split(": ")[1], target.split(": ")[1]) == (sources[number], targets[number])


def test_the_same_seed_shows_the_same_rows(built: Path) -> None:
    assert shown(built, "t.de-en", random=5) == shown(built, "t.de-en", random=5)
    assert len(shown(built, "mono.en", random=99)) == 60, "all of them, where there are no more"


def test_mistakes_are_named(built: Path, catalog: Path) -> None:
    for arguments, message in (
        ({"corpus": "mono.de", "row": 0}, "has no such corpus, did you mean `mono.en`"),
        ({"corpus": "mono.en", "row": 30}, "mono.en has 30 rows in the split train, counted from 0"),
        ({"corpus": "mono.en"}, "expected one of --row and --random"),
        ({"corpus": "mono.en", "row": 0, "split": "test"}, "--split test: expected train or held_out"),
    ):
        with pytest.raises(InputError, match=message):
            shown(built, **arguments)
    catalog.write_text(catalog.read_text().replace("held_out: 0.2", "held_out: 0.9"))
    with pytest.raises(InputError, match=r"not what .* was built of"):
        shown(built, "t.de-en", row=0, catalog=catalog)

"""Retrieval finds nearest neighbours in both directions; line-aligned files are read whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.corpus.aligned_files import read_aligned
from ernie_m.models.retrieval import accuracy_at_1


def test_accuracy_at_1_counts_nearest_neighbours_both_ways() -> None:
    rng = torch.Generator().manual_seed(0)
    source = torch.randn(50, 16, generator=rng)
    assert accuracy_at_1(source, source * 3.0, piece=7) == (1.0, 1.0)
    one_off = source.clone()
    one_off[3] = source[4] * 2
    assert accuracy_at_1(source, one_off)[0] == pytest.approx(48 / 50, abs=0.021)
    assert accuracy_at_1(source, one_off)[1] == pytest.approx(49 / 50)
    assert max(accuracy_at_1(source, torch.roll(source, 1, 0))) == 0.0


def test_aligned_files_are_read_line_by_line(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes("\ufeffeins\r\nzwei\u2028drei\nvier\x85fünf".encode())
    two.write_bytes(b"one\ntwo\nthree\n")
    assert read_aligned(one, two) == (["eins", "zwei\u2028drei", "vier\x85fünf"], ["one", "two", "three"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\n", "has 2 lines, .* 1; expected line-aligned files"),
        (b"", "b: empty; expected a sentence a line"),
        (b"one\ntw\xffo\n", "b, line 2: not UTF-8"),
        (None, "b: no such file"),
        (b"one\n \n", "b, line 2: empty; expected a sentence; leave such a pair out of both files"),
    ],
)
def test_files_that_are_not_aligned_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    (tmp_path / "a").write_bytes(b"eins\nzwei\n")
    if content is not None:
        (tmp_path / "b").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_aligned(tmp_path / "a", tmp_path / "b")

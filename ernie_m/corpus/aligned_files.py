"""Line-aligned files: two of a folder that belong together by their names, and their lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ernie_m.base.console import InputError
from ernie_m.corpus.texts import read_lines


class AlignedFiles(NamedTuple):
    """Two line-aligned files `[NAME.]AA-BB.{AA,BB}`."""

    name: str
    """AA-BB; NAME.AA-BB where several of a folder have these codes."""
    languages: tuple[str, str]
    paths: tuple[Path, Path]


def aligned_files(folder: Path, languages: Collection[str] | None = None) -> list[AlignedFiles]:
    """The pairs of files of a folder, by name; with `languages` those in two of them. A missing side is not looked for."""
    found: dict[Path, tuple[str, str]] = {}
    for first in sorted(folder.glob("*-*.*")):
        codes = first.stem.rpartition(".")[2].split("-")
        is_known = {*codes} <= {*(codes if languages is None else languages)}
        if len({*codes}) == len(codes) == 2 and first.suffix == f".{codes[0]}" and is_known:
            found[first] = codes[0], codes[1]
    sets = Counter(found.values())
    return [
        AlignedFiles("-".join(codes) if sets[codes] == 1 else first.stem, codes, (first, first.with_suffix(f".{codes[1]}")))
        for first, codes in found.items()
    ]


def read_aligned(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """The lines of two line-aligned UTF-8 files. Raises InputError as `read_parallel`, and for a line without text."""
    first, second = read_parallel([source, target])
    for path, lines in ((source, first), (target, second)):
        if empty := next((number for number, line in enumerate(lines, 1) if not line.strip()), 0):
            raise InputError(f"{path}, line {empty}: empty; expected a sentence; leave such a pair out of both files")
    return first, second


def read_parallel(files: Sequence[Path]) -> list[list[str]]:
    """The lines of UTF-8 files of which each line i translates the others' line i.

    Raises InputError for a file that is missing, empty, or of another number of lines than the first.
    """
    sides = [read_lines(path, "a sentence a line, aligned with the others") for path in files]
    for path, side in zip(files, sides, strict=True):
        if not side:
            raise InputError(f"{path}: empty; expected a sentence a line")
        if len(side) != len(sides[0]):
            raise InputError(f"{files[0]} has {len(sides[0])} lines, {path} {len(side)}; expected line-aligned files")
    return sides

"""Line-aligned files: two of a folder that belong together by their names, and their lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
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
    """The lines of two line-aligned UTF-8 files. Raises InputError if one is missing or empty, or their lengths differ."""
    sides = [read_lines(path, "a sentence a line, aligned with the other file") for path in (source, target)]
    if not sides[0] or not sides[1]:
        raise InputError(f"{source if not sides[0] else target}: empty; expected a sentence a line")
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{source} has {len(sides[0])} lines, {target} {len(sides[1])}; expected line-aligned files")
    return sides[0], sides[1]

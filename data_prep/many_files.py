"""A corpus of many files: an entry whose `path` is a list, or a glob, stands for one entry a file.

    - {name: fineweb.sw, format: parquet, path: "fineweb-2/swh_Latn/*.parquet", language: sw}

is fineweb.sw.00000, fineweb.sw.00001, … in the order of their paths. So files are read side by side, and one that cannot be
used is left out alone.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.inputs import is_address
from data_prep.inputs import matching as matching_addresses
from ernie_m.base.command_line import with_home_expanded
from ernie_m.base.console import InputError
from ernie_m.base.secret_names import shown_url

MARKS = ("*", "?", "[")


def one_file_each(entry: Any, catalog: Path) -> list[Any]:
    """The entries that an entry stands for: itself, where it names one file. Raises InputError where no file is there."""
    given = entry.get("path") if isinstance(entry, dict) and isinstance(entry.get("name"), str) else None
    if isinstance(given, list) and given and all(isinstance(path, str) and path for path in given):
        paths = [path for pattern in given for path in _matching(pattern, catalog, entry)]
    elif isinstance(given, str) and _is_pattern(given, catalog):
        paths = _matching(given, catalog, entry)
    else:
        return [entry]
    return [{**entry, "name": f"{entry.get('name')}.{number:05d}", "path": path} for number, path in enumerate(paths)]


def excluded_files(content: dict[str, Any], catalog: Path) -> tuple[Path, ...]:
    """The evaluation files of a catalog's `exclude`: paths and globs. They need not be there yet: see `existing`."""
    given = content.get("exclude", [])
    if not isinstance(given, list) or not all(isinstance(path, str) and path for path in given):
        raise InputError(f"{catalog}: exclude is {given!r}, expected a list of files or globs such as [eval/xnli/*.tsv]")
    if remote := next(filter(is_address, given), None):
        raise InputError(f"{catalog}: exclude: {shown_url(remote)}: evaluation sets are read whole from a disk; download it")
    return tuple(_file(pattern, catalog) for pattern in given)


def existing(patterns: Iterable[Path]) -> list[Path]:
    """The files of `exclude`, each once. Raises InputError for a path or glob that names none."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        names = [str(pattern)] if pattern.exists() else sorted(glob.glob(str(pattern), recursive=True))
        files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            raise InputError(
                f"exclude: no file matches {pattern}; put the evaluation set there, or take it out of "
                "`exclude`: its sentences will then not be kept out of the corpora"
            )
        found |= dict.fromkeys(files)
    return list(found)


def _file(path: str, catalog: Path) -> Path:
    return catalog.parent / with_home_expanded(path, f"{catalog}:")


def _is_pattern(path: str, catalog: Path) -> bool:
    if is_address(path):
        return "*" in path.partition("?")[0]  # a ? begins a query there, and names have brackets
    return any(mark in path for mark in MARKS) and not _file(path, catalog).exists()


def _matching(pattern: str, catalog: Path, entry: dict[str, Any]) -> list[str]:
    if not _is_pattern(pattern, catalog):
        return [pattern]
    where, shown = f"{catalog}: {entry.get('name')}", shown_url(pattern) if is_address(pattern) else pattern
    if "**" in pattern:
        raise InputError(f"{where}: {shown}: ** would walk through all folders; give a * a folder")
    found = matching_addresses(pattern) if is_address(pattern) else sorted(glob.glob(str(_file(pattern, catalog))))
    if not found:
        raise InputError(f"{where}: no file matches {shown} (relative to the catalog's folder)")
    return found

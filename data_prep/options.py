"""Options of commands that take more than a number or a text."""

from __future__ import annotations

from pathlib import Path

from ernie_m.base import command_line
from ernie_m.base.console import InputError


def named_files(option: str, value: str | None) -> dict[str, Path]:
    """The files of NAME=FILE,NAME=FILE."""
    files: dict[str, Path] = {}
    for part in str(value).split(",") if value is not None else ():
        name, is_given, path = part.partition("=")
        if not (name and is_given and path) or name in files:
            raise InputError(f"--{option} {value}: expected CORPUS=FILE, more of them with commas, each corpus once")
        files[name] = Path(path)
    return files


def patterns(option: str, value: str | None) -> tuple[Path, ...]:
    """The files or globs of a list with commas. Raises InputError where one is empty."""
    words = listed(option, value, "files or globs with commas between them, such as eval/xnli/*.tsv")
    return tuple(Path(command_line.with_home_expanded(word, f"--{option}")) for word in words)


def listed(option: str, value: str | None, expected: str) -> list[str]:
    """The words of a list with commas, each once. Raises InputError where one is empty."""
    return list(dict.fromkeys(command_line.listed(option, value, expected)))

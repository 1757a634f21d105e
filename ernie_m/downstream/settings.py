"""What the scores in a folder depend on. It is written before the scores and compared at every start.

So scores of other settings are never mixed in, and no other files are overwritten. Data files are compared by content,
each under its path below the data folder, because folders move; a file outside it is known by its number on the command
line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.base.config import differing_keys
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, write_json
from ernie_m.downstream.task_files import SourceFile
from ernie_m.interop.encoder import OpenEncoder

SETTINGS_FILE, RESULTS_FILE, PICTURE_FILE = "settings.json", "results.json", "scores.png"
WRITTEN = (RESULTS_FILE, PICTURE_FILE, "seed_*")
SCHEME = 2
"""Number of this way to tell settings; the first hashed files by their bare names, and no tokenizer."""


def of_encoder(encoder: OpenEncoder) -> dict[str, str]:
    """Hashes of configuration, weights and tokenizer."""
    return {path.name: sha256_of(path) for path in encoder.files()}


def of_data(
    files: Sequence[SourceFile], folder: Path, read_with: Callable[[Path], Sequence[Path]] = lambda path: [path]
) -> dict[str, dict[str, Any]]:
    """Place -> language (None where the content tells it) and hashes of all that is read with a file, itself first."""
    told: dict[str, dict[str, Any]] = {}
    for number, file in enumerate(files, start=1):
        path, root = file.path.resolve(), folder.resolve()
        place = path.relative_to(root).as_posix() if path.is_relative_to(root) else f"{number}: {path.name}"
        key = place if place not in told else f"{number}: {place}"
        told[key] = {"language": file.language, "sha256": [sha256_of(read) for read in read_with(file.path)]}
    return told


def claim(to: Path, settings: Mapping[str, Any]) -> None:
    """Make `to` the folder of these settings.

    Raises InputError when it holds scores of others, of an earlier release, or files under our names that we did not write.
    """
    path, settings = to / SETTINGS_FILE, {"scheme": SCHEME, **settings}
    if path.is_file():
        found = _read(path)
        if found.get("scheme") != SCHEME:
            raise InputError(
                f"{path}: not of this release, whose settings name every file by its place and hash; scores without them "
                "cannot be told apart: give another folder with --to"
            )
        if differing := differing_keys(found, settings):
            raise InputError(
                f"{to} holds scores of other settings ({'; '.join(differing[:3])}); expected the same, or give another "
                "folder with --to"
            )
    elif there := sorted(found.name for name in WRITTEN for found in to.glob(name) if not _is_empty_folder(found)):
        raise InputError(f"{to} holds {there[0]}, and no {SETTINGS_FILE} says what it is of; give another folder with --to")
    to.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _is_empty_folder(path: Path) -> bool:
    """Whether it is an empty folder: another rank may just have made a seed's folder."""
    return path.is_dir() and not any(path.iterdir())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not the JSON that was written there; give another folder with --to")
    return found

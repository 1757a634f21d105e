"""The folder a build writes into: new, empty, or left by a build of ours; anything else is somebody's and stays."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from data_prep.shard_writer import SHARDS_FOLDER
from ernie_m.console import InputError
from ernie_m.corpus import HELD_OUT, MANIFEST_FILE, TRAIN, Manifest
from ernie_m.vocabulary import TOKENIZER_FILE

OUR_FOLDERS = re.compile(rf"{SHARDS_FOLDER}(/[^/]+)?")
OUR_FILES = re.compile(
    rf"{SHARDS_FOLDER}/[^/]+/\.?({TRAIN}|{HELD_OUT})-\d+\.arrow(\.\d+\.tmp)?"
    rf"|\.?({re.escape(TOKENIZER_FILE)}|{re.escape(MANIFEST_FILE)})(\.\d+\.tmp)?"
)


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Raise InputError unless a build may write into `out`; changes nothing."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: not a folder; choose another --out")
    if (out / MANIFEST_FILE).exists():
        if not overwrite:
            raise InputError(f"{out}: already holds built data ({MANIFEST_FILE}); choose another --out or add --overwrite")
        Manifest.read(out)
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        ours = OUR_FOLDERS if path.is_dir() else OUR_FILES
        if not ours.fullmatch(name) or path.is_symlink():
            raise InputError(f"{out}: not empty and {name} is not of a build of ours; choose another --out")


def prepare_output_folder(out: Path) -> None:
    """Create `out`, or empty it of an earlier build; its manifest goes first, so that it never promises what is gone."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

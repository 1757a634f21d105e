"""The folder that a build writes into, and the files that its next start reads.

    .lock                          held by the running build (flock: the kernel releases it, however the build ends)
    .data_prep.json                says that the folder is a build's, and of which corpora (ownership.py)
    shards/<corpus>/...            finished shards
    work/.plan.json                what is being built; a later start has to ask for the same
    work/<corpus>/00012.json       chunk 12 is done: its shards, counts and rejected lines
    work/<corpus>/held-00012.npy   what is held out of chunk 12, noted before any is converted
    work/<corpus>/end.json         the corpus is done (its number of chunks), cannot be used (why) or is taken over
    work/.kept.json                which corpora are taken over from a folder that the build grows from (growth.py)
    work/.*.hashes, work/<corpus>/concerned-00012.npy     what is kept out there or here alone; lines of chunk 12 with it
    work/.align/...                models and plan of `align`, which adds links to the finished folder
    ranks/rank-00003.json          what rank 3 did, how fast, in how much memory
    .excluded.hashes .held_out.hashes    hashes of what is kept out of all corpora
    report.json report.txt, .plan.json, shards.arrow, manifest.json     written at the end, in this order; then work/ goes

Any folder that is not new, empty or marked by a build belongs to somebody else and is not touched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import ownership
from data_prep.ownership import (
    END_FILE,
    LOCK_FILE,
    MARK_FILE,
    PLAN_FILE,
    PROVISIONAL_FOLDER,
    RANKS_FOLDER,
    READABLE_REPORT_FILE,
    REPORT_FILE,
    STOP_FILE,
    WORK_FOLDER,
)
from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, write_json, written_atomically
from ernie_m.base.locks import exclusive
from ernie_m.corpus.folder import MANIFEST_FILE
from ernie_m.corpus.shard_table import SHARDS_FOLDER

GROWN_FROM = "grown_from"
"""Key of an unfinished plan: the manifest's hash of the folder that the build grows from."""

Failure = InputError | OSError | None

__all__ = ["RANKS_FOLDER", "READABLE_REPORT_FILE", "REPORT_FILE", "STOP_FILE", "WORK_FOLDER"]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Create `out` and hold its lock; InputError when another build holds it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder; choose another --out")
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    ownership.refuse_unmarked(out)  # before anything is written into it, the lock included
    with exclusive(out / LOCK_FILE, "another build is at work here"):
        try:
            yield
        finally:
            if is_new and [path.name for path in out.iterdir()] == [LOCK_FILE]:  # refused before anything was written
                (out / LOCK_FILE).unlink()
                out.rmdir()


def finished_plan(out: Path) -> dict[str, Any] | None:
    """The plan of a finished build; empty for one of release 0.1, which kept none; None where nothing is finished.

    Raises InputError for somebody else's files.
    """
    ownership.refuse_foreign(out)
    if not (out / MANIFEST_FILE).exists():
        return None
    path = out / PLAN_FILE
    return read(path) if path.exists() else {}


def finished_chunk_bytes(out: Path) -> int:
    """Bytes a chunk of a finished build. Raises InputError for one of a release that kept no plan."""
    path = out / PLAN_FILE
    if not path.exists():
        raise InputError(f"{path}: missing; this folder does not say how its files were cut: leave --catalog out")
    return int(read(path)["chunk_bytes"])


def refuse_other_plan(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError unless the finished build in `out` is what is asked for now."""
    different = difference(before, now) if before else "it was made by a release that kept no plan"
    if different:
        grow = f" (with --grow_from {out}, what stays the same is not built again)" if before else ""
        raise InputError(
            f"{out}: already holds built data ({MANIFEST_FILE}) of another plan: {different}; choose another --out{grow} or "
            "add --overwrite"
        )


def begin(out: Path, plan: dict[str, Any], overwrite: bool) -> bool:
    """Make `out` ready for `plan`, under the lock; True when an earlier build of the same plan goes on.

    Raises InputError for an unfinished build of another plan, unless `overwrite`.
    """
    path, corpora = out / WORK_FOLDER / PLAN_FILE, [corpus["name"] for corpus in plan["corpora"]]
    if path.exists() and not overwrite:
        if different := difference(read(path), plan):
            raise InputError(
                f"{out}: holds an unfinished build of another plan: {different}; give the same input and options to go on, "
                "add --overwrite to start over, or choose another --out"
            )
        ownership.mark(out, corpora)
        for folder in (out, *out.glob(f"{SHARDS_FOLDER}/*"), *out.glob(f"{WORK_FOLDER}/**/")):
            for left in folder.glob(".*.tmp"):  # by refuse_foreign all of them are ours
                left.unlink(missing_ok=True)
        (out / WORK_FOLDER / STOP_FILE).unlink(missing_ok=True)
        ownership.remove(out, RANKS_FOLDER)  # they tell of this start
        return True
    ownership.mark(out, ownership.marked_corpora(out) or ())  # before what stands for it in 0.1 goes
    for promise in (out / MANIFEST_FILE, path):  # first, so that they never promise what is gone
        promise.unlink(missing_ok=True)
    ownership.remove(out, keep=(LOCK_FILE, MARK_FILE))
    ownership.mark(out, corpora)
    path.parent.mkdir()
    write_json(path, plan)
    return False


def finish(out: Path) -> None:
    """Remove what only an unfinished build needs."""
    ownership.remove(out, WORK_FOLDER)


def keep_plan(out: Path) -> None:
    """Keep the plan in the finished folder, so that the same command again knows that there is nothing to do.

    What it was grown from is left out: the folder is the same as any of this plan.
    """
    write_json(
        out / PLAN_FILE, {key: value for key, value in read(out / WORK_FOLDER / PLAN_FILE).items() if key != GROWN_FROM}
    )


def marker_path(out: Path, corpus: str, index: int, is_final: bool = False) -> Path:
    """Where the marker of a chunk lies; `is_final`: the one after the removal of duplicates."""
    return out / WORK_FOLDER / corpus / f"{index:05d}{'.final' if is_final else ''}.json"


def write_marker(out: Path, corpus: str, index: int, content: dict[str, Any], is_final: bool = False) -> None:
    """Write the marker of a finished chunk."""
    path = marker_path(out, corpus, index, is_final)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def is_done(out: Path, corpus: str, index: int, is_final: bool = False) -> bool:
    """Whether a chunk has its marker."""
    return marker_path(out, corpus, index, is_final).exists()


def read_marker(out: Path, corpus: str, index: int, is_final: bool = False) -> dict[str, Any]:
    """The marker of a finished chunk."""
    return read(marker_path(out, corpus, index, is_final))


def end_of(out: Path, corpus: str) -> dict[str, Any] | None:
    """How it ended: {"chunks": n}, {"error": message} or {"kept": report, "shards": [...]}; None while it has not."""
    path = out / WORK_FOLDER / corpus / END_FILE
    return read(path) if path.exists() else None


def mark_end(out: Path, corpus: str, content: dict[str, Any]) -> None:
    """All chunks of the corpus are done, or it cannot be used."""
    path = out / WORK_FOLDER / corpus / END_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def drop_corpus(out: Path, corpus: str) -> None:
    """Remove the shards of a corpus that cannot be used."""
    for folder in ("", f"{WORK_FOLDER}/{PROVISIONAL_FOLDER}/"):
        ownership.remove(out, f"{folder}{SHARDS_FOLDER}/{corpus}")


def provisional(out: Path) -> Path:
    """Where shards wait for the removal of duplicates."""
    return out / WORK_FOLDER / PROVISIONAL_FOLDER


def keys_path(out: Path, corpus: str, split: str, index: int, kind: str) -> Path:
    """Keys, of some kind, of the rows of a shard that waits for the removal of duplicates; or their sketches."""
    return out / WORK_FOLDER / corpus / f"{kind}-{split}-{index:05d}.npy"


def held_path(out: Path, corpus: str, index: int) -> Path:
    """Hashes of the held-out texts of a chunk."""
    return out / WORK_FOLDER / corpus / f"held-{index:05d}.npy"


def concerned_path(out: Path, corpus: str, index: int) -> Path:
    """The number of lines of a chunk that a change of what is kept out concerns."""
    return out / WORK_FOLDER / corpus / f"concerned-{index:05d}.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(array)
    with written_atomically(path) as aside, open(aside, "wb") as file:  # np.save does not tell that the disk is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def write_stop(out: Path, message: str) -> None:
    """Ask all teams to start nothing new."""
    with written_atomically(out / WORK_FOLDER / STOP_FILE) as aside:
        aside.write_text(message, encoding="utf-8")


def guarded(out: Path, work: Callable[[], None]) -> Failure:
    """Do it; a failure is returned, and tells the other teams at work in `out` to start nothing new."""
    try:
        work()
    except (InputError, OSError) as error:
        with contextlib.suppress(OSError):  # the disk may be full
            write_stop(out, str(error))
        return error
    return None


def is_stopped(out: Path) -> bool:
    """Whether some team has stopped the build."""
    return (out / WORK_FOLDER / STOP_FILE).exists()


def read(path: Path) -> dict[str, Any]:
    """The content of a plan or marker. Raises InputError when it is damaged."""
    try:
        content = read_json(path)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it, and its part of the work is done again") from None
    return dict(content)


def difference(before: Any, now: Any, where: str = "") -> str:
    """The first key in which two plans differ, with both values; '' when they are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if found := difference(before.get(key), now.get(key), f"{where}.{key}" if where else key):
                return found
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return next((found for i, (old, new) in pairs if (found := difference(old, new, f"{where}[{i}]"))), "")
    return "" if before == now else f"{where} was {_brief(before)} and is now {_brief(now)}"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

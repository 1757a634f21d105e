"""Whose folder is it? What a build may write into, and what it may delete.

1. A build marks the folder it makes: MARK_FILE, with the names of its corpora. Release 0.1 wrote no mark; there a
   manifest.json or work/.plan.json that can be read and is of our format stands for it.
2. A folder without a mark belongs to somebody else; it is used only if it is empty.
3. In a marked folder a file is ours by its exact name: of the build, of its ranks, of a corpus that the mark names. Where
   there is any other, nothing is touched.
4. Our files are deleted one by one, and folders only when they are empty; never a folder with unknown content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ernie_m.base.console import InputError
from ernie_m.base.files import LEFT_OVER, read_json, write_json
from ernie_m.corpus.columns import COLUMNS
from ernie_m.corpus.folder import HELD_OUT, MANIFEST_FILE, SHARD_TABLE_FILE, TRAIN
from ernie_m.corpus.manifest import FORMAT_NAME
from ernie_m.corpus.shard_table import SHARDS_FOLDER
from ernie_m.corpus.tokenizer_files import COMPANIONS, TOKENIZER_FILE, TOKENIZER_JSON

MARK_FILE = ".data_prep.json"
LOCK_FILE, WORK_FOLDER, RANKS_FOLDER, PLAN_FILE, END_FILE = ".lock", "work", "ranks", ".plan.json", "end.json"
REPORT_FILE, READABLE_REPORT_FILE = "report.json", "report.txt"
PROVISIONAL_FOLDER, ALIGN_FOLDER = ".provisional", ".align"  # no corpus can be called so
STOP_FILE, KEPT_FILE = ".stop", ".kept.json"
EXCLUDED_FILE, HELD_OUT_FILE = ".excluded.hashes", ".held_out.hashes"
_MARK_FORMAT, _MARK_VERSION = "ernie-m data_prep build", 1
_PLAN_KEYS = {"chunk_bytes", "tokenizer_sha256", "versions", "corpora"}
_TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_JSON, *COMPANIONS)
_TABLES = (SHARD_TABLE_FILE, *(column.table_file for column in COLUMNS.values()))
_TOP_FILES = (*_TOKENIZER_FILES, MANIFEST_FILE, *_TABLES, REPORT_FILE, READABLE_REPORT_FILE, MARK_FILE, PLAN_FILE)
_HIDDEN_FILES = (EXCLUDED_FILE, HELD_OUT_FILE)
_OUR_LOCK = re.compile(r"(process \d+ on [^;]+; [0-9a-f]{16}\n)?")  # empty: its process was killed before it wrote
_NUMBER = r"(\d{5}|[1-9]\d{5,})"
SHOWN = 5


def mark(out: Path, corpora: Iterable[str]) -> None:
    """Say that `out` is a build's, and which corpora it may hold files of."""
    write_json(out / MARK_FILE, {"format": _MARK_FORMAT, "format_version": _MARK_VERSION, "corpora": sorted(corpora)})


def marked_corpora(out: Path) -> set[str] | None:
    """The corpora that a build of ours may have left files of in `out`; None when it is no build's folder."""
    found = [
        _names(_content(out / MARK_FILE), lambda it: it["format"] == _MARK_FORMAT),
        _names(_content(out / MANIFEST_FILE), lambda it: it["format"] == FORMAT_NAME),
        _names(_content(out / WORK_FOLDER / PLAN_FILE), lambda it: set(it) >= _PLAN_KEYS and "ernie_m" in it["versions"]),
    ]
    valid = [names for names in found if names is not None]
    return set().union(*valid) if valid else None


def refuse_unmarked(out: Path) -> None:
    """Raise InputError for a folder that is neither a build's nor empty; safe beside a build that is at work in it."""
    if marked_corpora(out) is None and (foreign := sorted(p.name for p in out.iterdir() if not _is_first_trace(p))):
        more = f" and {len(foreign) - SHOWN:,} more" if len(foreign) > SHOWN else ""
        raise InputError(
            f"{out}: not empty, and no build of ours made it (it has no {MARK_FILE}): it holds "
            f"{', '.join(foreign[:SHOWN])}{more}, which stay as they are; give a new or empty folder with --out"
        )


def refuse_foreign(out: Path) -> None:
    """Raise InputError as `refuse_unmarked`, and for a marked folder that holds what no build wrote; under its lock."""
    refuse_unmarked(out)
    is_our_folder, is_our_file = _patterns(marked_corpora(out) or ())
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_symlink() or not (is_our_folder if path.is_dir() else is_our_file).fullmatch(name):
            raise InputError(
                f"{out}: holds {name}, which is not of a build of ours and stays as it is; move it out of this folder, or "
                "choose another --out"
            )


def remove(out: Path, under: str = ".", keep: Iterable[str] = ()) -> None:
    """Delete what is ours below out/under, but for the files `keep` (relative to `out`)."""
    _, is_our_file = _patterns(marked_corpora(out) or ())
    for folder, _, files in os.walk(out / under, topdown=False):  # does not follow links
        for path in (Path(folder) / name for name in files):
            name = path.relative_to(out).as_posix()
            if name not in keep and is_our_file.fullmatch(name):
                path.unlink(missing_ok=True)
        if Path(folder) != out:
            with suppress(OSError):  # holds what is not ours
                os.rmdir(folder)


def _patterns(corpora: Iterable[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Exact names, relative to the output folder: of our folders, of our files (with those that are being written)."""
    corpus = f"({'|'.join(map(re.escape, corpora)) or '(?!)'})"
    work = re.escape(WORK_FOLDER)
    provisional = f"{work}/{re.escape(PROVISIONAL_FOLDER)}"
    folders = [SHARDS_FOLDER, f"{SHARDS_FOLDER}/{corpus}", RANKS_FOLDER, work, f"{work}/{corpus}"]
    align = f"{work}/{re.escape(ALIGN_FOLDER)}"
    folders += [
        align,
        f"{align}/[^/]+",
        provisional,
        f"{provisional}/{SHARDS_FOLDER}",
        f"{provisional}/{SHARDS_FOLDER}/{corpus}",
    ]
    shard, split = rf"({TRAIN}|{HELD_OUT})-{_NUMBER}(\.({'|'.join(COLUMNS)}))?\.arrow", f"({TRAIN}|{HELD_OUT})"
    chunk = rf"{_NUMBER}(\.final)?\.json|{re.escape(END_FILE)}|((keys|near|sketches)-{split}|held|concerned)-{_NUMBER}\.npy"
    chunk += rf"|drops-(keys|near)-\d+-{_NUMBER}\.npy"
    written = {
        "": "|".join(map(re.escape, (*_TOP_FILES, *_HIDDEN_FILES))),
        f"({provisional}/)?{SHARDS_FOLDER}/{corpus}/": shard,
        f"{RANKS_FOLDER}/": rf"rank-{_NUMBER}\.json",
        f"{work}/": "|".join(map(re.escape, (PLAN_FILE, STOP_FILE, KEPT_FILE, *_HIDDEN_FILES))),
        f"{work}/{corpus}/": chunk,
        f"{align}/": r"plan\.json",
        f"{align}/[^/]+/": r"model\.json|[a-z_]+\.npy",
    }
    files = [rf"{folder}(({name})|\.({name}){LEFT_OVER})" for folder, name in written.items()]
    files += [re.escape(LOCK_FILE)]
    return re.compile("|".join(folders)), re.compile("|".join(files))


def _is_first_trace(path: Path) -> bool:
    """Whether this is what a build leaves that was killed before its mark was there."""
    if path.name == LOCK_FILE and path.is_file() and not path.is_symlink():
        return bool(_OUR_LOCK.fullmatch(path.read_text(encoding="utf-8", errors="replace")))
    return bool(re.fullmatch(rf"\.{re.escape(MARK_FILE)}{LEFT_OVER}", path.name))


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError, RecursionError):
        return None


def _names(content: Any, is_ours: Any) -> set[str] | None:
    """Names of the corpora in a file of ours; None for any other content."""
    try:
        if not is_ours(content):
            return None
        return {str(corpus if isinstance(corpus, str) else corpus["name"]) for corpus in content["corpora"]}
    except (KeyError, TypeError):
        return None

"""The catalog that fetch writes beside the files: entries are added, existing content stays unchanged.

The user may edit it: comments, thresholds and other corpora stay. Several fetches may share it, so it is changed under a
lock beside it. The new text replaces the old one only after `read_catalog` has read it correctly.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_prep.catalog import Corpus, read_catalog
from ernie_m.base.console import InputError
from ernie_m.base.files import written_atomically
from ernie_m.base.language_codes import agree
from ernie_m.base.locks import held_for_a_moment

Entry = dict[str, Any]
"""What a catalog says of a corpus; its path is relative to the user's folder."""
HEAD = "# The corpora that `python -m data_prep fetch` brought here; edit it as you like, fetch only adds to it.\n"
INDENTS = ("  ", "", "    ")


def line_of(entry: Entry) -> str:
    """The catalog's line of an entry, without indentation."""
    text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"- {text.strip()}"


def missing_from(catalog: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Those of `entries` whose file the catalog does not name yet.

    Raises InputError when their name is taken there by another file, when the file of a pair has its languages there in
    another order, or when the catalog cannot be read.
    """
    present = read_catalog(catalog) if catalog.exists() else []
    files = {os.path.abspath(file): corpus for corpus in present for file in corpus.files if isinstance(file, Path)}
    names = {corpus.name.lower(): corpus for corpus in present}
    missing = []
    for entry in entries:
        known = files.get(os.path.abspath(catalog.parent / file_of(entry)))
        if known is None:
            missing.append(entry)
        elif "path" in entry and not _has_languages(known, entry.get("languages", ())):
            raise InputError(
                f"{catalog}: {known.name} has the languages {', '.join(known.languages)}, and {file_of(entry)} would have "
                f"{', '.join(entry['languages'])}; remove that entry, or fetch into a new folder"
            )
    for entry in missing:
        if taken := names.get(entry["name"].lower()):
            raise InputError(
                f"{catalog}: the name {entry['name']} is taken by {taken.files[0]}, wanted for {file_of(entry)}; "
                "give that corpus another name, take it out, or choose another --to"
            )
    return missing


def _has_languages(known: Corpus, pair: Sequence[str]) -> bool:
    """Whether its columns are those of a pair; of a file in one language nothing is asked."""
    return not pair or (len(pair) == len(known.languages) and all(map(agree, known.languages, pair)))


def file_of(entry: Entry) -> str:
    """Its file, or the first of its two."""
    return str(entry.get("path", entry.get("source")))


def add(catalog: Path, entries: Sequence[Entry], beside: Mapping[str, Any] | None = None) -> list[str]:
    """Add what the catalog lacks, creating it; returns the added lines. Raises InputError as `missing_from` does.

    `beside`: what a new one says beside its corpora, such as `exclude`.
    """
    with held_for_a_moment(catalog.with_name(f".{catalog.name}.lock")):
        missing = missing_from(catalog, entries)
        if missing:
            _write(catalog, missing, beside or {})
        return [line_of(entry) for entry in missing]


def _write(catalog: Path, missing: list[Entry], beside: Mapping[str, Any]) -> None:
    more = yaml.safe_dump(dict(beside), sort_keys=False, allow_unicode=True) if beside else ""
    before = catalog.read_text(encoding="utf-8") if catalog.exists() else f"{HEAD}{more}corpora:\n"
    before += "" if before.endswith("\n") else "\n"
    names = [corpus.name for corpus in read_catalog(catalog)] if catalog.exists() else []
    names += [entry["name"] for entry in missing]
    for indent in INDENTS:
        with contextlib.suppress(InputError), written_atomically(catalog) as aside:
            aside.write_text(before + "".join(f"{indent}{line_of(entry)}\n" for entry in missing), encoding="utf-8")
            if [corpus.name for corpus in read_catalog(aside)] != names:
                raise InputError(f"{catalog}: not the list that was wanted")
            return
    lines = " ".join(line_of(entry) for entry in missing)
    raise InputError(f"{catalog}: expected a list with an entry a line, to add to at its end; add by hand: {lines}")

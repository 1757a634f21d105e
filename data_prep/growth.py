"""A finished folder and a changed catalog -> a new folder that takes over what stays the same: only the rest is built.

1. `compared` tells, from what the old folder says of itself, which corpora can be kept and why the others cannot.
2. What is kept out of all corpora (sentences of evaluation sets, what is held out) may have changed. Then the corpora are
   looked through (exclusion/changes.py); one with a line that this concerns is built.
3. Kept shards get a second name in the new folder, by a hard link, and `end.json` holds what the old report says of them.

Copies and near duplicates that are removed across corpora tie these together: such a group is kept whole, or not at all.
The new folder is, byte for byte, what a build of all at once writes; the old one is only read.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep import work_folder
from data_prep.catalog import Catalog, Corpus
from data_prep.estimate import nearest_folder, size
from data_prep.near_duplicates import Near
from data_prep.ownership import PLAN_FILE, REPORT_FILE
from data_prep.plan import described, settings
from data_prep.row_keys import Group, groups_of
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import read_json, sha256_of, written_atomically
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.columns import COLUMNS
from ernie_m.corpus.folder import MANIFEST_FILE, CorpusEntry, Manifest
from ernie_m.corpus.tokenizer_files import companion_hashes

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What link() says on another disk, of somebody else's file, and where there are no hard links."""
CONCERNED = "it has lines that are newly kept out, or no longer"
NEW, COMPANION = "it is new", "it is compared with {other} for repeated lines, which {changed}"


@dataclass(frozen=True)
class Growth:
    """What a new build can take over from the finished folder `old`."""

    old: Path
    manifest_sha256: str
    old_bytes: dict[str, int]
    """Corpus of the old folder -> bytes of its shards."""
    kept: tuple[str, ...]
    """Corpora that can be kept if nothing of them is newly kept out."""
    built: dict[str, str]
    """Corpora of the catalog that have to be built -> why."""
    removed: tuple[str, ...]
    columns: tuple[str, ...]
    """Optional columns of the old folder, which are not taken over."""
    groups: dict[Group, tuple[str, ...]]
    """The old corpora that were compared with each other for repeated lines, in their order."""
    noted: tuple[str, ...]
    """Pairs whose held-out text the old folder has noted, where these are the first ones of the new catalog."""


def compared(old: Path, out: Path, catalog: Catalog, vocabulary: AnyVocabulary, chunk_bytes: int) -> Growth:
    """What can be kept of `old` for `catalog`. Raises InputError where nothing of it can."""
    if out.resolve().is_relative_to(old.resolve()):
        raise InputError(
            f"--grow_from {old}: a finished folder is never changed, since runs know it by its hash; give --out a new "
            "folder (shards that stay the same take no space there), and remove the old one when nothing needs it"
        )
    manifest = Manifest.read(old)
    if not (old / PLAN_FILE).exists():
        raise InputError(f"--grow_from {old}: it was made by a release that kept no plan; build anew, without --grow_from")
    plan = work_folder.read(old / PLAN_FILE)
    try:
        _refuse_other_settings(old, plan, manifest, catalog, vocabulary, chunk_bytes)
        before = {corpus["name"]: corpus for corpus in plan["corpora"]}
        groups = _groups(
            (corpus["name"], corpus["languages"], corpus["deduplicate"], near and Near(**near))
            for corpus in plan["corpora"]
            for near in [corpus.get("deduplicate_near")]
        )
        old_pairs = [name for name, corpus in before.items() if corpus["held_out"] and not plan["allow_held_out"]]
        reports = reports_of(old)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, FileNotFoundError) as error:
        raise InputError(
            f"{old}: its {PLAN_FILE} or {REPORT_FILE} is damaged ({error!r}); build anew, without --grow_from"
        ) from None
    entries = {entry.name: entry for entry in manifest.corpora}
    reasons = {corpus.name: _why_built(corpus, before, entries, reports, old) for corpus in catalog.corpora}
    built = closed(catalog.corpora, groups, {name: reason for name, reason in reasons.items() if reason})
    pairs = [corpus.name for corpus in catalog.corpora if corpus.held_out and not catalog.allow_held_out]
    are_first = pairs[: len(old_pairs)] == old_pairs and not any(name in built for name in old_pairs)
    return Growth(
        old,
        sha256_of(old / MANIFEST_FILE),
        {name: int(entry.shards.bytes.sum()) for name, entry in entries.items()},
        tuple(corpus.name for corpus in catalog.corpora if corpus.name not in built),
        built,
        tuple(name for name in entries if name not in reasons),
        tuple(manifest.columns),
        groups,
        tuple(old_pairs) if are_first else (),
    )


def _refuse_other_settings(
    old: Path, plan: dict[str, Any], manifest: Manifest, catalog: Catalog, vocabulary: AnyVocabulary, chunk_bytes: int
) -> None:
    now = {**settings(catalog.corpora, vocabulary.fingerprint, chunk_bytes), "companions": companion_hashes(vocabulary.path)}
    before = {key: plan[key] for key in ("chunk_bytes", "tokenizer_sha256")}
    before |= {"versions": {**now["versions"], **plan["versions"]}, "companions": manifest.tokenizer_companions}
    now["versions"] = {**plan["versions"], **now["versions"]}  # of filters only some may be asked for
    if different := work_folder.difference(before, now):
        raise InputError(
            f"--grow_from {old}: nothing of it can be kept, since {different}; give what it was built with, or build anew "
            "without --grow_from"
        )


def reports_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Corpus -> what report.json says of it."""
    return {corpus["name"]: corpus for corpus in read_json(folder / REPORT_FILE)["corpora"]}


def _why_built(
    corpus: Corpus,
    before: dict[str, dict[str, Any]],
    entries: dict[str, CorpusEntry],
    reports: dict[str, dict[str, Any]],
    old: Path,
) -> str:
    """Why a corpus cannot be kept; '' where it can."""
    if corpus.name not in before:
        return NEW
    if corpus.name not in entries:
        return "it was left out"
    try:
        if different := work_folder.difference(before[corpus.name], described(corpus)):
            return different
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    entry, folder = entries[corpus.name], old.resolve()
    if not _agrees(entry, reports.get(corpus.name, {})):
        return f"{REPORT_FILE} and {MANIFEST_FILE} do not agree"
    for shard in entry.shards:
        path = old / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            return f"{shard.file} is missing or of another size"
        if path.resolve() != folder / shard.file:  # no build writes one
            return f"{shard.file} is reached by a link"
    return ""


def _agrees(entry: CorpusEntry, report: dict[str, Any]) -> bool:
    try:
        rejected = {reason: found["lines"] for reason, found in report["rejected"].items()}
        counted = report["lines_read"], report["rows"], rejected
        return bool(counted == (entry.lines_read, int(entry.shards.rows.sum()), entry.rejected))
    except (KeyError, TypeError, AttributeError):
        return False


def _groups(corpora: Iterable[tuple[str, Iterable[str], bool | str, Near | None]]) -> dict[Group, tuple[str, ...]]:
    """The corpora of each group, in their order; each as `groups_of` takes it."""
    found: dict[Group, tuple[str, ...]] = {}
    for corpus in corpora:
        for group in groups_of(*corpus):
            found[group] = (*found.get(group, ()), corpus[0])
    return found


def closed(corpora: Collection[Corpus], old: dict[Group, tuple[str, ...]], built: dict[str, str]) -> dict[str, str]:
    """The corpora to be built, and those of a group of which one has to be built or is no longer there.

    What follows on a corpus does not count for it: the last ones of a group may go.
    """
    found, known = dict(built), -1
    groups = _groups((one.name, one.languages, one.deduplicate, one.deduplicate_near) for one in corpora)
    while len(found) > known:  # a corpus may be of two groups
        known = len(found)
        for key, names in groups.items():
            gone = next((was for was, name in zip(old.get(key, ()), names, strict=False) if was != name), None)
            other = next((name for name in names if name in found), gone)
            if other is not None:
                changed = "has to be built" if other in found else "stood before it"
                found |= {name: COMPANION.format(other=other, changed=changed) for name in names if name not in found}
    return found


def without(growth: Growth, corpora: Collection[Corpus], concerned: Iterable[str]) -> Growth:
    """The same without corpora that a change of what is kept out concerns; told to the user."""
    built = closed(corpora, growth.groups, {**growth.built, **dict.fromkeys(concerned, CONCERNED)})
    for name in growth.kept:
        if name in built:
            print(f"  built again: {name} ({size(growth.old_bytes[name])} of shards there): {built[name]}")
    return replace(growth, built=built, kept=tuple(name for name in growth.kept if name not in built))


def told(growth: Growth, corpora: Iterable[Corpus]) -> str:
    """What becomes of each corpus, for people."""
    sizes, files = growth.old_bytes, {corpus.name: corpus.files for corpus in corpora}
    added = [name for name in growth.built if name not in sizes]
    again = [name for name in growth.built if name in sizes]
    kept = sum(sizes[name] for name in growth.kept)
    lines = [
        f"{growth.old}: {len(growth.kept):,} corpora kept ({size(kept)} of shards), {len(added):,} added, "
        f"{len(again):,} built again, {len(growth.removed):,} removed"
    ]
    for name in added:
        num_bytes = sum(path.stat().st_size for path in files[name] if path.is_file())
        lines.append(f"  added: {name} ({size(num_bytes)} of files): {growth.built[name]}")
    lines += [f"  built again: {name} ({size(sizes[name])} of shards there): {growth.built[name]}" for name in again]
    lines += [f"  removed: {name} ({size(sizes[name])} of shards there)" for name in growth.removed]
    lines += [f"  {name} are not taken over: make them again with `{COLUMNS[name].made_by}`" for name in growth.columns]
    return "\n".join(lines)


def copied_bytes(growth: Growth, out: Path) -> int:
    """Bytes of kept shards that have to be copied, since `out` is on another disk."""
    is_near = growth.old.stat().st_dev == nearest_folder(out).stat().st_dev
    return 0 if is_near else sum(growth.old_bytes[name] for name in growth.kept)


def take_over(growth: Growth, kept: Iterable[str], out: Path) -> None:
    """Give each of these corpora a second name in `out`, with what is known of it. What is done is not done again.

    Raises InputError when the old folder is no longer what it was.
    """
    names = [name for name in kept if work_folder.end_of(out, name) is None]
    manifest, reports = Manifest.read(growth.old), reports_of(growth.old)
    entries = {entry.name: entry for entry in manifest.corpora if entry.name in names}
    progress = Progress("take over", sum(len(entry.shards) for entry in entries.values()), "shards")
    for name in names:
        shards = list(entries[name].shards) if name in entries else []
        for shard in shards:
            _linked(growth.old / shard.file, out / shard.file, shard.bytes)
            progress.advance(1)
        if not (growth.old / MANIFEST_FILE).is_file() or sha256_of(growth.old / MANIFEST_FILE) != growth.manifest_sha256:
            raise InputError(f"{growth.old}: somebody builds there; wait for that, then give the same command again")
        work_folder.mark_end(out, name, {"kept": reports[name], "shards": [asdict(shard) for shard in shards]})
    progress.close()


def _linked(source: Path, target: Path, num_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # of a start that was stopped
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise InputError(f"{source}: gone meanwhile; give the same command again") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with written_atomically(target) as aside:
            shutil.copyfile(source, aside)
    if target.stat().st_size != num_bytes:
        raise InputError(f"{source}: changed meanwhile; give the same command again")

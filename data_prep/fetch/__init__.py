"""`python -m data_prep fetch`: public corpora, from their publishers to a folder with a catalog.

1. What: a corpus and languages (`--corpus cc100 --lang sw`), or all that a catalog names (`--catalog ernie_m`).
2. Where from: `sources` knows the addresses, `opus` asks OPUS for those that it alone knows.
   The corpora of its `FROM_PACKAGES` are made of a distribution's packages instead (`from_packages`): `libreoffice`,
   `mozilla` and `gettext` (their texts lie at `places`), `freedict`.
3. `download` brings each file to its final name, resuming what an earlier command left.
4. `catalog_file` names it in `<to>/catalog.yaml`, which `build` reads.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.catalog import read_catalog
from data_prep.connection import GaveUpError, NotFoundError, RetryPolicy, mirrored
from data_prep.fetch import catalog_file, from_packages, opus, sources
from data_prep.fetch.catalog_file import Entry
from data_prep.fetch.download import download
from data_prep.fetch.sources import FROM_PACKAGES, Remote
from data_prep.options import listed
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree, canonical
from ernie_m.base.plain_yaml import load_yaml

OWN = ("cc100", "wikimatrix", "multiun", "iitb")
# OPUS has hundreds; these may be given without the opus/, and are what a typing error is compared with
_OPUS = """
bible-uedin CCAligned CCMatrix DGT EMEA EUbookshop Europarl GlobalVoices JRC-Acquis KDE4 MultiParaCrawl News-Commentary
NLLB OpenSubtitles ParaCrawl QED SETIMES Tanzil Tatoeba TED2013 TED2020 TildeMODEL UNPC Wikipedia XLEnt
"""
OPUS_NAMES = tuple(_OPUS.split())
PAIR = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*)(?:-([A-Za-z]+(?:_[A-Za-z]+)*))?")
SHIPPED = Path(__file__).parents[1]
XNLI = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
PARTS = {"ernie_m_15": ("ernie_m", XNLI)}
"""Parts of shipped catalogs by their languages."""
ROUNDING = 0.95  # published sizes are rounded to two digits


def fetch(
    to: Path,
    corpus: str | None = None,
    lang: str | None = None,
    catalog: str | None = None,
    mirror: str | None = None,
    sha256: str | None = None,
    retry_policy: RetryPolicy | None = None,
    packages: str | None = None,
) -> None:
    """Bring files to the folder `to` and name them in its catalog.yaml; prints a line a file.

    If the server lacks one of several files, the others are fetched nevertheless, and the error comes at the end.
    Raises InputError, GaveUpError, or OSError when the disk is full; the same call again goes on from there.
    """
    retry_policy = retry_policy or RetryPolicy()
    languages = listed("lang", lang, "codes with commas between them, such as sw,am,en")
    chosen = listed("packages", packages, "names with commas between them, such as gedit-common,vlc-l10n")
    mirrored("", mirror)  # a mirror that is none is known at once
    if (corpus is None) == (catalog is None):
        raise InputError("fetch: expected one of --corpus (such as cc100) and --catalog (such as ernie_m), not both")
    if corpus is not None and (own := FROM_PACKAGES.get(corpus.lower())):
        if mirror is not None or sha256 is not None or not languages:
            raise InputError(
                f"--corpus {corpus}: expected --lang, such as de,fr or de-fr, and neither --mirror nor --sha256"
            )
        from_packages.fetch(to, corpus.lower(), [_canonical_pair(text) for text in languages], own, chosen)
        return
    if chosen:
        raise InputError(f"--packages {packages}: expected with --corpus gettext alone")
    beside: dict[str, Any] = {}
    if catalog is not None:
        remotes, beside = _of_catalog(catalog, languages)
    else:
        remotes = _of_corpus(str(corpus), languages, mirror, retry_policy)
    if sha256 is not None and (len(remotes) != 1 or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256)):
        raise InputError(f"--sha256 {sha256}: expected 64 hexadecimal digits, and one file; these are {len(remotes)} files")
    catalog_file.missing_from(to / "catalog.yaml", [remote.entry for remote in remotes])
    to.mkdir(parents=True, exist_ok=True)
    _require_space(to, remotes)
    _bring_all(to, remotes, beside, mirror, sha256 or "", retry_policy)


def _of_corpus(name: str, languages: list[str], mirror: str | None, retry_policy: RetryPolicy) -> list[Remote]:
    known = {word.lower(): word for word in (*OWN, *FROM_PACKAGES, *OPUS_NAMES)}
    found = known.get(name.lower(), name.removeprefix("opus/") if name.startswith("opus/") else "")
    if not opus.NAME.fullmatch(found):
        hint = nearest(name.lower(), known) or ","
        raise InputError(
            f"--corpus {name}: not known{hint} expected {', '.join((*OWN, *FROM_PACKAGES))} or one of OPUS's, Tatoeba say; "
            "write those as opus/NAME, as in opus/infopankki"
        )
    if found == "iitb":
        languages = languages or ["hi"]
    if not languages:
        raise InputError(f"--lang is missing: {name} has many; expected codes such as {_example(found)}")
    if found == "cc100":
        return [remote for code in languages for remote in sources.cc100_files(code)]
    by_pair = {"wikimatrix": sources.wikimatrix_file, "multiun": sources.multiun_file, "iitb": sources.iitb_file}
    find = by_pair.get(found) or partial(opus.opus_file, found, mirror=mirror, retry_policy=retry_policy)
    return [find(*_pair(text)) for text in languages]


def _example(corpus: str) -> str:
    return "sw or sw,am,en" if corpus == "cc100" else "de-en or, with English, de,fr"


def _pair(text: str) -> tuple[str, str]:
    """'de-en' -> ('de', 'en'); 'de' -> ('en', 'de')."""
    found = PAIR.fullmatch(text)
    if found is None or found[1] == (found[2] or "en"):
        raise InputError(f"--lang {text}: expected a pair such as de-en, or de for the pair with English")
    return (found[1], found[2]) if found[2] else ("en", found[1])


def _canonical_pair(text: str) -> tuple[str, str]:
    """A pair in the spelling that files have, whichever was typed: `ron-EN` is ro and en, `zh_hant` zh_Hant."""
    first, second = (canonical(code).replace("-", "_") for code in _pair(text))
    if first == second:
        raise InputError(f"--lang {text}: both are {first}; expected a pair such as de-en, or de for the pair with English")
    return first, second


def _of_catalog(name: str, languages: list[str]) -> tuple[list[Remote], dict[str, Any]]:
    """The files, and what the catalog says beside its corpora."""
    name, part = PARTS.get(name, (name, ()))
    path = SHIPPED / f"{name}_catalog.yaml" if re.fullmatch(r"\w+", name) else Path(name)
    if path.parent == SHIPPED and not path.is_file():
        raise InputError(
            f"--catalog {name}: not shipped; expected ernie_m, ernie_m_15, or the path of a catalog such as ./my.yaml"
        )
    read_catalog(path)  # strictly; what follows may rely on it
    content = load_yaml(path.read_text(encoding="utf-8-sig"))
    entries: list[Entry] = [entry for entry in content.pop("corpora") if not part or {*_languages(entry)} <= {*part}]
    present = {language for entry in entries for language in _languages(entry)}
    for code in languages:
        if not any(agree(language, code, exactly=True) for language in present):
            raise InputError(f"--lang {code}: {path} has no such language{nearest(code, present)}")
    languages = list(map(canonical, languages))
    chosen = [entry for entry in entries if not languages or _is_chosen(_languages(entry), languages)]
    return [sources.remote_of(entry) for entry in chosen], content


def _languages(entry: Entry) -> list[str]:
    return list(map(canonical, entry.get("languages") or [entry["language"]]))


def _is_chosen(languages: list[str], chosen: list[str]) -> bool:
    """Whether all of a corpus's languages are chosen; in a pair, English need not be."""
    needed = set(languages) - {"en"} or {"en"}
    return needed.issubset(chosen)


def _require_space(to: Path, remotes: Sequence[Remote]) -> None:
    """Compare free space with the published sizes before the download begins; each file's real size is checked later."""
    parts = [(to / remote.path.with_name(f"{remote.path.name}.part"), remote) for remote in remotes]
    missing = [(part, remote) for part, remote in parts if not (to / remote.path).exists() and remote.about_bytes]
    here = sum(part.stat().st_size for part, _ in missing if part.exists())
    needed = int(ROUNDING * sum(remote.about_bytes for _, remote in missing)) - here
    free = shutil.disk_usage(to).free
    if needed > free:
        raise InputError(
            f"{to}: CC-100's files alone need about {needed:,} bytes more and the disk has {free:,} free; "
            "expected room for them all; free some space, take another --to, or fewer languages with --lang"
        )


def _bring_all(
    to: Path,
    remotes: Sequence[Remote],
    beside: dict[str, Any],
    mirror: str | None,
    sha256: str,
    retry_policy: RetryPolicy,
) -> None:
    failed: list[NotFoundError | GaveUpError] = []
    for number, remote in enumerate(remotes, start=1):
        path = to / remote.path
        try:
            came = download(mirrored(remote.url, mirror), path, sha256=sha256, hint=remote.hint, retry_policy=retry_policy)
        except (NotFoundError, GaveUpError) as error:
            if len(remotes) == 1:
                raise
            failed.append(error)
            print(f"[{number}/{len(remotes)}] {_told(error)}", file=sys.stderr, flush=True)
            continue
        state = "fetched and whole" if came else "already whole"
        print(f"[{number}/{len(remotes)}] {path}: {state}, {path.stat().st_size:,} bytes", flush=True)
        for line in catalog_file.add(to / "catalog.yaml", [remote.entry], beside):
            print(f"  {to / 'catalog.yaml'}: {line}", flush=True)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(remotes)} files did not come, the rest is whole; give the same command again for "
            f"them; the first: {_told(failed[0])}"
        )


def _told(error: NotFoundError | GaveUpError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, GaveUpError) else str(error)

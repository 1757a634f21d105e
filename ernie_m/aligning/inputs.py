"""Files of pairs and of text, as they are named on the command line -> a catalog for data_prep.

PAIRS has a row for each kind of file. What is obviously no pairs is refused here, by the first lines of a file; everything
else is found by data_prep, which reads the files.
"""

from __future__ import annotations

import bz2
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.base.command_line import listed
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import CODE, canonical
from ernie_m.corpus.manifest import MANIFEST_FILE
from ernie_m.corpus.texts import OPENERS, damage_named

LINES_LOOKED_AT = 200
EXPECTED_TEXT = "LANGUAGE=FILE, e.g. br=wiki.br.txt.gz, several with commas between them"
REPLACED = "\ufffd"  # bytes that are no UTF-8
NAMED = re.compile(r"([A-Za-z]{2,8}(?:_[A-Za-z0-9]+)*)-([A-Za-z]{2,8}(?:_[A-Za-z0-9]+)*)=(.+)")
COMPRESSED: dict[str, Callable[..., Any]] = {**OPENERS, ".bz2": bz2.open}


class Kind(NamedTuple):
    """Files whose names end in one of `endings`, in the catalog's `format`."""

    endings: tuple[str, ...]
    format: str
    check: Callable[[Path, Sequence[str]], None] = lambda path, languages: None


def languages_of(text: str) -> tuple[str, str]:
    """Two codes of `--languages de,en`; raises InputError for anything else."""
    codes = [code.strip() for code in text.split(",")]
    are_codes = len(codes) == 2 and all(map(CODE.fullmatch, codes))
    if not are_codes or len({canonical(code) for code in codes}) != 2:
        raise InputError(
            f"--languages {text}: expected two different codes, of the two sides of the pairs in their order, e.g. de,en"
        )
    return canonical(codes[0]), canonical(codes[1])


def named_languages(given: str) -> tuple[tuple[str, str] | None, str]:
    """(languages in front of a file's name, if there are, and the name) of `de-en=news.tsv`."""
    match = NAMED.fullmatch(given)
    return (languages_of(f"{match[1]},{match[2]}"), match[3]) if match else (None, given)


def data_folder(pairs: str) -> Path | None:
    """The finished data_prep folder that `--pairs` names, if it names one."""
    folder = Path(pairs).expanduser()
    if not folder.is_dir():
        return None
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(
            f"--pairs {pairs}: a folder without {MANIFEST_FILE}; expected files, or one made by `data_prep build`"
        )
    return folder


def catalog_of(pairs: str, text: str | None, languages: tuple[str, str] | None, held_out: float) -> dict[str, Any]:
    """The catalog of these files, its paths absolute; raises InputError for what is missing or is obviously no pairs.

    `languages`: of files that have none in front of their names.
    """
    corpora: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for number, given in enumerate(listed("pairs", pairs, "files with commas between"), start=1):
        own, name = named_languages(given)
        if (both := own or languages) is None:
            raise InputError(
                "--languages is missing: of the two sides of the pairs, in their order, e.g. --languages de,en; or in front "
                f"of each file: --pairs de-en={name}"
            )
        of_file = {"languages": list(both), "held_out": held_out}
        found = _pairs(name, both)
        key = f"{both} {sorted(found.items())}"
        if key in seen:
            raise InputError(
                f"--pairs {given}: the same file as {seen[key]}; name it once (--passes says how often it is read)"
            )
        seen[key] = given
        corpora.append({"name": f"pairs{number}.{'-'.join(both)}", **found, **of_file})
    named = [_text(given) for given in listed("text", text, EXPECTED_TEXT)]
    return {"corpora": corpora + [{"name": f"text{n}.{of['language']}", **of} for n, of in enumerate(named, start=1)]}


def _pairs(name: str, languages: tuple[str, str]) -> dict[str, Any]:
    """The keys of one file of pairs, or of two: with + between them, or with the languages behind a common beginning."""
    if "+" in name and not Path(name).is_file():
        return _two_files([Path(part) for part in name.split("+")], f"--pairs {name}")
    path = Path(name).expanduser()
    for ending in ("", *COMPRESSED):
        sides = [Path(f"{path}.{language}{ending}") for language in languages]
        if not path.is_file() and all(side.is_file() for side in sides):
            return _two_files(sides, f"--pairs {name}")
    if not path.is_file():
        both = " and ".join(f"{path}.{language}" for language in languages)
        raise InputError(f"--pairs {name}: no such file, nor {both}; expected a TSV, TMX or zip, or two files: a.de+a.en")
    for kind in PAIRS:
        if path.name.lower().endswith(kind.endings):
            kind.check(path, languages)
            return {"format": kind.format, "path": str(path.resolve())}
    known = ", ".join(itertools.chain.from_iterable(kind.endings[:1] for kind in PAIRS))
    raise InputError(f"--pairs {name}: not known by its ending; expected {known}, or two files: a.de+a.en")


def _two_files(sides: Sequence[Path], where: str) -> dict[str, Any]:
    if len(sides) != 2:
        raise InputError(f"{where}: {len(sides)} files; expected two, a line of one to a line of the other")
    paths = [side.expanduser() for side in sides]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{where}: {path}: no such file")
    _refuse_copies([*zip(*(_first_lines(path) for path in paths), strict=False)], where)
    return {"format": "moses", "source": str(paths[0].resolve()), "target": str(paths[1].resolve())}


def _text(given: str) -> dict[str, Any]:
    language, equals, name = given.partition("=")
    path = Path(name).expanduser()
    if not equals or not CODE.fullmatch(language):
        raise InputError(f"--text {given}: expected {EXPECTED_TEXT}")
    if not path.is_file():
        raise InputError(f"--text {given}: no such file")
    return {"format": "cc100", "path": str(path.resolve()), "language": language}


def _first_lines(path: Path) -> list[str]:
    opened = COMPRESSED.get(path.suffix.lower(), open)
    with damage_named(path, path.suffix), opened(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
        return [line.rstrip("\r\n") for line in itertools.islice(file, LINES_LOOKED_AT)]


def _check_table(path: Path, languages: Sequence[str]) -> None:
    text = (line for line in _first_lines(path) if line and REPLACED not in line)  # data_prep says what all else is
    rows = [line.split("\t") for line in text]
    wrong = [number for number, row in enumerate(rows, start=1) if len(row) != 2]
    if 2 * len(wrong) > len(rows):
        found = len(rows[wrong[0] - 1])
        plural = "" if found == 1 else "s"
        sides = " and ".join(languages)
        raise InputError(
            f"{path}, line {wrong[0]}: {found} column{plural}; expected two with a tab between them, {sides} (of three, "
            "`cut -f 2,3` takes the last two)"
        )
    _refuse_copies([(row[0], row[1]) for row in rows if len(row) == 2], str(path))


def _refuse_copies(pairs: Sequence[tuple[str, ...]], where: str) -> None:
    """Text that stands on both sides is no translation."""
    alike = sum(source.strip() == target.strip() for source, target in pairs)
    if 2 * alike > len(pairs):
        raise InputError(
            f"{where}: both sides are the same text in {alike} of the first {len(pairs)} pairs; expected two languages"
        )


PAIRS = (
    Kind((".tmx", ".tmx.gz", ".tmx.xz", ".tmx.bz2", ".tmx.zip"), "tmx"),
    Kind((".zip", ".tgz", ".tar.gz"), "moses"),
    Kind((".tsv", ".txt", *(ending + more for ending in (".tsv", ".txt") for more in COMPRESSED)), "tsv", _check_table),
)
"""The first row whose ending a file's name has says what it is."""

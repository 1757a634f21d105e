"""The catalog: a YAML file that names the corpora to read (data_prep/example_catalog.yaml).

It is read strictly: an unknown key, a missing one or a value of the wrong kind is an InputError that says where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep import catalog_values as values
from data_prep.filters import Chosen, read_filters
from data_prep.inputs import Input, input_at
from data_prep.limits import DEFAULT_LIMITS, Limits
from data_prep.many_files import excluded_files, one_file_each
from data_prep.near_duplicates import KEY as NEAR_KEY
from data_prep.near_duplicates import Near, read_near
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.files import read_small
from ernie_m.base.language_codes import CODE, canonical
from ernie_m.base.plain_yaml import load_yaml

DEFAULT_HELD_OUT = 0.005  # of pairs
DEFAULT_THRESHOLD = 1.04  # WikiMatrix's authors' choice
DEFAULT_MAX_CHARACTERS = 20_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

ONE_FILE, TWO_FILES = ("path",), ("source", "target")
COMMON_KEYS = (
    "name",
    "format",
    "min_characters",
    "max_characters",
    "deduplicate",
    NEAR_KEY,
    "limits",
    "normalise",
    "filters",
    "held_out",
)
FOR_ALL = ("filters", NEAR_KEY)
"""Keys that, beside `corpora`, count for every corpus that does not say otherwise."""
TOP_KEYS = ["corpora", *FOR_ALL, "exclude", "allow_held_out"]
REJECT, SPLIT = "reject", "split"
ACROSS = "across"
NONE, NORMALISATIONS = "none", ("nfc", "nfkc")
MONOLINGUAL_KEYS = ("language", "long_lines")
PARALLEL_KEYS = ("languages", "max_length_ratio")


@dataclass(frozen=True)
class Format:
    """What a corpus of one format is made of."""

    num_languages: int
    file_keys: tuple[tuple[str, ...], ...] = (ONE_FILE,)
    """Alternative sets of keys that name files."""
    more_keys: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Every key a corpus of this format may have."""
        own = PARALLEL_KEYS if self.num_languages == 2 else MONOLINGUAL_KEYS
        return [*COMMON_KEYS, *(key for keys in self.file_keys for key in keys), *own, *self.more_keys]


FORMATS = {
    "cc100": Format(1),
    "moses": Format(2, file_keys=(ONE_FILE, TWO_FILES)),
    "tmx": Format(2),
    "wikimatrix": Format(2, more_keys=("threshold",)),
    "multiun": Format(2),
    "iitb": Format(2),
    "tsv": Format(2),
    "jsonl": Format(1, more_keys=("text", "escaped_line_ends")),
    "parquet": Format(1, more_keys=("text", "escaped_line_ends")),
    "documents": Format(1, more_keys=("escaped_line_ends",)),
}


@dataclass(frozen=True)
class Corpus:
    """One corpus of the catalog."""

    name: str
    format: str
    languages: tuple[str, ...]
    """One language, or source and target: canonical BCP 47 codes."""
    files: tuple[Input, ...]
    """One file, or source and target; on a disk or at an address."""
    held_out: float = 0.0
    """Fraction of the pairs, or lines, kept for evaluation."""
    threshold: float = DEFAULT_THRESHOLD
    """WikiMatrix: the least margin score."""
    min_characters: int = 1
    max_characters: int = DEFAULT_MAX_CHARACTERS
    """Of a line, or of each side of a pair."""
    filters: Chosen = ()
    """(name, limit) of the filters that lines have to pass."""
    deduplicate: bool | str = False
    """Remove exact copies of earlier lines (pairs) of this corpus; "across": also of earlier corpora that say so."""
    deduplicate_near: Near | None = None
    """Remove near duplicates of earlier lines (pairs) of this and earlier corpora of the same languages and settings."""
    text: str = "text"
    """JSON lines, Parquet: the key or column of the text."""
    escaped_line_ends: bool = False
    """Documents: a backslash and an n stand for a line end (MADLAD-400)."""
    normalise: str = NONE
    """Unicode normalisation of the texts before anything else: none, nfc or nfkc."""
    limits: Limits = DEFAULT_LIMITS
    """How far its files are believed."""
    long_lines: str = REJECT
    """What becomes of lines of more than max_characters: reject, or split (at spaces; the parts stay one document)."""

    @property
    def is_compared(self) -> bool:
        """Whether its rows are compared with each other, and repeated ones removed."""
        return bool(self.deduplicate or self.deduplicate_near)


@dataclass(frozen=True)
class Catalog:
    """A catalog file: its corpora, in its order, and what counts for all of them."""

    corpora: list[Corpus]
    exclude: tuple[Path, ...] = ()
    """Evaluation sets, whose sentences are kept out of all corpora."""
    allow_held_out: bool = False
    """Whether text that is held out of pairs may stand in other corpora."""


def read_catalog(path: Path) -> list[Corpus]:
    """The corpora of a catalog file, in its order; raises InputError for anything that is not as it should be."""
    return read_whole_catalog(path).corpora


def read_whole_catalog(path: Path) -> Catalog:
    """All that a catalog file says. Raises InputError as `read_catalog`."""
    content = _content(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping with the key `corpora`, got {values.shown(content)}")
    values.refuse_unknown(content, TOP_KEYS, str(path))
    entries = content.get("corpora")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: `corpora` is {values.shown(entries)}, expected a list of corpora")
    read_filters(content.get("filters"), 2, str(path))  # what is wrong is told of the line where it stands
    read_near(content.get(NEAR_KEY), str(path))
    for_all = {key: content[key] for key in FOR_ALL if key in content}
    entries = [{**for_all, **entry} if isinstance(entry, dict) else entry for entry in entries]
    corpora = [_corpus(one, path, index) for index, entry in enumerate(entries) for one in one_file_each(entry, path)]
    names: dict[str, str] = {}
    for corpus in corpora:  # names are folders, and some file systems do not tell cases apart
        if corpus.name.lower() in names:
            raise InputError(f"{path}: the name {corpus.name} is given twice; names are folders, choose another")
        names[corpus.name.lower()] = corpus.name
    return Catalog(corpora, excluded_files(content, path), values.flag(content, "allow_held_out", str(path)))


def _content(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"catalog {path}: no such file; see data_prep/example_catalog.yaml")
    try:
        return load_yaml(read_small(path, encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None


def _corpus(entry: Any, path: Path, index: int) -> Corpus:
    where = f"{path}: corpora[{index}]"
    if not isinstance(entry, dict):
        raise InputError(
            f"{where}: {values.shown(entry)}, expected a mapping such as {{name: cc100.en, format: cc100, ...}}"
        )
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{where}: name is {values.shown(name)}, expected letters, digits, dots and hyphens, e.g. cc100.en")
    where = f"{where} ({name})"
    format_name = entry.get("format")
    if not isinstance(format_name, str) or format_name not in FORMATS:
        hint = nearest(str(format_name), FORMATS)
        raise InputError(f"{where}: format is {values.shown(format_name)}{hint or ','} expected one of {', '.join(FORMATS)}")
    form = FORMATS[format_name]
    values.refuse_unknown(entry, form.keys, where)
    least = values.whole(entry, "min_characters", 1, where)
    most = values.whole(entry, "max_characters", DEFAULT_MAX_CHARACTERS, where)
    if least > most:
        raise InputError(f"{where}: min_characters {least} is above max_characters {most}; no line could be kept")
    return Corpus(
        name=name,
        format=format_name,
        languages=_languages(entry, form, where),
        files=_files(entry, form, where, path.parent),
        held_out=values.number(entry, "held_out", DEFAULT_HELD_OUT * (form.num_languages == 2), (0.0, 1.0), where),
        threshold=values.number(entry, "threshold", DEFAULT_THRESHOLD, (0.0, 10.0), where),
        min_characters=least,
        max_characters=most,
        filters=_filters(entry, form, where),
        deduplicate=ACROSS
        if entry.get("deduplicate") == ACROSS
        else values.flag(entry, "deduplicate", where, f" or {ACROSS}"),
        deduplicate_near=read_near(entry.get(NEAR_KEY), where),
        text=values.text(entry, "text", "text", where),
        escaped_line_ends=values.flag(entry, "escaped_line_ends", where),
        normalise=values.choice(entry, "normalise", (NONE, *NORMALISATIONS), where),
        limits=values.limits(entry, where),
        long_lines=values.choice(entry, "long_lines", (REJECT, SPLIT), where),
    )


def _filters(entry: dict[str, Any], form: Format, where: str) -> Chosen:
    """Those of the entry; `max_length_ratio` is another spelling of one of them."""
    given = entry.get("filters")
    if "max_length_ratio" in entry:
        ratio = values.number(entry, "max_length_ratio", 1.0, (1.0, 100.0), where)
        given = {"length_ratio": ratio, **(given if isinstance(given, dict) else {"preset": given or "none"})}
    return read_filters(given, form.num_languages, where)


def _languages(entry: dict[str, Any], form: Format, where: str) -> tuple[str, ...]:
    key = "language" if form.num_languages == 1 else "languages"
    value = entry.get(key)
    codes = [value] if form.num_languages == 1 else value
    expected = "a code such as en" if form.num_languages == 1 else "two different codes such as [de, en]"
    for code in codes if isinstance(codes, list) else [codes]:
        if isinstance(code, bool):
            raise InputError(f'{where}: {key}: YAML reads an unquoted `no` as false; write "no" in quotes')
        if not isinstance(code, str) or not CODE.fullmatch(code):
            raise InputError(f"{where}: {key} is {values.shown(value)}, expected {expected}")
    if not isinstance(codes, list) or len(codes) != form.num_languages:
        raise InputError(f"{where}: {key} is {values.shown(value)}, expected {expected}")
    try:
        found = tuple(map(canonical, codes))
    except InputError as error:
        raise InputError(f"{where}: {key}: {error}") from None
    if len(set(found)) != len(found):
        raise InputError(f"{where}: {key} is {values.shown(value)}, expected {expected}")
    return found


def _files(entry: dict[str, Any], form: Format, where: str, folder: Path) -> tuple[Input, ...]:
    given = [key for keys in form.file_keys for key in keys if key in entry]
    if tuple(given) not in form.file_keys:
        expected = " or ".join(" and ".join(keys) for keys in form.file_keys)
        raise InputError(f"{where}: has {' and '.join(given) or 'no file'}, expected the key {expected}")
    for key in given:
        if not isinstance(entry[key], str) or not entry[key]:
            raise InputError(
                f"{where}: {key} is {values.shown(entry[key])}, expected a path (relative to the catalog) or an address"
            )
    try:
        return tuple(input_at(entry[key], folder) for key in given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None

"""The bitext files of a folder, in any of the usual layouts, as groups of line-aligned sentences.

tatoeba.fra-eng.{fra,eng}    LASER's pairs               fr-en.{fr,en}    pairs
news.{en,fr,sw}              one text in many languages  {eng_Latn,fra_Latn}.devtest    the same as FLORES has it

Two languages without a common file are joined through English: sentences with the same English line are translations.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ernie_m.base.console import InputError
from ernie_m.base.language_codes import SHORT, macrolanguage
from ernie_m.corpus.aligned_files import read_parallel

PIVOT = "en"
PAIR = re.compile(r"(?:.*\.)?([a-z]{2,3})-([a-z]{2,3})\.([a-z]{2,3})")
MANY_BY_LANGUAGE = re.compile(r"(?P<text>.+)\.(?P<code>[a-z]{2,3})")
MANY_BY_SPLIT = re.compile(r"(?P<code>[a-z]{3})_[A-Z][a-z]{3}\.(?P<text>\w+)")


def pivot_first(languages: Iterable[str]) -> list[str]:
    """In their order, but English in front."""
    return sorted(languages, key=lambda language: (language != PIVOT, language))


@dataclass(frozen=True)
class AlignedSentences:
    """Line-aligned sentences: the same number in each language; sentences of one line translate each other."""

    name: str
    sentences: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(next(iter(self.sentences.values())))


@dataclass(frozen=True)
class BitextFolder:
    """All groups of a folder in the wanted languages; `left_out` says what was not used, and why."""

    groups: tuple[AlignedSentences, ...]
    left_out: tuple[str, ...]

    @property
    def languages(self) -> list[str]:
        """All languages, English first."""
        return pivot_first({language for group in self.groups for language in group.sentences})


@dataclass(frozen=True)
class SharedSentences:
    """Sentences that two languages share: number and line of the group on either side, and whether English joined them."""

    places: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    over_english: bool


def read_bitext(folder: Path, languages: Collection[str], limit: int) -> BitextFolder:
    """The first `limit` lines of every group of `folder`, without those that are blank on some side.

    Raises InputError for a folder that is missing or has nothing in at least two of `languages`, and for files that are
    not aligned.
    """
    if not folder.is_dir():
        raise InputError(f"--bitext {folder}: no such folder")
    found: dict[str, dict[str, Path]] = {}
    nameless = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        named = _named(path, languages)
        if named is None:
            nameless.append(path.name)
        else:
            same = found.setdefault(named[0], {}).setdefault(named[1], path)
            if same != path:
                raise InputError(
                    f"--bitext {folder}: {same.name} and {path.name} are both {named[1]}; keep one of them there"
                )
    known = {name: {k: v for k, v in paths.items() if k in languages} for name, paths in found.items()}
    unknown = sorted({language for paths in found.values() for language in paths if language not in languages})
    left_out = []
    if nameless:
        left_out.append(f"whose names tell no language: {', '.join(nameless)}")
    if unknown:
        left_out.append(f"in languages that the run does not have: {', '.join(unknown)}")
    alone = [next(iter(paths.values())).name for paths in found.values() if len(paths) == 1]
    if alone:
        left_out.append(f"without another side: {', '.join(alone)}")
    groups = [_read(name, paths, limit) for name, paths in sorted(known.items()) if len(paths) > 1]
    if not groups:
        raise InputError(
            f"--bitext {folder}: no aligned files in two languages of the run ({', '.join(sorted(languages))}); expected "
            "tatoeba.fra-eng.fra beside .eng, fr-en.fr beside fr-en.en, or text.en beside text.fr"
        )
    return BitextFolder(tuple(groups), tuple(left_out))


def _named(path: Path, languages: Collection[str]) -> tuple[str, str] | None:
    """Group and language that a file's name tells."""
    pair = PAIR.fullmatch(path.name)
    if pair and pair[3] in (pair[1], pair[2]):
        return path.stem, macrolanguage(pair[3])
    many = MANY_BY_SPLIT.fullmatch(path.name) or MANY_BY_LANGUAGE.fullmatch(path.name)
    if many and ((language := macrolanguage(many["code"])) in SHORT or language in languages):
        return many["text"], language
    return None


def _read(name: str, paths: Mapping[str, Path], limit: int) -> AlignedSentences:
    """Read one group. All files must have as many lines as the first one, which is the English one if there is one."""
    first, *others = pivot_first(paths)
    sides = {}
    for other in others:
        sides[first], sides[other] = (side[:limit] for side in read_parallel([paths[first], paths[other]]))
    kept = [line for line, texts in enumerate(zip(*sides.values(), strict=True)) if all(text.strip() for text in texts)]
    if not kept:
        raise InputError(f"{paths[first]}: no line has text in all of {', '.join(sides)}")
    return AlignedSentences(name, {language: [side[line] for line in kept] for language, side in sides.items()})


def shared_sentences(bitext: BitextFolder) -> dict[tuple[str, str], SharedSentences]:
    """The sentences that each two languages share (in the order of `bitext.languages`), without pairs that share none.

    The largest group that has both, or else the sentences whose English stands in both languages' groups, each once.
    """
    lines_of = {language: _by_english(bitext, language) for language in bitext.languages}
    shared = {}
    for a, b in combinations(bitext.languages, 2):
        direct = [n for n, group in enumerate(bitext.groups) if {a, b} <= set(group.sentences)]
        if direct:
            largest = max(direct, key=lambda n: (len(bitext.groups[n]), -n))
            places = tuple(((largest, line), (largest, line)) for line in range(len(bitext.groups[largest])))
            shared[a, b] = SharedSentences(places, over_english=False)
        elif both := [text for text in lines_of[a] if text in lines_of[b]]:
            shared[a, b] = SharedSentences(tuple((lines_of[a][text], lines_of[b][text]) for text in both), over_english=True)
    return shared


def _by_english(bitext: BitextFolder, language: str) -> dict[str, tuple[int, int]]:
    """English sentence -> group and line of its first translation into `language`."""
    found: dict[str, tuple[int, int]] = {}
    for number, group in enumerate(bitext.groups):
        if language in group.sentences and PIVOT in group.sentences:
            for line, text in enumerate(group.sentences[PIVOT]):
                found.setdefault(text, (number, line))
    return found


def translations(bitext: BitextFolder) -> list[dict[str, tuple[int, int]]]:
    """Every sentence with its translations, language -> (group, line). Those in most languages come first.

    Sentences with the same English are one; groups without English stand for themselves.
    """
    meanings: dict[str | tuple[int, int], dict[str, tuple[int, int]]] = {}
    for number, group in enumerate(bitext.groups):
        for line in range(len(group)):
            key = group.sentences[PIVOT][line] if PIVOT in group.sentences else (number, line)
            for language in group.sentences:
                meanings.setdefault(key, {}).setdefault(language, (number, line))
    return sorted(meanings.values(), key=lambda places: -len(places))

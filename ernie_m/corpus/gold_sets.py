"""Gold links with their sentences: named files of both, en-es=es/test.tsv,en-fr=fr.txt, or links and sentences apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ernie_m.base.command_line import listed
from ernie_m.base.console import InputError
from ernie_m.corpus.aligned_files import read_aligned
from ernie_m.corpus.word_links import GoldPair, check_range, read_gold

EXPECTED = "NAME=FILE of `source ||| target ||| 0-0 1-2` lines, several with commas between"


@dataclass(frozen=True)
class GoldSet:
    """Pairs with their words, and the links between these."""

    pairs: tuple[GoldPair, ...]

    @property
    def words(self) -> list[tuple[Sequence[str], Sequence[str]]]:
        """The words of both sentences of each pair."""
        return [(pair.source or (), pair.target or ()) for pair in self.pairs]


def gold_paths(text: str | None) -> dict[str, Path]:
    """The files of NAME=FILE,NAME=FILE; a FILE alone is named by its stem. Raises InputError where one is missing or named
    twice, or one that `read_gold_sets` refuses."""
    found: dict[str, Path] = {}
    for part in listed("gold", text, EXPECTED):
        name, equals, rest = part.partition("=")
        path = Path(rest if equals else part).expanduser().resolve()
        name = name if equals else path.stem
        if not path.is_file():
            raise InputError(f"--gold {part}: no such file; expected {EXPECTED}")
        if name in found:
            raise InputError(f"--gold {part}: a second set {name}; give it another name, NAME=FILE")
        found[name] = path
    read_gold_sets(found)  # so that a fault shows before anything is trained
    return found


def read_gold_sets(paths: dict[str, Path]) -> dict[str, GoldSet]:
    """The sets of these files. Raises InputError for one without its sentences."""
    sets = {name: GoldSet(tuple(read_gold(path))) for name, path in paths.items()}
    for name, gold in sets.items():
        if any(pair.source is None for pair in gold.pairs):
            raise InputError(
                f"--gold {paths[name]}: links alone; expected the sentences too, as `source ||| target ||| 0-0 1-2` "
                "(`ernie-m evaluate alignment` takes them from other files)"
            )
    return sets


def gold_with_sentences(path: Path, form: str, first_index: int | None, source: Path | None, target: Path | None) -> GoldSet:
    """The set of one file of links; the sentences are its own, or of two files where it has links alone.

    Raises InputError for sentences that nobody gives or that are given twice, and for links outside of them.
    """
    pairs = read_gold(path, form, first_index)
    if all(pair.source is not None for pair in pairs):
        if source is not None or target is not None:
            raise InputError(f"--source, --target: {path} has the sentences itself; leave both out")
        return GoldSet(tuple(pairs))
    if source is None or target is None:
        raise InputError(f"{path}: has links alone; give the sentences with --source and --target")
    sides = read_aligned(source, target)
    if len(sides[0]) != len(pairs):
        raise InputError(f"{path}: links of {len(pairs)} pairs, {source} has {len(sides[0])} lines; expected the same ones")
    found = []
    for number, (pair, *sentences) in enumerate(zip(pairs, *sides, strict=True), 1):
        one, other = (tuple(sentence.split()) for sentence in sentences)
        check_range(sorted(pair.possible), len(one), len(other), f"{path}, pair {number}")
        found.append(replace(pair, source=one, target=other))
    return GoldSet(tuple(found))

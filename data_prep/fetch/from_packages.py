"""Corpora out of a distribution's packages: each names the packages that it needs, and makes its files of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from data_prep.fetch import packages
from data_prep.fetch.packages import Package
from data_prep.fetch.places.segments import PIVOT
from ernie_m.base.console import InputError

LanguagePair: TypeAlias = tuple[str, str]
Key: TypeAlias = tuple[str, ...]
"""What a package is needed for."""


class FromPackages(NamedTuple):
    """What is a corpus's own."""

    needed: Callable[[list[LanguagePair], Path], dict[Key, str]]
    """Of the asked pairs: key -> the name of its package, which apt or the folder has. InputError where neither has one."""
    write: Callable[[Path, list[LanguagePair], dict[Key, Package]], None]
    """(to, the asked pairs, the packages): writes the files and names them in `to`/catalog.yaml."""
    named: Callable[[list[str], Path], dict[Key, str]] | None = None
    """As `needed`, of packages that the user names; None where the languages alone decide."""


def fetch(to: Path, corpus: str, asked: Sequence[LanguagePair], own: FromPackages, chosen: Sequence[str] = ()) -> None:
    """Bring the packages that are not here yet, and make the corpus's files of them; `chosen`: packages that the user names.

    Raises InputError where there is no apt, no package of a language, or one does not come.
    """
    if chosen and own.named is None:
        raise InputError(f"--packages {','.join(chosen)}: --corpus {corpus} takes none; its packages follow from --lang")
    packages.require_apt(corpus)
    folder = to / corpus / "packages"
    needed = own.named([*chosen], folder) if chosen and own.named else own.needed([*asked], folder)
    if own.named is not None:
        _require_same(folder.parent, {*needed.values()})
    brought = dict(zip(needed, packages.bring([*needed.values()], folder), strict=True))
    own.write(to, [*dict.fromkeys(map(_ordered, asked))], brought)


def _require_same(folder: Path, names: set[str]) -> None:
    """Raise InputError where the files in a corpus's folder are of other packages: new ones would replace some of them."""
    before = {*packages.recorded(folder)}
    if different := sorted(before ^ names if before else ()):
        has = "with" if different[0] in before else "without"
        raise InputError(
            f"{folder}: its files are made of {len(before)} packages, {has} {different[0]}, and these are {len(names)}; "
            "give another --to, or the same packages"
        )


def _ordered(pair: LanguagePair) -> LanguagePair:
    """English first, else by the alphabet: a file that is made again has its columns where the catalog says."""
    first, second = sorted(pair, key=lambda language: (language != PIVOT, language))
    return first, second

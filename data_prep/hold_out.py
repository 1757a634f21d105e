"""`python -m data_prep hold-out`: pairs with English, of any corpora, split so that no sentence crosses.

1. Read the pairs of a catalog. The English sentence is the place at which its translations meet, of all languages.
2. `data_prep.fetch.places` holds sentences out, and what is nearly the same out of both sides; two translations of one
   held-out sentence are a held-out pair of languages neither of which is English.
3. It writes the rest as training pairs and as text, and names all in a catalog, as `fetch --corpus libreoffice` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from data_prep.catalog import NAME, Corpus, read_whole_catalog
from data_prep.clean import reasons_told, usable
from data_prep.fetch import pair_files
from data_prep.fetch.places import writing
from data_prep.fetch.places.segments import PIVOT, Segments
from data_prep.fetch.places.splits import Splits
from data_prep.readers import input_bytes, named
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import refuse_existing
from ernie_m.base.language_codes import agree

CATALOG = "catalog.yaml"


def hold_out(catalog: Path, to: Path, name: str, overwrite: bool) -> None:
    """Write text, training pairs and held-out pairs of a catalog's pairs, as corpus `name` of `to`/catalog.yaml.

    Raises InputError for a catalog without pairs with English, for files of that name that are there already, and where what
    is written would stand beside what it is made of, or beside an earlier split of other languages.
    """
    whole = read_whole_catalog(catalog)
    english = {corpus.name: side for corpus in whole.corpora if (side := _side_of_english(corpus)) is not None}
    pairs = [corpus for corpus in whole.corpora if corpus.name in english and corpus.held_out < 1]
    if not pairs:
        raise InputError(
            f"{catalog}: no corpus of pairs with `{PIVOT}`, through which translations meet; expected at least one of which "
            "not all is held out"
        )
    languages = sorted({PIVOT, *(corpus.languages[1 - english[corpus.name]] for corpus in pairs)})
    _refuse_name(name, languages)
    _refuse_own_input(catalog, to, name, pairs)
    refuse_existing("--to", to / name, overwrite=overwrite)
    _refuse_other_languages(to, name, languages)
    for corpus in whole.corpora:
        if corpus not in pairs:
            is_pair, codes = corpus.name in english, " ".join(corpus.languages)
            reason = "all of it is held out" if is_pair else f"{codes} are no pair with {PIVOT}"
            print(f"{corpus.name}: passed over, {reason}", flush=True)
    if whole.exclude:
        print(f"{catalog}: `exclude` is not taken over; write it into {to / CATALOG} too, and a build keeps these out")
    segments: Segments = {}
    left_out = {corpus.name: Counter[str]() for corpus in pairs}
    progress = Progress("reading", sum(map(input_bytes, pairs)), "bytes")
    for corpus in pairs:
        with named(corpus):
            _read(corpus, english[corpus.name], segments, progress, left_out[corpus.name])
    progress.close()
    for corpus_name, reasons in left_out.items():
        if reasons:
            print(f"{corpus_name}: lines left out: {reasons_told(reasons)}", flush=True)
    splits = Splits(((page, texts[PIVOT]) for (page, _), texts in segments.items()), by_text=True)
    asked = [(PIVOT, language) for language in languages if language != PIVOT]
    writing.write(to, name, asked, languages, segments, splits, ())


def _side_of_english(corpus: Corpus) -> int | None:
    """Which side of a pair is English: `en`, or else that of a region. None where neither is, or both may be."""
    for exactly in (True, False):
        sides = [side for side, language in enumerate(corpus.languages) if agree(language, PIVOT, exactly)]
        if len(corpus.languages) == 2 and len(sides) == 1:
            return sides[0]
    return None


def _refuse_name(name: str, languages: Sequence[str]) -> None:
    longest = max((pair_files.held_out_name(name, pair) for pair in combinations(languages, 2)), key=len)
    if not NAME.fullmatch(name) or name == CATALOG:
        raise InputError(f"--name {name}: expected letters, digits, dots and hyphens, e.g. tatoeba")
    if not NAME.fullmatch(longest):
        raise InputError(f"--name {name}: too long, a corpus would be called {longest}; expected a shorter one")


def _refuse_own_input(catalog: Path, to: Path, name: str, pairs: Sequence[Corpus]) -> None:
    """Beside what they are made of, held-out pairs would be trained on; in its place, it would be lost."""
    if (to / CATALOG).exists() and (to / CATALOG).samefile(catalog):
        raise InputError(f"--to {to}: its {CATALOG} is --catalog and would name the pairs twice; give another folder")
    folder = (to / name).resolve()
    for corpus in pairs:
        for file in corpus.files:
            if isinstance(file, Path) and file.resolve().is_relative_to(folder):
                raise InputError(f"--to {to}: {corpus.name} of {catalog} lies in {to / name}; give another --to or --name")


def _refuse_other_languages(to: Path, name: str, languages: Sequence[str]) -> None:
    """Files of an earlier command that this one does not replace: what it trains on may be held out now."""
    ours = {pair_files.text_file(name, language) for language in languages}
    for pair in combinations(languages, 2):
        ours |= {pair_files.table_file(name, pair), *(pair_files.held_out_file(name, pair, code) for code in pair)}
    for path in sorted((to / name).rglob(f"{name}.*")):
        if str(path.relative_to(to)) not in ours:
            raise InputError(
                f"--to {to}: {path} is of other languages than {', '.join(languages)}, and may be split otherwise; "
                f"remove it and its entry of {to / CATALOG}, or give another --name"
            )


def _read(corpus: Corpus, english: int, segments: Segments, progress: Progress, left_out: Counter[str]) -> None:
    """Add each sentence's first translation to what its English sentence has."""
    other = corpus.languages[1 - english]
    for texts in usable(corpus, progress.advance, left_out):
        pair = [" ".join(text.split()) for text in texts]
        segments.setdefault((pair[english], ""), {PIVOT: pair[english]}).setdefault(other, pair[1 - english])

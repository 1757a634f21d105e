"""`python -m data_prep hold-out`: pairs with English, of any corpora, split so that no sentence crosses.

1. Read the pairs of a catalog. The English sentence is the place at which its translations meet, of all languages.
2. `data_prep.fetch.places` holds sentences out, and what is nearly the same out of both sides; two translations of one
   held-out sentence are a held-out pair of languages neither of which is English.
3. It writes the rest as training pairs and as text, and names all in a catalog, as `fetch --corpus libreoffice` does.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.catalog import NAME, Corpus, read_catalog
from data_prep.clean import usable
from data_prep.fetch.places import writing
from data_prep.fetch.places.segments import PIVOT, Segments
from data_prep.fetch.places.splits import Splits
from data_prep.readers import input_bytes, named
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import refuse_existing


def hold_out(catalog: Path, to: Path, name: str, overwrite: bool) -> None:
    """Write text, training pairs and held-out pairs of a catalog's pairs, as corpus `name` of `to`/catalog.yaml.

    Raises InputError for a catalog without pairs with English, and for files of that name that are there already.
    """
    corpora = read_catalog(catalog)
    pairs = [corpus for corpus in corpora if PIVOT in corpus.languages and len(corpus.languages) == 2]
    if not pairs:
        raise InputError(
            f"{catalog}: no corpus of pairs with `{PIVOT}`, through which translations meet; expected at least one"
        )
    if not NAME.fullmatch(name):
        raise InputError(f"--name {name}: expected letters, digits, dots and hyphens, e.g. tatoeba")
    refuse_existing("--to", to / name, overwrite=overwrite)
    for corpus in corpora:
        if corpus not in pairs:
            print(f"{corpus.name}: passed over, {' '.join(corpus.languages)} are no pair with {PIVOT}", flush=True)
    segments: Segments = {}
    progress = Progress("reading", sum(map(input_bytes, pairs)), "bytes")
    for corpus in pairs:
        with named(corpus):
            _read(corpus, segments, progress)
    progress.close()
    languages = sorted({language for corpus in pairs for language in corpus.languages})
    splits = Splits(((page, texts[PIVOT]) for (page, _), texts in segments.items()), by_text=True)
    (to / name).mkdir(parents=True, exist_ok=True)
    asked = [(PIVOT, language) for language in languages if language != PIVOT]
    writing.write(to, name, asked, languages, segments, splits, ())


def _read(corpus: Corpus, segments: Segments, progress: Progress) -> None:
    """Add each sentence's first translation to what its English sentence has."""
    english = corpus.languages.index(PIVOT)
    other = corpus.languages[1 - english]
    for texts in usable(corpus, progress.advance):
        pair = [" ".join(text.split()) for text in texts]
        segments.setdefault((pair[english], ""), {PIVOT: pair[english]}).setdefault(other, pair[1 - english])

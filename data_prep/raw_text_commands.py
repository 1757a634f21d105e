"""The commands that bring raw text and its catalog, `embed`, `fetch` and `hold-out`: methods of data_prep's `Commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.base.ranges import Range


def embed(
    self: object,
    *,
    out: str,
    seed: Annotated[int, Range(least=0, most=2**31 - 1, zero="a seed like others")] = 0,
    lines: Annotated[int, Range(least=1, most=10**8)] = 5000,
    pairs: Annotated[int, Range(least=1, most=10**8)] = 5000,
    held_out: Annotated[int, Range(least=0, most=10**8, zero="none")] = 500,
    overwrite: bool = False,
) -> None:
    """Generate the embedded corpus: true sentences from CLDR, parallel in 12 languages, in the formats users have.

    Needs Babel (pip install babel). The same seed gives the same bytes; there is no limit to the size.

    Args:
        out: folder to write: cc100/, parallel/, heldout/ (line-aligned, nowhere in the rest) and catalog.yaml.
        seed: of the facts.
        lines: monolingual lines a language.
        pairs: translation pairs of each language with English.
        held_out: held-out pairs of each language with English.
        overwrite: replace files of other content that are already there.
    """
    from data_prep.embedded import embed

    embed(out, seed, lines, pairs, held_out, overwrite)


def fetch(
    self: object,
    *,
    to: str,
    corpus: str | None = None,
    lang: str | None = None,
    catalog: str | None = None,
    mirror: str | None = None,
    sha256: str | None = None,
    most_gb: Annotated[float, Range(above=0, most=1e6)] = 16,
    packages: str | None = None,
) -> None:
    """Download corpora from their publishers and list them in a catalog; the same command again continues.

        python -m data_prep fetch --corpus cc100 --lang sw,am,en --to raw/
        python -m data_prep fetch --corpus Tatoeba --lang de-en --to raw/
        python -m data_prep fetch --catalog ernie_m --to raw/
        python -m data_prep fetch --corpus libreoffice --lang de,br,de-br --to raw/
        python -m data_prep fetch --corpus freedict --lang br-fr,cy --to raw/
        python -m data_prep fetch --corpus gettext --lang br,cy --to raw/

    Give either --corpus or --catalog. Complete files are not fetched again; incomplete ones are named `<name>.part`.

    Args:
        to: folder for the files; its catalog.yaml gets an entry for each file, and is not changed otherwise.
        corpus: cc100, wikimatrix, multiun, iitb, one of OPUS's such as Tatoeba (all others as opus/NAME), or out of
            Debian's packages, where there is apt, libreoffice, mozilla and gettext (exact pairs of many languages, with
            text and held-out pairs) and freedict (words and phrases of dictionaries, with held-out words).
        lang: codes with commas between them: sw,am,en for CC-100; pairs such as de-en for the others, or de for
            the pair with English. With --catalog, only these languages of it (and their pairs with English).
        catalog: ernie_m (96 languages of CC-100 and 14 parallel ones, shipped), ernie_m_15 (XNLI's of it), or a YAML
            file, all of it.
        mirror: another server, in the place of scheme and host, e.g. https://mirror.example.org; the paths stay.
        sha256: of the file, when you know it and it is one.
        most_gb: GiB after which an answer is ended whose server does not tell how long it is.
        packages: with --corpus gettext, whose messages are read: names of packages such as gedit-common,vlc-l10n, and of
            sets: windows (75 programs; default), everyday (30: tales of games, families, money, places).
    """
    from data_prep.connection import RetryPolicy
    from data_prep.fetch import fetch

    policy = RetryPolicy(most_unknown_bytes=int(most_gb * 2**30))
    fetch(Path(to), corpus, lang, catalog, mirror, sha256, policy, packages)


def hold_out(self: object, *, catalog: str, to: str, name: str = "pairs", overwrite: bool = False) -> None:
    """Split pairs with English into training text, training pairs and held-out pairs, also between other languages.

        python -m data_prep fetch --corpus Tatoeba --lang ar,de,ja --to raw/
        python -m data_prep hold-out --catalog raw/catalog.yaml --to fetched/ --name tatoeba

    A twentieth of the English sentences is held out, for all languages at once, by a hash of their words, so that no
    English sentence of one pair is trained on in another; one that shares seven of ten words with a sentence to train on
    is in neither part. Held-out pairs between other languages are translations of one sentence
    (fetched/tatoeba/held_out/tatoeba.ar-de.ar). A translation that another English sentence has as well may stand among
    the training pairs: a build of the catalog keeps it out of them. Of each English sentence of three words or more the
    first translation is taken, of those that begin with the same five words eight. Both sides are text as well, each
    sentence a document of its own. All of it is in memory, about 1 KB a pair.

    Args:
        catalog: YAML file with the corpora, as for `build`; those that are no pairs with English (en, or en-GB and the
            like), and those of `held_out: 1`, are passed over. Its `exclude` is for you to take over.
        to: folder for the files, another than the catalog's; its catalog.yaml gets an entry for each, and is not changed
            otherwise.
        name: of the corpus that is made, and of its folder in `to`.
        overwrite: replace the files of that name that are already there.
    """
    from data_prep.hold_out import hold_out

    hold_out(Path(catalog), Path(to), name, overwrite)
